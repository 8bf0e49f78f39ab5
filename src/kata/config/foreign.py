"""Upstream's options that change nothing here: a file that has them loads, and hears what becomes of them.

Loaded only for a file that has such an option. Source: upstream's configuration files and types of 4.1, both runtimes'.
"""

from typing import Any, NamedTuple

_NEUTRAL: dict[str, tuple[Any, ...]] = {"bool": (False,), "int": (0,), "float": (0, 0.0), "str": ("",), "list": ([],)}


class Foreign(NamedTuple):
    """An option that is understood and has no effect.

    `kind` names its type as `constraint.TYPES` does. A value of `same` asks for what this runtime does anyway; for any
    other, `reason` says why it has no effect. With `is_vital` any other is an error: whoever wrote it relies on it for
    security, or on another machine than he would get.
    """

    kind: str
    reason: str
    same: tuple[Any, ...]
    is_vital: bool = False


def _ignored(kind: str, reason: str, *same: Any) -> Foreign:
    return Foreign(kind, reason, (*_NEUTRAL[kind], *same))


def _exactly(kind: str, reason: str, *same: Any) -> Foreign:
    """An option whose neutral value is no neutral one here."""
    return Foreign(kind, reason, same)


def _vital(kind: str, reason: str, *same: Any) -> Foreign:
    return Foreign(kind, reason, (*_NEUTRAL[kind], *same), is_vital=True)


_TEE = "of confidential guests there are those of Cloud Hypervisor with TDX"
_VIRTIO_MEM = "memory is always plugged in by virtio-mem, which needs no slots"
_BLOCK = "disks are as QEMU makes them by itself"
_VFIO = "devices of the host come to a VM by cold_plug_vfio, hot_plug_vfio and vfio_mode alone"
_VHOST_USER = "vhost-user devices are not implemented"
_SWAP = "swap in the guest is not implemented"
_DUMP = "dumps of the guest's memory are not implemented"
_NUMA = "the guest has one NUMA node"
_HUGE = "the VM's memory is ordinary pages"
_FIRMWARE = "QEMU starts the kernel directly"
_TEMPLATE = "the table [factory] is what counts"
_CACHE = "each VM that waits has a socket of its own, in the state directory"
_TRACE = "tracing is not implemented"
_OTHER_VMM = "it belongs to another hypervisor than QEMU"
_PEER_POD = "remote hypervisors are not implemented"
_MEM_AGENT = "the memory agent is not implemented"
_CDH = "the guest has no confidential data hub"
_PASSFD = "standard streams go over the agent's calls"
_PORTS = "the agent listens where this runtime tells it to"
_SECCOMP = (
    "QEMU always runs with its seccomp sandbox, which denies obsolete calls, privileges, processes and scheduling"
)
_SELINUX = "QEMU gets no SELinux label"

HYPERVISOR: dict[str, Foreign] = {
    "machine_accelerators": _ignored("str", "QEMU's arguments are this runtime's own"),
    "cpu_features": _ignored("str", "the processor's model is this runtime's own choice"),
    "rootfs_type": _ignored("str", "the root image is EROFS", "erofs"),
    "vm_rootfs_driver": _ignored("str", "the root image is a read-only virtio-blk disk", "virtio-blk-pci"),
    "rootless": _exactly("bool", "QEMU always runs under a user id of its own", True, False),
    "rootless_user.user_name": _ignored("str", "QEMU's user id is chosen for each sandbox"),
    "rootless_user.uid": _ignored("int", "QEMU's user id is chosen for each sandbox"),
    "rootless_user.gid": _ignored("int", "QEMU's group id is chosen for each sandbox"),
    "rootless_user.groups": _ignored("list", "QEMU is in no groups but its own"),
    "firmware_volume": _ignored("str", _FIRMWARE),
    "pflashes": _ignored("list", _FIRMWARE),
    "seccompsandbox": _ignored("str", _SECCOMP, "on,obsolete=deny,spawn=deny,resourcecontrol=deny"),
    "seccomp_sandbox": _ignored("str", _SECCOMP, "on,obsolete=deny,spawn=deny,resourcecontrol=deny"),
    "disable_seccomp": _ignored("bool", _SECCOMP),
    "disable_selinux": _exactly("bool", _SELINUX, True),
    "selinux_label": _vital("str", _SELINUX),
    "disable_guest_selinux": Foreign("bool", "the guest's kernel has no SELinux", (True,), is_vital=True),
    "default_bridges": _ignored("int", "devices are plugged into PCIe root ports: see pcie_root_port", 1),
    "memory_slots": _ignored("int", _VIRTIO_MEM, 10),
    "memory_offset": _ignored("int", _VIRTIO_MEM),
    "enable_virtio_mem": _exactly("bool", _VIRTIO_MEM, True, False),
    "enable_mem_prealloc": _ignored("bool", "the VM's memory is allocated as the guest touches it"),
    "hugepage_type": _ignored("str", _HUGE, "hugetlbfs"),
    "enable_numa": _ignored("bool", _NUMA),
    "numa_mapping": _ignored("list", _NUMA),
    "virtio_fs_cache_size": _ignored("int", "there is no DAX window"),
    "virtio_fs_is_dax": _ignored("bool", "there is no DAX window"),
    "virtio_fs_extra_args": _ignored(
        "list",
        "virtiofsd's arguments are this runtime's own: they are what confines it",
        ["--thread-pool-size=1", "--announce-submounts"],
        ["--thread-pool-size=1", "-o", "announce_submounts"],
    ),
    "msize_9p": _ignored("int", "the only shared file system is virtio-fs", 8192),
    "block_device_logical_sector_size": _ignored("int", _BLOCK),
    "block_device_physical_sector_size": _ignored("int", _BLOCK),
    "queue_size": _ignored("int", _BLOCK, 128),
    "num_queues": _ignored("int", _BLOCK, 1),
    "enable_iothreads": _ignored("bool", _BLOCK),
    "indep_iothreads": _ignored("int", _BLOCK),
    "enable_vhost_user_store": _ignored("bool", _VHOST_USER),
    "vhost_user_store_path": _ignored("str", _VHOST_USER, "/var/run/kata-containers/vhost-user"),
    "valid_vhost_user_store_paths": _ignored("list", _VHOST_USER, ["/var/run/kata-containers/vhost-user"]),
    "vhost_user_reconnect_timeout_sec": _ignored("int", _VHOST_USER),
    "enable_iommu": _ignored("bool", _VFIO),
    "enable_iommu_platform": _ignored("bool", _VFIO),
    "pcie_switch_port": _ignored("int", _VFIO),
    "default_gpus": _ignored("int", _VFIO),
    "default_gpu_model": _ignored("str", _VFIO),
    "extra_monitor_socket": _ignored("str", "QEMU has one monitor, which is the runtime's"),
    "dbg_monitor_socket": _ignored("str", "QEMU has one monitor, which is the runtime's"),
    "disable_nesting_checks": _exactly("bool", "there are no such checks", True, False),
    "disable_nested_virtualization": _vital("bool", "it is not implemented for QEMU"),
    "entropy_source": _ignored("str", "QEMU draws the guest's entropy from getrandom(2)", "/dev/urandom"),
    "valid_entropy_sources": _exactly(
        "list", "no annotation sets entropy_source", [], ["/dev/urandom", "/dev/random", ""]
    ),
    "guest_memory_dump_path": _ignored("str", _DUMP),
    "guest_memory_dump_paging": _ignored("bool", _DUMP),
    "enable_guest_swap": _ignored("bool", _SWAP),
    "guest_swap_path": _ignored("str", _SWAP, "/run/kata-containers/swap"),
    "guest_swap_size_percent": _ignored("int", _SWAP, 100),
    "guest_swap_create_threshold_secs": _ignored("int", _SWAP, 60),
    "use_legacy_serial": _exactly("bool", "the console is the machine's serial port", True, False),
    "sev_snp_guest": _vital("bool", _TEE),
    "snp_id_block": _vital("str", _TEE),
    "snp_id_auth": _vital("str", _TEE),
    "snp_guest_policy": _vital("int", _TEE, 196608),
    "measurement_algo": _vital("str", _TEE),
    "tdx_quote_generation_service_socket_port": _ignored("int", _TEE, 4050),
    "initdata": _vital("str", _TEE),
    "kernel_verity_params": _vital("str", "the root image is not verified by dm-verity"),
    "guest_extension_images": _vital("list", "the guest's image takes no extensions"),
    "factory.enable_template": _ignored("bool", _TEMPLATE),
    "factory.template_path": _ignored("str", _TEMPLATE, "/run/vc/vm/template"),
    "prefetch_list_path": _ignored("str", "nydus is not implemented"),
    "valid_jailer_paths": _ignored("list", _OTHER_VMM),
    "ctlpath": _ignored("str", _OTHER_VMM),
    "valid_ctlpaths": _ignored("list", _OTHER_VMM),
    "hypervisor_loglevel": _ignored("int", _OTHER_VMM, 1),
    "log_level": _ignored("str", _OTHER_VMM, "info"),
    "remote_hypervisor_socket": _ignored("str", _PEER_POD),
    "remote_hypervisor_timeout": _ignored("int", _PEER_POD),
}
"""Options of `[hypervisor.NAME]`; one of a table below it has that table's name before it."""

AGENT: dict[str, Foreign] = {
    "dial_timeout_ms": _ignored("int", "the first call waits for the agent without trying again", 10),
    "reconnect_timeout_ms": _ignored("int", "dial_timeout, in seconds, is what counts", 3000),
    "enable_tracing": _ignored("bool", _TRACE),
    "cdh_api_timeout": _ignored("int", _CDH, 50),
    "cdh_api_timeout_ms": _ignored("int", _CDH, 50000),
    "launch_process_timeout": _ignored("int", _CDH, 6),
    "visible_cdi_devices": _ignored("bool", _VFIO),
    "policy": _vital("str", "the agent enforces no policy"),
    "container_pipe_size": _ignored("int", "pipes have the size that the kernel gives them", 1),
    "log_level": _ignored("str", "enable_debug is what counts", "info"),
    "server_port": _ignored("int", _PORTS, 1024),
    "log_port": _ignored("int", _PORTS, 1025),
    "passfd_listener_port": _ignored("int", _PASSFD, 1027),
    "health_check_request_timeout_ms": _ignored("int", "the agent is asked when somebody wants to know", 90000),
    "mem_agent.mem_agent_enable": _ignored("bool", _MEM_AGENT),
    "mem_agent.memcg_disable": _ignored("bool", _MEM_AGENT),
    "mem_agent.memcg_swap": _ignored("bool", _MEM_AGENT),
    "mem_agent.memcg_swappiness_max": _ignored("int", _MEM_AGENT, 50),
    "mem_agent.memcg_period_secs": _ignored("int", _MEM_AGENT, 600),
    "mem_agent.memcg_period_psi_percent_limit": _ignored("int", _MEM_AGENT, 1),
    "mem_agent.memcg_eviction_psi_percent_limit": _ignored("int", _MEM_AGENT, 1),
    "mem_agent.memcg_eviction_run_aging_count_min": _ignored("int", _MEM_AGENT, 3),
    "mem_agent.compact_disable": _ignored("bool", _MEM_AGENT),
    "mem_agent.compact_period_secs": _ignored("int", _MEM_AGENT, 600),
    "mem_agent.compact_period_psi_percent_limit": _ignored("int", _MEM_AGENT, 1),
    "mem_agent.compact_psi_percent_limit": _ignored("int", _MEM_AGENT, 5),
    "mem_agent.compact_sec_max": _ignored("int", _MEM_AGENT, 300, 180),
    "mem_agent.compact_order": _ignored("int", _MEM_AGENT, 9),
    "mem_agent.compact_threshold": _ignored("int", _MEM_AGENT, 1024),
    "mem_agent.compact_force_times": _ignored("int", _MEM_AGENT, (1 << 63) - 1),
}
"""Options of `[agent.kata]`."""

RUNTIME: dict[str, Foreign] = {
    "name": _vital("str", "the only kind of runtime is virt_container", "virt_container"),
    "agent_name": _vital("str", "the agent is kata", "kata"),
    "disable_new_netns": _vital("bool", "QEMU always runs in the pod's network namespace"),
    "sandbox_bind_mounts": _ignored("list", "host directories are shared by a container's mounts only"),
    "shared_mounts": _ignored("list", "containers share no mounts but volumes"),
    "disable_guest_empty_dir": _exactly("bool", "emptydir_mode is what counts", True),
    "experimental": _vital("list", "there are no experimental features"),
    "experimental_force_guest_pull": _vital("bool", "images are pulled on the host"),
    "guest_selinux_label": _vital("str", "the guest's kernel has no SELinux"),
    "enable_tracing": _ignored("bool", _TRACE),
    "jaeger_endpoint": _ignored("str", _TRACE),
    "jaeger_user": _ignored("str", _TRACE),
    "jaeger_password": _ignored("str", _TRACE),
    "enable_pprof": _ignored("bool", "this runtime has no profiles in Go's form"),
    "keep_abnormal": _ignored("bool", "a sandbox whose VM has ended is released when its containers are deleted"),
    "log_level": _ignored("str", "enable_debug is what counts", "info"),
    "use_passfd_io": _ignored("bool", _PASSFD),
    "passfd_listener_port": _ignored("int", _PASSFD, 1027),
    "dan_conf": _ignored("str", "directly attached networks are not implemented", "/run/kata-containers/dans"),
    "kubelet_root_dir": _ignored("str", _VFIO, "/var/lib/kubelet"),
    "pod_resource_api_sock": _ignored("str", _VFIO),
}
"""Options of `[runtime]`."""

FACTORY: dict[str, Foreign] = {
    "vm_cache_endpoint": _ignored("str", _CACHE, "/var/run/kata-containers/cache.sock"),
}
"""Options of `[factory]`."""

TABLES = {"hypervisor": HYPERVISOR, "agent": AGENT, "runtime": RUNTIME, "factory": FACTORY}
"""By the first name of the file's table."""
