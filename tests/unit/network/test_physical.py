"""What is hardware among links."""

import pytest

from kata.network.physical import read_place


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("../../devices/pci0000:00/0000:00:1c.0/0000:03:00.0/net/enp3s0", "0000:03:00.0"),
        ("../../devices/pci0000:00/0000:00:09.0/virtio3/net/eth0", "0000:00:09.0"),
        ("../../devices/virtual/net/veth0", ""),
        ("../../devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0/net/eth1", ""),
    ],
    ids=["card", "virtio", "veth", "usb"],
)
def test_a_link_is_hardware_when_a_pci_device_itself_is_the_card(place: str, address: str) -> None:
    assert read_place(place) == address
