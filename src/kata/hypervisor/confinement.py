"""How a VMM is kept from the host: a user of its own, no capabilities, no way to new ones, gone with its parent."""

import os
import stat

from kata.errors import UnsupportedError
from kata.hypervisor.accelerator import Accelerator
from kata.hypervisor.vmmuser import derive_user_id


def confine(argv: list[str], sandbox_id: str, accelerator: Accelerator) -> list[str]:
    """The command line that runs `argv` confined, by setpriv(1).

    setpriv sets the death signal after the user: a change of user would clear it (prctl(2), PR_SET_PDEATHSIG).
    Without root (tests, rootless use) the user stays.
    """
    prefix = ["setpriv", "--no-new-privs", "--pdeathsig", "KILL"]
    if os.geteuid() == 0:
        user = str(derive_user_id(sandbox_id))
        groups = _find_kvm_group() if accelerator == "kvm" else None
        wanted = ["--clear-groups"] if groups is None else ["--groups", str(groups)]
        prefix += ["--reuid", user, "--regid", user, *wanted, "--inh-caps=-all"]
    return [*prefix, "--", *argv]


def _find_kvm_group(device: str = "/dev/kvm") -> int | None:
    """The group that may use KVM; None when everybody may."""
    status = os.stat(device)
    if status.st_mode & stat.S_IROTH and status.st_mode & stat.S_IWOTH:
        return None
    if status.st_mode & stat.S_IRGRP and status.st_mode & stat.S_IWGRP:
        return status.st_gid
    raise UnsupportedError(
        f"{device} is open to its owner alone, and a VMM runs under a user of its own",
        hint=f"chgrp kvm {device} && chmod 0660 {device}",
    )
