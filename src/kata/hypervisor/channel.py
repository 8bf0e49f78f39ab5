"""How host and guest talk: kernel vsock where the host has it, else a byte stream over virtio-serial."""

import os

from kata.errors import ConfigError, UnsupportedError
from kata.hypervisor.driver import Capabilities, Channel

AGENT_PORT = 1024
LOG_PORT = 1025
DEBUG_CONSOLE_PORT = 1026

VHOST_VSOCK = "/dev/vhost-vsock"


def format_port_name(port: int) -> str:
    """The name by which the guest finds the virtio-serial port that stands for a vsock port."""
    return f"kata.vport.{port}"


def choose_guest_channel(capabilities: Capabilities, wanted: str = "auto", *, device: str = VHOST_VSOCK) -> Channel:
    """The best channel that the driver and this host have, or the one the operator wants.

    Raise UnsupportedError when the wanted one is not possible here, ConfigError when there is no such channel.
    """
    possible = [channel for channel in capabilities.channels if channel != "vsock" or _can_open(device)]
    if wanted == "auto":
        if not possible:
            raise UnsupportedError(
                "the hypervisor has no way to talk to its guest on this host", hint="modprobe vhost_vsock"
            )
        return possible[0]
    for channel in capabilities.channels:
        if channel == wanted:
            if channel in possible:
                return channel
            raise UnsupportedError(
                f"{device} cannot be opened, so guests have no kernel vsock", hint="modprobe vhost_vsock"
            )
    raise ConfigError(
        f"no guest channel is called {wanted!r}", hint=f"one of: auto, {', '.join(capabilities.channels)}"
    )


def _can_open(device: str) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True
