"""A configuration file of upstream's 4.1, as an operator moves it here: what becomes of it, and a VM by it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import ARTEFACTS, Engine

_UPSTREAMS = """
[hypervisor.qemu]
path = "/usr/bin/qemu-system-x86_64"
kernel = "{kernel}"
image = "{image}"
machine_type = "q35"
rootless = false
rootfs_type = "ext4"
enable_annotations = ["enable_iommu", "kernel_params", "kernel_verity_params"]
valid_hypervisor_paths = ["/usr/bin/qemu-system-x86_64"]
kernel_params = ""
firmware = ""
firmware_volume = ""
machine_accelerators = ""
seccompsandbox = ""
cpu_features = "pmu=off"
default_vcpus = 1
default_maxvcpus = 0
default_bridges = 1
default_memory = 2048
memory_slots = 10
default_maxmemory = 0
memory_offset = 0
enable_virtio_mem = false
disable_block_device_use = true
shared_fs = "virtio-fs"
virtio_fs_daemon = ""
valid_virtio_fs_daemon_paths = ["/usr/libexec/virtiofsd"]
virtio_fs_cache_size = 0
virtio_fs_queue_size = 1024
virtio_fs_extra_args = ["--thread-pool-size=1", "--announce-submounts"]
virtio_fs_cache = "auto"
block_device_driver = "virtio-scsi"
block_device_aio = "io_uring"
block_device_cache_set = false
enable_iothreads = false
enable_mem_prealloc = false
enable_hugepages = false
enable_vhost_user_store = false
vhost_user_store_path = "/var/run/kata-containers/vhost-user"
enable_iommu = false
disable_nesting_checks = false
msize_9p = 8192
disable_image_nvdimm = false
hot_plug_vfio = "no-port"
cold_plug_vfio = "no-port"
pcie_root_port = 0
disable_vhost_net = false
entropy_source = "/dev/urandom"
valid_entropy_sources = ["/dev/urandom", "/dev/random", ""]
guest_hook_path = ""
rx_rate_limiter_max_rate = 0
tx_rate_limiter_max_rate = 0
guest_memory_dump_path = ""
enable_guest_swap = false
disable_selinux = false
disable_guest_selinux = true

[factory]

[agent.kata]
enable_debug = false
enable_tracing = false
kernel_modules = []
debug_console_enabled = false
dial_timeout = 45
cdh_api_timeout = 50

[runtime]
enable_debug = false
internetworking_model = "tcfilter"
disable_guest_seccomp = true
enable_vcpus_pinning = false
guest_selinux_label = ""
enable_tracing = false
jaeger_endpoint = ""
sandbox_cgroup_only = false
static_sandbox_resource_mgmt = false
sandbox_bind_mounts = []
vfio_mode = "guest-kernel"
disable_guest_empty_dir = true
emptydir_mode = "shared-fs"
experimental = []
enable_pprof = false
create_container_timeout = 60
dan_conf = "/run/kata-containers/dans"
"""
"""Names and values of its file for QEMU, with the places of this host."""

_DROP_IN = """
[hypervisor.qemu]
accelerator = "tcg"
default_memory = 512
default_maxmemory = 1024

[factory]
enable_template = false
"""


@pytest.fixture
def moved(engine: Engine, guest_image: Path) -> Iterator[Path]:
    """That file in the place of the engine's, with a drop-in of the operator's."""
    drop_in = engine.config.parent / "config.d/10-here.toml"
    drop_in.parent.mkdir()
    drop_in.write_text(_DROP_IN)
    kernel = ARTEFACTS / "vmlinux.container"
    engine.config.write_text(_UPSTREAMS.format(kernel=kernel, image=guest_image))
    yield engine.config
    drop_in.unlink()
    drop_in.parent.rmdir()
    engine.configure("")


def test_a_file_of_upstreams_makes_a_vm_and_says_what_of_it_has_no_effect(engine: Engine, moved: Path) -> None:
    shown = engine.run("env")
    assert shown.code == 0, shown
    for key in ("rootfs_type", "cpu_features", "disable_selinux", "enable_annotations"):
        assert f"[hypervisor.qemu] {key}" in shown.text, shown
    for key in ("machine_type", "msize_9p", "entropy_source", "default_memory"):
        assert f"[hypervisor.qemu] {key}:" not in shown.text

    result = engine.run_container("sed", "-n", "s/MemTotal: *//p", "/proc/meminfo")
    assert result.code == 0, result
    assert 400 < int(result.text.split()[0]) >> 10 <= 512


def test_a_mistake_in_it_keeps_containers_from_starting_and_names_the_line(engine: Engine, moved: Path) -> None:
    text = moved.read_text().replace("default_vcpus = 1", "default_vcpu = 1")
    moved.write_text(text)
    line = text.splitlines().index("default_vcpu = 1") + 1
    for result in (engine.run("env"), engine.run_container("true")):
        assert result.code
        assert f"{moved}:{line}: [hypervisor.qemu] default_vcpu is no option" in result.err
        assert "default_vcpus" in result.err


def test_what_the_operator_sets_is_what_the_vm_and_its_container_have(engine: Engine) -> None:
    engine.configure(
        'default_vcpus = 2\nkernel_params = "kata.test=here"\nvirtio_fs_cache = "never"\nvirtio_fs_queue_size = 256\n'
        "[runtime]\ndisable_guest_seccomp = true\n"
    )

    def deny_all(spec: dict[str, Any]) -> None:
        spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_KILL"}

    try:
        with engine.hold("sleep", "1000", change=deny_all) as held:
            cmdline, status = "grep -o kata.test=here /proc/cmdline", "grep Seccomp: /proc/self/status"
            script = f"{cmdline}; {status}; grep -c ^processor /proc/cpuinfo"
            lines = held.ask("sh", "-c", script).split()
            daemon, vmm = (
                Path(f"/proc/{engine.find_process(role, held.sandbox)}/cmdline").read_text().split("\0")
                for role in ("virtiofsd", "qemu")
            )
    finally:
        engine.configure("")
    assert lines == ["kata.test=here", "Seccomp:", "0", str(min(2, len(os.sched_getaffinity(0))))]
    assert any(word in ("cache=none", "--cache=never") for word in daemon), daemon
    assert any("vhost-user-fs-pci" in word and "queue-size=256" in word for word in vmm), vmm


def test_a_container_that_takes_longer_to_create_than_it_may_is_given_up_with_the_option_named(
    engine: Engine, tmp_path: Path
) -> None:
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\nexec sleep 100\n")
    hook.chmod(0o755)
    engine.configure("[runtime]\ncreate_container_timeout = 2\n")
    try:
        result = engine.run_container(
            "true", change=lambda spec: spec.update(hooks={"createRuntime": [{"path": str(hook)}]})
        )
    finally:
        engine.configure("")
    assert result.code
    assert "was not created in 2 s (create_container_timeout says how long it may take)" in result.err
    assert result.seconds < 60
