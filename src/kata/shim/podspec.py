"""The OCI spec of a sandbox that has no first container: what config.json of its bundle would say."""

import json
import os
from typing import Any

from kata.errors import ProtocolError, UsageError
from kata.protocol.messages.cri import POD_CONFIG_TYPE, LinuxContainerResources, LinuxPodSandboxConfig, PodSandboxConfig
from kata.protocol.messages.sandboxapi import CreateSandboxRequest
from kata.protocol.oci.default import OCI_VERSION
from kata.protocol.oci.pod import TYPE_KEYS
from kata.shim.podfiles import find_hostname, make_pod_files
from kata.sys.file import read_text, replace_file

_PREFIX = "cri-containerd"
"""What containerd puts before a container's name in systemd's scopes. Source: its internal/cri/server/helpers.go."""


def write_pod_spec(request: CreateSandboxRequest) -> str:
    """Write config.json of the sandbox's bundle and return its text; what of it containerd wrote stays as it is.

    A pod of the CRI gets the files that are to be in its containers, too. Raise UsageError for options that cannot be
    read, HostError; of options of kinds other than the CRI's nothing is taken.
    """
    path = f"{request.bundle_path}/config.json"
    given = read_text(path)
    pod = read_pod_config(request)
    spec = make_pod_spec(request, pod) | (json.loads(given) if given else {})
    if pod is not None:
        spec["mounts"] = make_pod_files(f"{request.bundle_path}/etc", pod)
    text = json.dumps(spec)
    replace_file(path, text)
    return text


def read_pod_config(request: CreateSandboxRequest) -> PodSandboxConfig | None:
    """Return the CRI's pod, None for a sandbox of anybody else. Raise UsageError."""
    if request.options is None or request.options.type_url.rpartition("/")[2] != POD_CONFIG_TYPE:
        return None
    try:
        return PodSandboxConfig.decode(request.options.value)
    except ProtocolError as error:
        raise UsageError(f"the configuration of sandbox {request.sandbox_id} cannot be read: {error}") from error


def make_pod_spec(request: CreateSandboxRequest, config: PodSandboxConfig | None) -> dict[str, Any]:
    """Translate the CRI's pod: its name, cgroup, limits, kernel settings and network namespace."""
    pod = config or PodSandboxConfig()
    role = {} if config is None else {TYPE_KEYS[0]: "sandbox"}
    network = [{"type": "network"} | ({"path": request.netns_path} if request.netns_path else {})]
    if config is not None and not request.netns_path:  # with the CRI that is the host's network, not a new one
        network = []
    linux = pod.linux or LinuxPodSandboxConfig()
    return {
        "ociVersion": OCI_VERSION,
        "hostname": "" if config is None else find_hostname(config),
        "root": {"path": "rootfs"},
        "annotations": {**pod.annotations, **request.annotations, **role},
        "linux": {
            "cgroupsPath": _find_cgroups_path(linux.cgroup_parent, request.sandbox_id),
            "namespaces": network,
            "resources": _make_resources(linux.resources or LinuxContainerResources()),
            "sysctl": linux.sysctls,
        },
    }


def _find_cgroups_path(parent: str, sandbox: str) -> str:
    if parent.endswith(".slice"):
        return f"{os.path.basename(parent)}:{_PREFIX}:{sandbox}"
    return os.path.join("/", parent, sandbox)


def _make_resources(limits: LinuxContainerResources) -> dict[str, Any]:
    return {
        "cpu": {"quota": limits.cpu_quota, "period": limits.cpu_period, "shares": limits.cpu_shares},
        "memory": {"limit": limits.memory_limit_in_bytes},
    }
