"""What the agent is told of a sandbox as a whole, before any container of it."""

import os
from typing import Any

from kata.config.model import Configuration
from kata.protocol.messages import agent as wire
from kata.sandbox.guestpaths import GUEST_SHARE, GUEST_SHM
from kata.sandbox.nameserver import read_name_servers
from kata.sandbox.vm import SHARE_TAG

_HOSTNAME_LIMIT = 64
_SHM_SIZE = 64 << 20
_UNITS = {"k": 10, "m": 20, "g": 30}
"""Suffixes of the option `size` of tmpfs(5), as powers of two."""

_SHARE = wire.Storage(
    driver="virtio-fs", source=SHARE_TAG, fstype="virtiofs", options=["nodev"], mount_point=f"{GUEST_SHARE}/"
)


def describe_sandbox(
    sandbox_id: str, spec: dict[str, Any], config: Configuration, *, shared: bool
) -> wire.CreateSandboxRequest:
    """Return the request for the sandbox whose first container has the OCI `spec`.

    `shared` says whether the VM shares files of the host.
    """
    shm = wire.Storage(
        driver="ephemeral",
        source="shm",
        fstype="tmpfs",
        options=["noexec", "nosuid", "nodev", "mode=1777", f"size={_find_shm_size(spec)}"],
        mount_point=GUEST_SHM,
    )
    return wire.CreateSandboxRequest(
        hostname=find_host_name(spec),
        dns=read_name_servers(spec),
        sandbox_id=sandbox_id,
        storages=[_SHARE, shm] if shared else [shm],
        guest_hook_path=config.hypervisor.guest_hook_path,
        kernel_modules=[_parse_module(text) for text in config.agent.kernel_modules],
    )


def find_host_name(spec: dict[str, Any]) -> str:
    """Return the host name of a sandbox's first container, as long as the kernel takes it."""
    return str(spec.get("hostname") or "")[:_HOSTNAME_LIMIT]


def _parse_module(text: str) -> wire.KernelModule:
    """Read a kernel module with its parameters, as a word and those after it."""
    name, *parameters = text.split()
    return wire.KernelModule(name=name, parameters=parameters)


def _find_shm_size(spec: dict[str, Any]) -> int:
    """Return the bytes of the engine's own /dev/shm, which the guest's is to have too."""
    for mount in spec.get("mounts") or []:
        if mount.get("destination") != "/dev/shm":
            continue
        for option in mount.get("options") or []:
            key, _, value = option.partition("=")
            number, unit = (value[:-1], value[-1].lower()) if value[-1:].lower() in _UNITS else (value, "")
            if key == "size" and number.isdecimal():
                return int(number) << _UNITS.get(unit, 0)
        if mount.get("source") and os.path.ismount(mount["source"]):
            status = os.statvfs(mount["source"])
            return status.f_blocks * status.f_frsize
    return _SHM_SIZE
