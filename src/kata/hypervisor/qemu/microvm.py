"""The machine `microvm`: no PCI, so that a guest has less to look for. Each device is one of virtio-mmio's.

It has no hot-plug and no growth; what needs them is not declared. Source: docs/system/i386/microvm.rst of QEMU.
"""

from collections.abc import Iterator
from itertools import pairwise

from kata.hypervisor.spec import NetDevice, VmSpec

KIND = "microvm"
SWITCHES = {"rtc": True, "graphics": False, "usb": False, "dump-guest-core": False, "isa-serial": False}
"""What of the machine is turned on and off, beside what it has not. Its own serial port would hide the console's.

Under KVM it has no clock unless told, and Linux waits a second for one that is not there to be readable, by forty
thousand accesses to its ports (mc146818_does_rtc_work in drivers/rtc/rtc-mc146818-lib.c).
"""

# Modern devices: the transport's default is the draft before virtio 1.0.
_TRANSPORT = ("-global", "virtio-mmio.force-legacy=false")
_PCI_ONLY = ("disable-legacy=", "romfile=", "vectors=")


def fix_devices(spec: VmSpec) -> VmSpec:
    """Return the VM without places for devices to come, and with no card where it could be taken out."""
    devices = tuple(card._replace(in_port=False) if isinstance(card, NetDevice) else card for card in spec.devices)
    return spec._replace(hotplug_ports=0, scsi=False, max_vcpus=0, max_memory_mib=0, devices=devices)


def put_on_mmio(arguments: list[str]) -> Iterator[str]:
    """Yield a command line with the PCI form of each device replaced."""
    yield from arguments[:1]
    yield from _TRANSPORT
    for word, value in pairwise(arguments):
        yield _move(value) if word == "-device" else value


def _move(device: str) -> str:
    head, *properties = device.split(",")
    if not head.endswith("-pci"):
        return device
    kept = [text for text in properties if not text.startswith(_PCI_ONLY)]
    return ",".join([f"{head.removesuffix('-pci')}-device", *kept])
