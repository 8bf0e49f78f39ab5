"""What Firecracker is asked for, checked against its own description of its interface."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import ConfigError, UnsupportedError
from kata.hypervisor.cell import Cell
from kata.hypervisor.firecracker.driver import build_arguments, name_jail
from kata.hypervisor.firecracker.request import (
    PAUSE,
    RESUME,
    SAVE,
    START,
    build_calls,
    describe_exchange,
    describe_restoring,
    list_places,
)
from kata.hypervisor.ratelimit import RateLimit, RateLimits
from kata.hypervisor.spec import Balloon, BlockDevice, HybridVsock, NetDevice, Rng, SharedFs, VfioDevice
from openapi import load_description
from vmspec import describe_vm

SPEC = describe_vm(
    HybridVsock(3),
    Rng(),
    Balloon(),
    BlockDevice("my-data", "/dev/sdx", readonly=True),
    NetDevice("net-0", "02:00:00:00:00:01", (), tap="tap0_kata"),
    vcpus=2,
)


def test_a_vm_with_a_device_of_each_kind_is_one_that_it_understands() -> None:
    description = load_description("firecracker")
    calls = build_calls(SPEC)
    later = (START, PAUSE, SAVE, RESUME, describe_exchange(list_places(SPEC)[0], "disk-x"))
    for call in (*calls, *later, describe_restoring(SPEC), describe_restoring(SPEC._replace(paused=True))):
        description.check_request(call.method, call.target, call.body)


def test_the_root_is_the_first_disk_and_cannot_be_written() -> None:
    disks = [call.body for call in build_calls(SPEC) if call.target.startswith("/drives/")]
    assert disks[0] == {
        "drive_id": "image",
        "path_on_host": "image",
        "is_root_device": False,
        "is_read_only": True,
        "cache_type": "Unsafe",
    }
    assert disks[1]["path_on_host"] == "disk-my-data"


@given(vcpus=st.integers(1, 32), memory=st.integers(1, 1 << 20), hugepages=st.booleans())
def test_any_size_is_one_that_it_understands(vcpus: int, memory: int, hugepages: bool) -> None:
    description = load_description("firecracker")
    spec = SPEC._replace(vcpus=vcpus, memory_mib=memory, hugepages=hugepages)
    for call in build_calls(spec):
        description.check_request(call.method, call.target, call.body)


@given(st.integers(0, 6), st.booleans())
def test_a_place_for_a_disk_has_the_node_that_its_turn_gives_it(cold: int, image: bool) -> None:
    devices = tuple(BlockDevice(f"b{number}", "/dev/sdx") for number in range(cold))
    spec = SPEC._replace(devices=devices, image="/srv/root.img" if image else None)
    drives = [call.body["drive_id"] for call in build_calls(spec) if call.target.startswith("/drives/")]
    for place in list_places(spec):
        assert place.node == f"/dev/vd{chr(ord('a') + drives.index(place.drive))}"


def test_limits_hold_for_every_disk_but_the_image_and_for_both_directions_of_a_card() -> None:
    limits = RateLimits(RateLimit(bytes_a_second=1000, burst_bytes=7), RateLimit(requests_a_second=10))
    description = load_description("firecracker")
    calls = build_calls(SPEC, limits)
    for call in calls:
        description.check_request(call.method, call.target, call.body)
    bucket = {"bandwidth": {"size": 1000, "refill_time": 1000, "one_time_burst": 7}}
    drives = {call.body["drive_id"]: call.body for call in calls if call.target.startswith("/drives/")}
    assert {name: body.get("rate_limiter") for name, body in drives.items()} == dict.fromkeys(drives, bucket) | {
        "image": None
    }
    [card] = [call.body for call in calls if call.target.startswith("/network-interfaces/")]
    assert card["rx_rate_limiter"] == card["tx_rate_limiter"] == {"ops": {"size": 10, "refill_time": 1000}}


def test_a_restored_vm_has_its_own_taps_behind_the_cards_that_were_saved() -> None:
    other = NetDevice("net-9", "02:00:00:00:00:09", (), tap="tap9_kata")
    own = SPEC._replace(devices=(*SPEC.devices[:-1], other))
    [card] = [call.body for call in build_calls(SPEC) if call.target.startswith("/network-interfaces/")]
    assert describe_restoring(own).body["network_overrides"] == [
        {"iface_id": card["iface_id"], "host_dev_name": "tap9_kata"}
    ]


def test_names_are_letters_and_digits() -> None:
    for call in build_calls(SPEC):
        assert call.target.rpartition("/")[2].replace("-", "").isalnum()
        if call.target.startswith(("/drives/", "/network-interfaces/")):
            assert call.target.rpartition("/")[2].isalnum()


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"vcpus": 0}, ConfigError, "cannot have 0 vCPUs"),
        ({"vcpus": 33}, ConfigError, "cannot have 33 vCPUs"),
        ({"max_vcpus": 4}, UnsupportedError, "cannot grow"),
        ({"max_memory_mib": 1024}, UnsupportedError, "cannot grow"),
        ({"memory_mib": 0}, ConfigError, "0 MiB"),
        ({"initrd": "/boot/initrd"}, ConfigError, "both an image and an initrd"),
        ({"devices": (SharedFs("kataShared", 5),)}, UnsupportedError, "SharedFs, which Firecracker has not"),
        ({"devices": (VfioDevice("gpu", "0000:01:00.0"),)}, UnsupportedError, "VfioDevice, which Firecracker has not"),
        ({"devices": (NetDevice("n", "02:00:00:00:00:01", (5,)),)}, UnsupportedError, "opens taps by their names"),
    ],
)
def test_a_vm_that_cannot_be_is_refused_by_its_name(
    change: dict[str, object], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=f"sandbox box.*{says}"):
        build_calls(SPEC._replace(**change))  # type: ignore[arg-type]


def test_it_is_jailed_under_the_sandboxs_user() -> None:
    cell = Cell("/run/box/jail", 0x70000001, below=f"firecracker/{name_jail('box')}/root")
    argv = build_arguments("/bin/jailer", "/bin/firecracker", cell, name_jail("box"))
    options = dict(zip(argv[1::2], argv[2::2], strict=False))
    assert options["--uid"] == options["--gid"] == str(0x70000001)
    assert cell.path == f"{options['--chroot-base-dir']}/firecracker/{options['--id']}/root"


def test_the_jails_name_is_one_that_the_jailer_takes() -> None:
    name = name_jail("k8s.io_a pod with everything")
    assert name.isalnum()
    assert len(name) <= 64
