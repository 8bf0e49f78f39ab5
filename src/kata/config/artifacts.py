"""Where the guest's kernel and root file system are."""

import os
from typing import NamedTuple

from kata.config.model import HypervisorConfig
from kata.errors import ConfigError

_HINT = "run `make install`, or `kata-image kernel` and `kata-image rootfs`"


class Artifacts(NamedTuple):
    """A kernel with either an image (read-only disk) or an initrd; the other is empty."""

    kernel: str
    image: str = ""
    initrd: str = ""


def find_prefix() -> str:
    """Return the prefix that this program is installed under: /usr/local for a source tree."""
    here = os.path.realpath(__file__)
    prefix, _, rest = here.partition("/lib/kata/kata/")
    return prefix if rest else "/usr/local"


def find_artifacts(config: HypervisorConfig) -> Artifacts:
    """Return what the configuration names, else the built kernel and image, else Debian's kernel with its initrd.

    The built kernel is the ELF file, which need not unpack itself. Raise ConfigError that names what is missing.
    """
    share = f"{find_prefix()}/share/kata-containers"
    if config.image and config.initrd:
        raise ConfigError("image and initrd are both set", hint="a guest has one of them as its root")
    built = f"{share}/vmlinux.container"
    if not config.kernel and not os.path.exists(built):
        return _check(
            Artifacts(f"{share}/vmlinuz-debian.container", initrd=f"{share}/kata-containers-initrd-debian.img")
        )
    kernel = config.kernel or built
    if config.initrd:
        return _check(Artifacts(kernel, initrd=config.initrd))
    return _check(Artifacts(kernel, image=config.image or f"{share}/kata-containers.img"))


def _check(artifacts: Artifacts) -> Artifacts:
    for path in (artifacts.kernel, artifacts.image, artifacts.initrd):
        if path and not os.path.exists(path):
            raise ConfigError(f"guest artefact {path} does not exist", hint=_HINT)
    return artifacts
