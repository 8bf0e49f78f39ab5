"""What a pod may change of the configuration, by annotations `io.katacontainers.config.*`.

Whoever may make pods writes them, so they are closed: an annotation that the operator did not name in
`enable_annotations` refuses the pod. None takes a program's arguments, a kernel's command line or an artefact of the
guest. Source of the names: upstream, docs/how-to/how-to-set-sandbox-config-kata.md.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kata.config.model import Configuration, HypervisorConfig
from kata.errors import ConfigError

PREFIX = "io.katacontainers.config"
_HYPERVISOR = f"{PREFIX}.hypervisor."
_RUNTIME = f"{PREFIX}.runtime."
_AGENT = f"{PREFIX}.agent."


class Offer(NamedTuple):
    """The option that an annotation sets, and for a path the option that lists its values."""

    kind: str
    key: str
    paths: str = ""


OFFERED: dict[str, Offer] = {
    f"{_HYPERVISOR}default_vcpus": Offer("hypervisor", "default_vcpus"),
    f"{_HYPERVISOR}default_max_vcpus": Offer("hypervisor", "default_maxvcpus"),
    f"{_HYPERVISOR}default_memory": Offer("hypervisor", "default_memory"),
    f"{_HYPERVISOR}path": Offer("hypervisor", "path", "valid_hypervisor_paths"),
    f"{_HYPERVISOR}virtio_fs_daemon": Offer("hypervisor", "virtio_fs_daemon", "valid_virtio_fs_daemon_paths"),
    f"{_HYPERVISOR}virtio_fs_cache": Offer("hypervisor", "virtio_fs_cache"),
    f"{_HYPERVISOR}pcie_root_port": Offer("hypervisor", "pcie_root_port"),
    f"{_HYPERVISOR}rx_rate_limiter_max_rate": Offer("hypervisor", "rx_rate_limiter_max_rate"),
    f"{_HYPERVISOR}tx_rate_limiter_max_rate": Offer("hypervisor", "tx_rate_limiter_max_rate"),
    f"{_HYPERVISOR}reclaim_guest_freed_memory": Offer("hypervisor", "reclaim_guest_freed_memory"),
    f"{_RUNTIME}create_container_timeout": Offer("runtime", "create_container_timeout"),
    f"{_RUNTIME}disable_guest_seccomp": Offer("runtime", "disable_guest_seccomp"),
}
"""Every annotation that can be opened."""

_UNOFFERED = {
    _HYPERVISOR: (
        "path_hash hypervisor_hash jailer_path jailer_hash kernel kernel_hash kernel_params kernel_verity_params image "
        "image_hash initrd initrd_hash firmware firmware_hash firmware_volume firmware_volume_hash machine_type "
        "machine_accelerators cpu_features memory_slots memory_offset enable_virtio_mem enable_mem_prealloc "
        "enable_hugepages hugepage_type enable_iommu enable_iommu_platform numa_mapping entropy_source "
        "use_legacy_serial enable_guest_swap rootless guest_hook_path disable_image_nvdimm msize_9p shared_fs "
        "virtio_fs_cache_size virtio_fs_extra_args block_device_driver block_device_aio disable_block_device_use "
        "enable_iothreads indep_iothreads block_device_cache_set block_device_cache_direct "
        "block_device_cache_noflush blk_logical_sector_size blk_physical_sector_size block_device_num_queues "
        "block_device_queue_size enable_vhost_user_store vhost_user_store_path vhost_user_reconnect_timeout_sec "
        "prefetch_files.list disable_vhost_net network_queues "
        "cold_plug_vfio hot_plug_vfio pcie_switch_port default_gpus default_gpu_model cc_init_data"
    ),
    _RUNTIME: (
        "name hypervisor_name agent_name guest_selinux_label sandbox_cgroup_only enable_pprof experimental "
        "internetworking_model disable_new_netns vfio_mode experimental_force_guest_pull enable_vcpus_pinning "
        "shared_mounts sandbox_bind_mounts"
    ),
    _AGENT: "kernel_modules enable_tracing container_pipe_size cdh_api_timeout cdh_api_timeout_ms policy",
}
"""Upstream's others, by prefix: those that would hand the host to a pod, and those that have no effect here."""

_LONGEST = 4096
_MOST_DIGITS = 15
_SIZES = ("default_vcpus", "default_memory", "default_maxmemory")
_RATES = ("rx_rate_limiter_max_rate", "tx_rate_limiter_max_rate")


def list_unoffered(config: HypervisorConfig) -> Iterator[tuple[str, str]]:
    """Return what to say of the wrong entries of `enable_annotations`, with a hint where they are an error."""
    others = {prefix + name for prefix, names in _UNOFFERED.items() for name in names.split()}
    refused = [entry for entry in config.enable_annotations if _qualify(entry) in others]
    if refused:
        yield f"no pod can set {', '.join(refused)}: such an annotation stays refused", ""
    for entry in config.enable_annotations:
        name = _qualify(entry)
        if name not in OFFERED and name not in others:
            from difflib import get_close_matches  # noqa: PLC0415 - only on the way to an error

            close = get_close_matches(entry, [offered.removeprefix(_HYPERVISOR) for offered in OFFERED], n=1)
            hint = f"did you mean {close[0]}?" if close else "it takes exact names, no patterns"
            yield f"has {entry!r}, which is no annotation", hint


def _qualify(entry: str) -> str:
    return entry if entry.startswith(f"{PREFIX}.") else _HYPERVISOR + entry


def apply_annotations(config: Configuration, annotations: Mapping[str, str]) -> Configuration:
    """Return the configuration of a pod. Raise ConfigError for an annotation that is not open, or whose value is wrong.

    `annotations` are all of the first container's; what does not begin with io.katacontainers.config is not looked at.
    """
    wanted = {name: value for name, value in annotations.items() if name.startswith(PREFIX)}
    if not wanted:
        return config
    opened = {_qualify(entry) for entry in config.hypervisor.enable_annotations}
    tables: dict[str, Any] = {"hypervisor": config.hypervisor, "agent": config.agent, "runtime": config.runtime}
    for name in sorted(wanted):
        offer = OFFERED.get(name)
        if offer is None:
            raise ConfigError(f"annotation {name} cannot be used", hint="no configuration opens it to pods")
        if name not in opened:
            entry = name.removeprefix(_HYPERVISOR)
            raise ConfigError(
                f"annotation {name} is not enabled", hint=f"the operator can name {entry} in enable_annotations"
            )
        try:
            value = _parse(tables[offer.kind], offer, wanted[name])
        except ConfigError as error:
            raise ConfigError(f"annotation {name} {error.message}", hint=error.hint) from error
        tables[offer.kind] = tables[offer.kind]._replace(**{offer.key: value})
    result = config._replace(**tables)
    _check_together(config, result)
    return result


def _parse(table: Any, offer: Offer, text: str) -> Any:
    """Read a value as its option's type and check it as the option is. Raise ConfigError without the name."""
    default = type(table)._field_defaults[offer.key]
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise ConfigError("is no text of a sane length")
    value: Any = text
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ConfigError(f"is {text!r}", hint="it takes true or false")
        value = text == "true"
    elif isinstance(default, int):
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
            raise ConfigError(f"is {text!r}", hint="it takes a decimal number")
        value = int(text)
    for constraint in getattr(type(table).__annotations__[offer.key], "__metadata__", ()):
        constraint.check(value)
    if offer.paths and value not in getattr(table, offer.paths):
        raise ConfigError(f"is {value!r}", hint=f"the operator lists what it takes in {offer.paths}")
    return value


def _check_together(before: Configuration, after: Configuration) -> None:
    """Keep a pod within the operator's bounds: nobody raises his own limit."""
    from kata.config.combination import list_findings  # noqa: PLC0415 - it looks into this module

    operator, pod = before.hypervisor, after.hypervisor
    if operator.default_maxvcpus and not 0 < pod.default_maxvcpus <= operator.default_maxvcpus:
        raise ConfigError(
            f"annotation {_HYPERVISOR}default_max_vcpus is {pod.default_maxvcpus}",
            hint=f"the operator allows {operator.default_maxvcpus}",
        )
    for key in _RATES:
        limit, wanted = getattr(operator, key), getattr(pod, key)
        if limit and not 0 < wanted <= limit:
            raise ConfigError(f"annotation {_HYPERVISOR}{key} is {wanted}", hint=f"the operator allows {limit}")
    for finding in list_findings(after):
        if finding.hint and finding.key in (*_SIZES, *_RATES):
            raise ConfigError(f"annotations: {finding.key} {finding.text}", hint=finding.hint)
