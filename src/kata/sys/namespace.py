"""Namespaces of the calling process."""

import errno

from kata.errors import HostError
from kata.sys import linux
from kata.sys.mount import set_propagation


def enter_private_mount_namespace() -> None:
    """Give this process mounts of its own, which vanish with it. Call before the first thread starts.

    The copy follows the host's (slave), so that a volume mounted on the host later is still seen, and nothing that is
    mounted here gets out. Raise HostError in a chroot whose root is no mount point: it cannot be cut off from the host.
    """
    linux.unshare(linux.CLONE_NEWNS)
    try:
        set_propagation("/", linux.MS_SLAVE, recursive=True)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise HostError(
            "/ is not a mount point, so a sandbox cannot have mounts of its own",
            hint="before chroot, make the directory a mount point: mount --bind DIRECTORY DIRECTORY",
        ) from error
