"""What can be configured, with defaults: the one place that knows names, types and units.

Names are upstream's. A table of the file is one class here; a key is one field.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HypervisorConfig:
    """`[hypervisor.qemu]`: the VMM and the VM. Empty paths mean: look in the usual places."""

    path: str = ""
    kernel: str = ""
    image: str = ""
    initrd: str = ""
    kernel_params: str = ""
    accelerator: str = "auto"
    guest_channel: str = "auto"
    default_vcpus: int = 1
    default_memory: int = 2048
    virtio_fs_daemon: str = ""
    virtio_fs_cache: str = "auto"
    virtio_fs_queue_size: int = 1024
    pcie_root_port: int = 2
    reclaim_guest_freed_memory: bool = False


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """`[agent.kata]`: the guest's agent. Times are in seconds."""

    enable_debug: bool = False
    debug_console_enabled: bool = False
    dial_timeout: int = 60


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """`[runtime]`: the host's side. Times are in seconds."""

    enable_debug: bool = False
    disable_guest_seccomp: bool = False
    create_container_timeout: int = 60


@dataclass(frozen=True, slots=True)
class Configuration:
    """A whole configuration; `source` is the file it was read from, empty for the built-in defaults."""

    hypervisor: HypervisorConfig = field(default_factory=HypervisorConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    source: str = ""


CHOICES = {
    "accelerator": ("auto", "kvm", "tcg"),
    "guest_channel": ("auto", "vsock", "vport"),
    "virtio_fs_cache": ("never", "none", "metadata", "auto", "always"),
}
"""Keys that take one of a few words."""

BOUNDS = {
    "default_vcpus": (1, 240),
    "default_memory": (128, 1 << 24),
    "virtio_fs_queue_size": (16, 1024),
    "pcie_root_port": (0, 15),
    "dial_timeout": (1, 3600),
    "create_container_timeout": (1, 7200),
}
"""Keys that take a number between these, both included."""

TABLES: dict[tuple[str, str], type[HypervisorConfig | AgentConfig | RuntimeConfig]] = {
    ("hypervisor", "qemu"): HypervisorConfig,
    ("agent", "kata"): AgentConfig,
    ("runtime", ""): RuntimeConfig,
}
"""Tables of the file by their two names; the second is empty where there is one name only."""
