"""What of Kubernetes' CRI reaches a shim: the pod's configuration, as containerd 2 passes it in CreateSandbox.

Names and numbers are those of `cri-api/pkg/apis/runtime/v1/api.proto`. What a sandbox has no use for is left out.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, int64, message, repeated, string, string_map

POD_CONFIG_TYPE = "runtime.v1.PodSandboxConfig"


class LinuxContainerResources(Message):
    """Processor time in microseconds, memory in bytes; 0 is no limit."""

    cpu_period: int = int64(1)
    cpu_quota: int = int64(2)
    cpu_shares: int = int64(3)
    memory_limit_in_bytes: int = int64(4)


class LinuxPodSandboxConfig(Message):
    cgroup_parent: str = string(1)
    sysctls: dict[str, str] = string_map(3, "string")
    overhead: LinuxContainerResources | None = message(4, LinuxContainerResources)
    resources: LinuxContainerResources | None = message(5, LinuxContainerResources)


class DnsConfig(Message):
    servers: list[str] = repeated(1, "string")
    searches: list[str] = repeated(2, "string")
    options: list[str] = repeated(3, "string")


class PodSandboxConfig(Message):
    hostname: str = string(2)
    dns_config: DnsConfig | None = message(4, DnsConfig)
    annotations: dict[str, str] = string_map(7, "string")
    linux: LinuxPodSandboxConfig | None = message(8, LinuxPodSandboxConfig)
