"""PCI devices as sysfs shows them, in a tree that a test makes."""

from pathlib import Path

import pytest

from kata.errors import HostError, NotFoundError, UsageError
from kata.resources.hostdevice import check_group, find_group_of_node, give_back, list_group, read_device


class Sysfs:
    """A host with PCI devices."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "kernel/iommu_groups").mkdir(parents=True)
        (root / "bus/pci/devices").mkdir(parents=True)

    def add(self, address: str, group: str = "", driver: str = "", kind: str = "0x020000") -> Path:
        place = self.root / "bus/pci/devices" / address
        place.mkdir()
        (place / "class").write_text(f"{kind}\n")
        (place / "driver_override").write_text("")
        if driver:
            (self.root / "bus/pci/drivers" / driver).mkdir(parents=True, exist_ok=True)
            (self.root / "bus/pci/drivers" / driver / "unbind").touch()
            (self.root / "bus/pci/drivers" / driver / "bind").touch()
            (place / "driver").symlink_to(self.root / "bus/pci/drivers" / driver)
        if group:
            devices = self.root / "kernel/iommu_groups" / group / "devices"
            devices.mkdir(parents=True, exist_ok=True)
            (devices / address).symlink_to(place)
            (place / "iommu_group").symlink_to(devices.parent)
        return place


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


def test_a_device_has_a_driver_and_a_group(sysfs: Sysfs) -> None:
    sysfs.add("0000:65:00.0", group="7", driver="ixgbevf")
    assert read_device("0000:65:00.0", str(sysfs.root)) == ("0000:65:00.0", "ixgbevf", "7")


def test_a_device_that_is_not_there_or_behind_no_iommu_is_refused_with_what_to_do(sysfs: Sysfs) -> None:
    sysfs.add("0000:65:00.0")
    with pytest.raises(HostError, match=r"0000:65:00\.0 is in no IOMMU group") as raised:
        read_device("0000:65:00.0", str(sysfs.root))
    assert "intel_iommu=on" in str(raised.value.hint)
    for address in ("0000:65:00.1", "../../etc"):
        with pytest.raises(NotFoundError, match="no PCI device"):
            read_device(address, str(sysfs.root))


def test_a_group_is_its_devices_without_bridges(sysfs: Sysfs) -> None:
    sysfs.add("0000:00:01.0", group="1", driver="pcieport", kind="0x060400")
    sysfs.add("0000:01:00.0", group="1", driver="vfio-pci")
    sysfs.add("0000:01:00.1", group="1")
    assert [device.address for device in list_group("1", str(sysfs.root))] == ["0000:01:00.0", "0000:01:00.1"]
    assert len(check_group("1", sysfs=str(sysfs.root))) == 2


def test_a_group_of_which_the_host_uses_another_device_is_refused_and_that_device_named(sysfs: Sysfs) -> None:
    sysfs.add("0000:01:00.0", group="1", driver="e1000e")
    assert check_group("1", "0000:01:00.0", str(sysfs.root))
    sysfs.add("0000:01:00.1", group="1", driver="ahci")
    with pytest.raises(HostError, match=r"the host itself uses 0000:01:00.1 \(driver ahci\) of it"):
        check_group("1", "0000:01:00.0", str(sysfs.root))


def test_a_host_without_any_group_hears_that_its_iommu_is_off(sysfs: Sysfs) -> None:
    with pytest.raises(NotFoundError, match="no IOMMU group 3") as raised:
        list_group("3", str(sysfs.root))
    assert "this host has no IOMMU" in str(raised.value.hint)
    sysfs.add("0000:01:00.0", group="1")
    with pytest.raises(NotFoundError) as raised:
        list_group("3", str(sysfs.root))
    assert raised.value.hint is None


def test_a_device_goes_back_to_its_driver(sysfs: Sysfs) -> None:
    place = sysfs.add("0000:65:00.0", group="7", driver="vfio-pci")
    sysfs.add("0000:66:00.0", driver="ixgbevf")
    (place / "driver_override").write_text("vfio-pci")

    give_back("0000:65:00.0", "ixgbevf", str(sysfs.root))

    assert (place / "driver_override").read_text().startswith("\n")
    assert (sysfs.root / "bus/pci/drivers/vfio-pci/unbind").read_text() == "0000:65:00.0"
    assert (sysfs.root / "bus/pci/drivers/ixgbevf/bind").read_text() == "0000:65:00.0"
    give_back("0000:99:00.0", "ixgbevf", str(sysfs.root))  # pulled out meanwhile


def test_the_group_of_a_node_is_told_by_the_kernel_not_by_its_path(sysfs: Sysfs) -> None:
    for number, name in (("511:0", "vfio/12"), ("10:196", "vfio/vfio"), ("1:3", "null")):
        place = sysfs.root / "dev/char" / number
        place.mkdir(parents=True)
        (place / "uevent").write_text(f"MAJOR=1\nDEVNAME={name}\n")
    assert find_group_of_node("/dev/vfio/3", 511, 0, str(sysfs.root)) == "12"
    assert not find_group_of_node("/dev/vfio/vfio", 10, 196, str(sysfs.root))
    for numbers in ((1, 3), (9, 9)):
        with pytest.raises(UsageError, match="/dev/vfio/3 is no IOMMU group of this host"):
            find_group_of_node("/dev/vfio/3", *numbers, str(sysfs.root))
