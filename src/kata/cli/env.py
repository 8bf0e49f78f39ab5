"""`env`: what this runtime would use on this host, in upstream's tables."""

import json
import os
import platform
from typing import Any

from kata import __version__
from kata.cli.invocation import Invocation
from kata.config.artifacts import find_artifacts
from kata.config.load import load_configuration
from kata.config.model import NO_SHARED_FS, Configuration
from kata.errors import KataError
from kata.hypervisor.accelerator import choose_accelerator
from kata.hypervisor.channel import choose_guest_channel
from kata.hypervisor.driver import open_hypervisor
from kata.protocol.oci.default import OCI_VERSION
from kata.storage.virtiofsd import find_virtiofsd

_FORMAT_VERSION = "1.0.27"
"""Of upstream's document, whose tables these are."""


def run_env(invocation: Invocation) -> int:
    path = str(invocation.globals["config"] or invocation.globals["kata-config"]) or None
    document = describe_environment(load_configuration(path), invocation.root)
    print(json.dumps(document, indent=2) if invocation.switch("json") else format_toml(document))
    return 0


def describe_environment(config: Configuration, root: str) -> dict[str, dict[str, Any]]:
    """Return table by table what would be used. What cannot be found says so in its place.

    `Ignored` lists what the configuration says without effect, and why.
    """
    return {
        "Meta": {"Version": _FORMAT_VERSION},
        "Runtime": {
            "Version": __version__,
            "OCI": OCI_VERSION,
            "Path": "kata-runtime",
            "Config": config.source or "built-in defaults",
            "Root": root,
            "Debug": config.runtime.enable_debug,
            "CreateContainerTimeout": config.runtime.create_container_timeout,
            "DisableGuestSeccomp": config.runtime.disable_guest_seccomp,
        },
        "Hypervisor": _describe_hypervisor(config, root),
        **_describe_artifacts(config),
        "Agent": {
            "Debug": config.agent.enable_debug,
            "DebugConsole": config.agent.debug_console_enabled,
            "DialTimeout": config.agent.dial_timeout,
        },
        "Host": _describe_host(),
        "Ignored": {"Options": [str(remark) for remark in config.remarks]},
    }


def _describe_hypervisor(config: Configuration, root: str) -> dict[str, Any]:
    settings = config.hypervisor
    table: dict[str, Any] = {
        "Name": config.driver,
        "Path": settings.path,
        "DefaultVCPUs": settings.default_vcpus,
        "DefaultMemory": settings.default_memory,
        "DefaultMaxVCPUs": settings.default_maxvcpus,
        "DefaultMaxMemory": settings.default_maxmemory,
        "EnableAnnotations": list(settings.enable_annotations),
        "SharedFS": settings.shared_fs,
    }
    try:
        hypervisor = open_hypervisor(config.driver, settings, root)
        capabilities = hypervisor.find_capabilities()
        table["Path"] = hypervisor.path
        table["Version"] = hypervisor.version
        table["Accelerator"] = capabilities.accelerator
        table["SharedFS"] = settings.shared_fs if capabilities.fs_share else NO_SHARED_FS
        table["AcceleratorReason"] = choose_accelerator(settings.accelerator, root).reason
        table["GuestChannel"] = choose_guest_channel(capabilities, settings.guest_channel)
    except KataError as error:
        table["Error"] = str(error)
    if table["SharedFS"] == NO_SHARED_FS:
        return table
    try:
        virtiofsd = find_virtiofsd(settings.virtio_fs_daemon, state_directory=root)
        table["VirtioFSDaemon"] = virtiofsd.path
        table["VirtioFSCache"] = settings.virtio_fs_cache
    except KataError as error:
        table["VirtioFSDaemonError"] = str(error)
    return table


def _describe_artifacts(config: Configuration) -> dict[str, dict[str, Any]]:
    try:
        artifacts = find_artifacts(config.hypervisor)
    except KataError as error:
        return {"Kernel": {"Error": str(error)}, "Image": {"Path": ""}, "Initrd": {"Path": ""}}
    return {
        "Kernel": {"Path": artifacts.kernel, "Parameters": config.hypervisor.kernel_params}
        | _read_sidecar(artifacts.kernel),
        "Image": {"Path": artifacts.image} | _read_sidecar(artifacts.image),
        "Initrd": {"Path": artifacts.initrd} | _read_sidecar(artifacts.initrd),
    }


def _read_sidecar(path: str) -> dict[str, str]:
    """Return version and digest from the JSON that the builder puts beside each artefact."""
    try:
        with open(f"{path}.json") as file:
            document = json.load(file)
    except (OSError, ValueError):
        return {}
    return {"Version": str(document.get("version", "")), "SHA256": str(document.get("sha256", ""))}


def _describe_host() -> dict[str, Any]:
    release = platform.freedesktop_os_release()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 10
    return {
        "Kernel": platform.release(),
        "Architecture": platform.machine(),
        "Distro": f"{release.get('NAME', '')} {release.get('VERSION_ID', '')}".strip(),
        "CPUs": os.cpu_count() or 0,
        "MemoryTotalKiB": memory,
        "SupportVSocks": os.path.exists("/dev/vhost-vsock"),
        "Python": platform.python_version(),
    }


def format_toml(document: dict[str, dict[str, Any]]) -> str:
    """Write tables of plain values and of lists of them as TOML; a JSON string is a TOML basic string."""
    lines = []
    for name, table in document.items():
        lines.append(f"[{name}]")
        for key, value in table.items():
            if isinstance(value, list) and value:
                items = [f"    {json.dumps(item, ensure_ascii=False)}," for item in value]
                lines += [f"  {key} = [", *items, "  ]"]
            else:
                lines.append(f"  {key} = {json.dumps(value, ensure_ascii=False)}")
        lines.append("")
    return "\n".join(lines).rstrip()
