"""What Cloud Hypervisor is asked for, checked against its own description of its interface."""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.config.model import HypervisorConfig
from kata.errors import ConfigError, UnsupportedError
from kata.hypervisor.clh.driver import build_arguments, check_confidential, check_image, check_iommu
from kata.hypervisor.clh.request import (
    build_vm,
    describe_disk,
    describe_growth,
    describe_net,
    describe_restoring,
    describe_share,
    describe_snapshot,
    describe_vfio,
    find_device,
    read_slot,
)
from kata.hypervisor.ratelimit import read_limits
from kata.hypervisor.spec import (
    Balloon,
    BlockDevice,
    HybridVsock,
    NetDevice,
    Rng,
    SerialPort,
    SharedFs,
    VfioDevice,
)
from openapi import Description, load_description
from vmspec import describe_vm

SPEC = describe_vm(
    HybridVsock(3),
    Rng(),
    Balloon(),
    SharedFs("kataShared", -1, 512, "/run/box/virtiofsd.sock"),
    BlockDevice("data", "/dev/sdx", readonly=True, direct=True),
    NetDevice("net0", "02:00:00:00:00:01", (7, 8)),
)

LIMITS = read_limits(
    HypervisorConfig(
        disk_rate_limiter_bw_max_rate=8000,
        disk_rate_limiter_bw_one_time_burst=16000,
        disk_rate_limiter_ops_max_rate=30,
        net_rate_limiter_bw_max_rate=4000,
    )
)


@pytest.fixture(scope="module")
def description() -> Description:
    return load_description("cloud-hypervisor")


def test_a_vm_with_a_device_of_each_kind_is_one_that_it_understands(description: Description) -> None:
    config = build_vm(SPEC, landlock=True)

    description.check_request("PUT", "/vm.create", config)
    assert config["disks"][0] == {"id": "image", "path": "image", "readonly": True, "image_type": "Raw"}
    assert config["disks"][1]["path"] == "disk-data"
    assert config["vsock"] == {"cid": 3, "socket": "vsock.sock"}
    assert config["fs"] == [{"tag": "kataShared", "socket": "fs-kataShared.sock", "num_queues": 1, "queue_size": 512}]
    assert config["payload"] == {"kernel": "kernel", "cmdline": "console=ttyS0 quiet"}
    assert config["landlock_rules"] == [{"path": ".", "access": "rw"}]


def test_an_image_that_is_memory_is_mapped_for_the_guest_alone_and_is_no_disk(description: Description) -> None:
    config = build_vm(SPEC._replace(image_dax=True), landlock=True)
    description.check_request("PUT", "/vm.create", config)
    assert config["pmem"] == [{"id": "image", "file": "image", "discard_writes": True}]
    assert [disk["id"] for disk in config["disks"]] == ["data"]
    assert "pmem" not in build_vm(SPEC, landlock=True)


@pytest.mark.parametrize(
    ("size", "says"), [(4 << 20, ""), ((4 << 20) + 4096, "its 4198400 bytes are no multiple of 2 MiB"), (-1, "opened")]
)
def test_an_image_that_cannot_be_memory_is_refused_by_its_name(tmp_path: Path, size: int, says: str) -> None:
    image = tmp_path / "root.img"
    if size >= 0:
        image.touch()
        os.truncate(image, size)
    spec = SPEC._replace(image=str(image), image_dax=True)
    with pytest.raises(ConfigError, match=f"sandbox box .*{image}.*{says}") if says else nullcontext():
        check_image(spec)
    check_image(spec._replace(image_dax=False))


def test_a_vm_that_may_have_devices_of_the_host_opens_groups_too_and_gives_no_memory_back(
    description: Description,
) -> None:
    config = build_vm(SPEC._replace(host_devices=True), landlock=True)
    description.check_request("PUT", "/vm.create", config)
    assert config["landlock_rules"] == [{"path": ".", "access": "rw"}, {"path": "/dev/vfio", "access": "rw"}]
    assert config["platform"] == {"vfio_p2p_dma": False}
    assert "balloon" not in config
    assert "balloon" in build_vm(SPEC, landlock=True)


def test_a_vm_with_an_iommu_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="sandbox box is to have an IOMMU"):
        check_iommu(SPEC._replace(iommu=True))
    check_iommu(SPEC)


def test_where_a_device_of_the_start_is_comes_from_what_it_tells_of_the_vm() -> None:
    info = {"device_tree": {"gpu": {"id": "gpu", "pci_bdf": "0000:00:07.0"}, "disk": {"id": "disk", "pci_bdf": None}}}
    assert read_slot(find_device(info, "gpu")) == "07"
    for device_id in ("disk", "none"):
        with pytest.raises(ValueError, match="invalid literal"):
            read_slot(find_device(info, device_id))


@given(
    vcpus=st.integers(1, 64),
    more_vcpus=st.integers(0, 64),
    memory=st.integers(128, 1 << 16),
    more_memory=st.integers(0, 1 << 16),
    hugepages=st.booleans(),
    landlock=st.booleans(),
)
def test_any_size_is_one_that_it_understands(
    vcpus: int, more_vcpus: int, memory: int, more_memory: int, hugepages: bool, landlock: bool
) -> None:
    spec = SPEC._replace(vcpus=vcpus, memory_mib=memory, hugepages=hugepages)
    spec = spec._replace(max_vcpus=vcpus + more_vcpus, max_memory_mib=memory + more_memory)
    config = build_vm(spec, landlock=landlock)

    load_description("cloud-hypervisor").check_request("PUT", "/vm.create", config)
    assert config["memory"]["size"] == memory << 20
    assert config["memory"].get("hotplug_size", 0) % (128 << 20) == 0
    assert config["cpus"]["max_vcpus"] == vcpus + more_vcpus


def test_what_is_plugged_in_later_is_understood(description: Description) -> None:
    description.check_request("PUT", "/vm.add-disk", describe_disk(BlockDevice("a" * 30, "/dev/sdx")))
    description.check_request("PUT", "/vm.resize-disk", describe_growth("data", 1 << 40))
    description.check_request("PUT", "/vm.add-net", describe_net(NetDevice("net1", "02:00:00:00:00:02", (5,))))
    description.check_request("PUT", "/vm.add-device", describe_vfio(VfioDevice("gpu", "0000:01:00.0")))
    description.check_request("PUT", "/vm.remove-device", {"id": "data"})
    for call in ("vm.boot", "vm.pause", "vm.resume", "vmm.shutdown"):
        description.check_request("PUT", f"/{call}", None)
    description.check_request("GET", "/vm.info", None)


def test_a_vm_is_saved_to_and_restored_from_its_cell(description: Description) -> None:
    description.check_request("PUT", "/vm.snapshot", describe_snapshot())
    for paused in (False, True):
        description.check_request("PUT", "/vm.restore", describe_restoring(paused=paused))
    description.check_request("PUT", "/vm.add-fs", describe_share(SharedFs("kataShared", -1, 512, "/run/x")))


def test_the_memory_of_a_vm_that_is_saved_is_a_file_of_ours(description: Description) -> None:
    config = build_vm(SPEC._replace(savable=True), landlock=True)
    description.check_request("PUT", "/vm.create", config)
    zone = {"id": "ram", "size": 512 << 20, "file": "memory", "shared": True}
    assert config["memory"] == {"size": 0, "zones": [zone]}


def test_a_confidential_guest_is_one_of_tdx_that_starts_with_its_firmware(description: Description) -> None:
    config = build_vm(SPEC._replace(firmware="/opt/tdvf.fd"), landlock=True)
    description.check_request("PUT", "/vm.create", config)
    assert config["platform"] == {"tdx": True}
    assert config["payload"]["firmware"] == "firmware"
    assert "platform" not in build_vm(SPEC, landlock=True)


@pytest.mark.parametrize(("said", "is_there"), [("Y\n", True), ("N\n", False), (None, False)])
def test_a_confidential_guest_is_refused_where_the_host_has_no_tdx(
    tmp_path: Path, said: str | None, is_there: bool
) -> None:
    parameter = tmp_path / "tdx"
    if said is not None:
        parameter.write_text(said)
    refused = nullcontext() if is_there else pytest.raises(UnsupportedError, match="this host has no TDX")
    with refused:
        check_confidential(SPEC._replace(firmware="/opt/tdvf.fd"), str(parameter))
    check_confidential(SPEC, str(parameter))


def test_limits_of_disks_and_cards_are_described(description: Description) -> None:
    disk = describe_disk(BlockDevice("data", "/dev/sdx"), LIMITS.disk)
    card = describe_net(NetDevice("net0", "02:00:00:00:00:01", (5,)), LIMITS.net)
    description.check_request("PUT", "/vm.add-disk", disk)
    description.check_request("PUT", "/vm.add-net", card)
    description.check_request("PUT", "/vm.create", build_vm(SPEC, LIMITS, landlock=True))
    assert disk["rate_limiter_config"] == {
        "bandwidth": {"size": 1000, "refill_time": 1000, "one_time_burst": 2000},
        "ops": {"size": 30, "refill_time": 1000},
    }
    assert card["rate_limiter_config"] == {"bandwidth": {"size": 500, "refill_time": 1000}}


def test_a_card_has_a_queue_for_each_direction_of_each_tap() -> None:
    assert describe_net(NetDevice("net0", "02:00:00:00:00:01", (7, 8)))["num_queues"] == 4


def test_an_initrd_is_named_and_no_disk_is_added_for_it() -> None:
    config = build_vm(SPEC._replace(image=None, initrd="/boot/initrd", devices=()), landlock=False)
    assert config["payload"]["initramfs"] == "initrd"
    assert "disks" not in config


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vcpus": 0}, "cannot have 0 vCPUs"),
        ({"max_vcpus": 1, "vcpus": 2}, "2 vCPUs of at most 1"),
        ({"max_memory_mib": 128}, "512 MiB of at most 128 MiB"),
        ({"initrd": "/boot/initrd"}, "both an image and an initrd"),
    ],
)
def test_a_vm_that_cannot_be_is_refused_by_its_name(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=f"sandbox box .*{says}|sandbox box has {says}"):
        build_vm(SPEC._replace(**change), landlock=False)  # type: ignore[arg-type]


def test_a_device_that_it_has_not_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="SerialPort, which Cloud Hypervisor has not"):
        build_vm(SPEC._replace(devices=(SerialPort("kata.vport.1024", "/run/x"),)), landlock=False)


def test_the_guests_slot_is_read_from_its_answer() -> None:
    assert read_slot({"id": "data", "bdf": "0000:00:0a.0"}) == "0a"


def test_seccomp_is_asked_for_by_name() -> None:
    argv = build_arguments("/bin/cloud-hypervisor", 5, 6)
    assert argv[1:] == ["--api-socket", "fd=5", "--event-monitor", "fd=6", "--seccomp", "true"]
