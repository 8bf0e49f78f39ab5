"""Devices of the host in a VM: a network card of the pod's, and IOMMU groups that a container is given.

The nested lab has such devices (`tests/lab/machine.py`). Elsewhere there is what is refused.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine import ALL_CAPABILITIES, HYPERVISOR, Container, Engine, combine, grant, kill_process
from kata.resources.hostdevice import give_back, read_device, take_device
from lab.machine import CARD, GATEWAY, PAIR, RNG
from netns import run_ip
from podnet import PodNet
from polling import wait_until

_HAS_IOMMU = bool(os.environ.get("KATA_LAB")) and HYPERVISOR in ("qemu", "clh")
needs_iommu = pytest.mark.skipif(
    not _HAS_IOMMU, reason="NO IOMMU WITH SPARE DEVICES, OR NO VFIO: no device is passed to a VM; run make test-lab"
)
_NAME, _ADDRESS, _MAC, _MTU = "phys0", "10.0.2.15/24", "02:00:00:00:0f:99", "1300"
_HOT = 'hot_plug_vfio = "root-port"\n'


def _find_link() -> str:
    """Return the name of the card's link, which a namespace that was deleted gives back a moment later."""
    place = Path(f"/sys/bus/pci/devices/{CARD}")
    wait_until(lambda: any(place.glob("virtio*/net/*")))
    return next(place.glob("virtio*/net/*")).name


@pytest.fixture
def card(engine: Engine) -> Iterator[PodNet]:
    """The lab's network card in a pod's namespace, as CNI's host-device puts it there."""
    net = PodNet(f"{engine.token}-phys", "")
    run_ip("netns", "add", net.pod)
    try:
        run_ip("link", "set", _find_link(), "netns", net.pod, "name", _NAME)
        run_ip("-n", net.pod, "link", "set", _NAME, "address", _MAC, "mtu", _MTU, "up")
        run_ip("-n", net.pod, "addr", "add", _ADDRESS, "dev", _NAME)
        run_ip("-n", net.pod, "route", "add", "default", "via", GATEWAY)
        yield net
    finally:
        engine.configure("")
        run_ip("netns", "del", net.pod)  # what is hardware comes out of it


def _describe_links(net: PodNet) -> list[dict[str, Any]]:
    shown = subprocess.run(["ip", "-n", net.pod, "-j", "link"], check=True, capture_output=True, timeout=10).stdout
    return [link for link in json.loads(shown) if link["ifname"] != "lo"]


@needs_iommu
@pytest.mark.parametrize("option", ["cold_plug_vfio", "hot_plug_vfio"])
def test_a_network_card_of_the_host_is_the_guests_and_comes_back(engine: Engine, card: PodNet, option: str) -> None:
    engine.configure(f'{option} = "root-port"\n')
    with engine.hold("sleep", "1000", change=combine(card.join, grant(*ALL_CAPABILITIES)), name="card") as held:
        assert read_device(CARD).driver == "vfio-pci"
        assert not _describe_links(card)
        shown = held.ask("ip", "addr", "show", _NAME)
        assert f"inet {_ADDRESS} " in shown
        assert f"mtu {_MTU} " in shown
        assert _MAC in shown
        assert f"default via {GATEWAY} dev {_NAME}" in held.ask("ip", "route")
        assert "/pci0000:00/" in held.ask("readlink", "-f", f"/sys/class/net/{_NAME}")
        held.ask("ping", "-c", "1", "-W", "20", GATEWAY)
    assert read_device(CARD).driver == "virtio-pci"
    assert [link["ifname"] for link in _describe_links(card)] == [_NAME]


@needs_iommu
def test_a_network_card_comes_back_by_gc_after_a_crash(engine: Engine, card: PodNet) -> None:
    engine.configure(_HOT)
    with engine.hold("sleep", "1000", change=card.join, name="crashed") as held:
        kill_process(engine.find_process("serve", held.sandbox))
        held.wait()
        assert engine.succeed("gc")
        assert read_device(CARD).driver == "virtio-pci"
        assert [link["ifname"] for link in _describe_links(card)] == [_NAME]


@needs_iommu
def test_a_network_card_is_a_link_like_any_other_where_no_port_is_for_it(engine: Engine, card: PodNet) -> None:
    with engine.hold("sleep", "1000", change=combine(card.join, grant(*ALL_CAPABILITIES)), name="tapped") as held:
        assert read_device(CARD).driver == "virtio-pci"
        held.ask("ping", "-c", "1", "-W", "20", GATEWAY)


@contextmanager
def _taken(*addresses: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Have devices bound to vfio-pci; yield what gives their group to a container."""
    drivers = {address: read_device(address).driver for address in addresses}
    for address in addresses:
        take_device(address)
    try:
        yield _give_group(read_device(addresses[0]).group)
    finally:
        for address, driver in drivers.items():
            give_back(address, driver)


def _give_group(group: str, number: tuple[int, int] | None = None) -> Callable[[dict[str, Any]], None]:
    path = f"/dev/vfio/{group}"

    def change(spec: dict[str, Any]) -> None:
        status = None if number else os.stat(path)
        major, minor = number or (os.major(status.st_rdev), os.minor(status.st_rdev))  # type: ignore[union-attr]
        device = {"path": path, "type": "c", "major": major, "minor": minor}
        rule = {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        spec["linux"].setdefault("devices", []).append(device)
        spec["linux"].setdefault("resources", {}).setdefault("devices", []).append(rule)

    return change


def _list_entropy(held: Container) -> list[str]:
    return [name for name in held.ask("cat", "/sys/class/misc/hw_random/rng_available").split() if name != "none"]


@needs_iommu
def test_a_guests_driver_has_the_device_of_a_container_and_lets_go_of_it(engine: Engine) -> None:
    engine.configure(_HOT)
    with _taken(RNG) as give, engine.hold("sleep", "1000", name="pod") as pod:
        assert len(_list_entropy(pod)) == 1
        with engine.hold("sleep", "1000", pod=pod.id, change=give, name="device") as held:
            assert len(_list_entropy(held)) == 2
            assert held.execute("ls", "/dev/vfio").code != 0
        assert len(_list_entropy(pod)) == 1
        assert os.stat(f"/dev/vfio/{read_device(RNG).group}").st_uid == 0
    engine.configure("")


@needs_iommu
@pytest.mark.skipif(HYPERVISOR == "clh", reason="CLOUD HYPERVISOR HAS NO IOMMU FOR ITS VMS: the next test is of that")
def test_a_container_has_its_group_by_vfio_where_the_configuration_says_so(engine: Engine) -> None:
    engine.configure(f'{_HOT}[runtime]\nvfio_mode = "vfio"\n')
    with _taken(RNG) as give, engine.hold("sleep", "1000", change=give, name="vfio") as held:
        [group] = [name for name in held.ask("ls", "/dev/vfio").split() if name != "vfio"]
        [device] = held.ask("ls", f"/sys/kernel/iommu_groups/{group}/devices").split()
        assert held.ask("readlink", f"/sys/bus/pci/devices/{device}/driver").strip().endswith("/vfio-pci")
        held.ask("sh", "-c", f"exec 3<>/dev/vfio/{group}")
    engine.configure("")


@pytest.mark.skipif(HYPERVISOR != "clh", reason="NOT CLOUD HYPERVISOR, whose VMs alone lack an IOMMU for them")
def test_devices_of_the_host_are_not_handed_on_by_vfio_without_an_iommu(engine: Engine) -> None:
    engine.configure(f'{_HOT}[runtime]\nvfio_mode = "vfio"\n')
    result = engine.run_container("true", name="handed-on")
    engine.configure("")
    assert result.code != 0
    assert "VMs of Cloud Hypervisor have none" in result.err
    assert "guest-kernel" in result.err


@needs_iommu
def test_a_group_of_which_the_host_uses_a_device_is_refused_and_the_device_named(engine: Engine) -> None:
    engine.configure(_HOT)
    with _taken(PAIR[0]) as give:
        result = engine.run_container("true", change=give, name="half")
    engine.configure("")
    assert result.code != 0
    assert f"the host itself uses {PAIR[1]} (driver virtio-pci)" in result.err


def test_a_group_is_refused_where_the_configuration_has_no_ports_for_it(engine: Engine) -> None:
    result = engine.run_container("true", change=_give_group("7", (511, 7)), name="closed")
    assert result.code != 0
    assert "/dev/vfio/7 cannot be had: VMs get no devices of the host" in result.err
    assert "set hot_plug_vfio" in result.err


def test_a_group_that_the_host_does_not_have_is_refused(engine: Engine) -> None:
    engine.configure(_HOT)
    result = engine.run_container("true", change=_give_group("7", (511, 7)), name="absent")
    engine.configure("")
    assert result.code != 0
    assert "/dev/vfio/7 is no IOMMU group of this host" in result.err
    assert "turn the host's IOMMU on" in result.err
