"""Where the configuration is looked for."""

import os

from kata.config.artifacts import find_prefix
from kata.config.model import DEFAULT_DRIVER, OTHER_DRIVERS
from kata.errors import ConfigError, UnsupportedError

ETC_PATH = "/etc/kata-containers/configuration.toml"


def list_config_paths(flavour: str = "") -> list[str]:
    """Return the places where a configuration is looked for, the first that exists wins.

    `flavour` is what the runtime's name adds: `qemu` of kata-qemu, with files called configuration-qemu.toml.
    """
    paths = [ETC_PATH, f"{find_prefix()}/share/defaults/kata-containers/configuration.toml"]
    if flavour:
        return [f"{path.removesuffix('.toml')}-{flavour}.toml" for path in paths]
    return paths


def find_config(flavour: str = "") -> str | None:
    """Return the configuration of a flavour, or the usual one, or None where there is none: then all is default.

    Raise UnsupportedError for a hypervisor without a driver, ConfigError for another flavour without a file of its own.
    """
    for path in list_config_paths(flavour):
        if os.path.exists(path):
            return path
    if flavour in ("", DEFAULT_DRIVER):
        return find_config() if flavour else None
    if flavour in OTHER_DRIVERS:
        raise UnsupportedError(
            f"there is no driver for the hypervisor {flavour}", hint="io.containerd.kata-qemu.v2 is QEMU"
        )
    places = " nor ".join(list_config_paths(flavour))
    raise ConfigError(f"the runtime kata-{flavour} has no configuration", hint=f"there is neither {places}")
