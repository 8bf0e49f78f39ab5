"""/etc/hostname, /etc/hosts and /etc/resolv.conf of a pod without a pause container.

containerd's CRI makes them together with the pause container only; a shim that makes the sandbox has to make them too.
Their content is that of containerd's. Source: its internal/cri/server/podsandbox/sandbox_run_linux.go.
"""

import os
from typing import Any

from kata.errors import HostError
from kata.protocol.messages.cri import DnsConfig, PodSandboxConfig
from kata.sys import linux

_SIZE = "size=1m,nr_inodes=16,mode=0755"
"""Containers may write to the files, and that takes memory of the host."""

_SAFE = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


def make_pod_files(directory: str, pod: PodSandboxConfig) -> list[dict[str, Any]]:
    """Write the files into `directory` and return the mounts of an OCI spec that show them. Raise HostError.

    They are in a small file system of their own, which only this process's mount namespace has.
    """
    contents = {
        "/etc/hostname": f"{find_hostname(pod)}\n".encode(),
        "/etc/hosts": _read("/etc/hosts"),
        "/etc/resolv.conf": _list_name_servers(pod.dns_config),
    }
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        linux.mount("kata-pod", directory, "tmpfs", _SAFE, _SIZE)
        return [_write(directory, place, content) for place, content in contents.items()]
    except OSError as error:
        raise HostError(f"the pod's files cannot be made in {directory}: {error.strerror}") from error


def find_hostname(pod: PodSandboxConfig) -> str:
    """Return the pod's name, which is the host's where the CRI gives none."""
    return pod.hostname or os.uname().nodename


def _list_name_servers(config: DnsConfig | None) -> bytes:
    """Return the content of resolv.conf: the host's where the CRI says nothing at all."""
    if config is None:
        return _read("/etc/resolv.conf")
    lines = [f"search {' '.join(config.searches)}"] if config.searches else []
    lines += [f"nameserver {server}" for server in config.servers]
    lines += [f"options {' '.join(config.options)}"] if config.options else []
    return "".join(f"{line}\n" for line in lines).encode()


def _read(path: str) -> bytes:
    """Return what a file of the host holds, nothing where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _write(directory: str, place: str, content: bytes) -> dict[str, Any]:
    path = os.path.join(directory, os.path.basename(place))
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, 0o644)
    return {"destination": place, "type": "bind", "source": path, "options": ["rbind", "rprivate"]}
