"""Where a VM gets its disks, cards and devices: from its start, or in places for what comes later."""

from collections.abc import Sequence
from typing import NamedTuple

from kata.config.model import NO_PORT, NO_SHARED_FS, HypervisorConfig
from kata.hypervisor.driver import Capabilities
from kata.hypervisor.spec import NetDevice, VfioDevice
from kata.resources.size import VmSize
from kata.sandbox.needs import Needs
from kata.sandbox.site import Site

_MOST_PORTS = 15
_TEMPLATE_PORTS = 3


class Passed(NamedTuple):
    """Devices of the host for a VM: there from its start where `cold`, else plugged in when its agent is up."""

    devices: tuple[VfioDevice, ...] = ()
    cold: bool = False

    @property
    def first(self) -> tuple[VfioDevice, ...]:
        """Those that are there from the start."""
        return tuple(device._replace(in_port=True) for device in self.devices) if self.cold else ()

    @property
    def later(self) -> tuple[VfioDevice, ...]:
        """Those that are plugged in."""
        return () if self.cold else self.devices


NOTHING_PASSED = Passed()


def may_pass_devices(config: HypervisorConfig) -> bool:
    """Say whether VMs may have devices of the host."""
    return config.cold_plug_vfio != NO_PORT or config.hot_plug_vfio != NO_PORT


class Plan(NamedTuple):
    """What a VM has for what it needs: so many ports, and with `scsi` a controller for all disks.

    `devices` of the host are there from its start.
    """

    shares: bool
    ports: int
    scsi: bool
    devices: tuple[VfioDevice, ...] = ()


def make_plan(config: HypervisorConfig, capabilities: Capabilities, needs: Needs) -> Plan:
    """Say how a VM gets the host's files, and where its disks and other devices are plugged in."""
    shares = config.shared_fs != NO_SHARED_FS and capabilities.fs_share
    disks = needs.disks + (0 if shares else needs.roots)
    if takes_scsi(config, capabilities):
        return Plan(shares, min(needs.ports, _MOST_PORTS), scsi=needs.more or disks > 0)
    return Plan(shares, min(needs.ports + disks, _MOST_PORTS), scsi=False)


def takes_scsi(config: HypervisorConfig, capabilities: Capabilities) -> bool:
    """Say whether disks are at a SCSI controller."""
    return config.block_device_driver == "virtio-scsi" and capabilities.scsi


def find_want_of_ports(config: HypervisorConfig, plan: Plan, cards: int) -> str:
    """Return why a copy of a template has too few ports for what is to be in them, or an empty string."""
    ports, devices = count_template_ports(config), plan.shares + cards + plan.ports
    return f"it needs {devices} hot-plug ports, and a template has {ports}" if devices > ports else ""


def count_template_ports(config: HypervisorConfig) -> int:
    """Return the hot-plug ports of a template: for the share, two network cards, and what the configuration adds."""
    return _TEMPLATE_PORTS + config.pcie_root_port


def place_cards(cards: Sequence[NetDevice], plan: Plan) -> list[NetDevice]:
    """Have the network cards in ports, from which they can be taken out, where there is room for all."""
    in_port = plan.ports + len(plan.devices) + len(cards) <= _MOST_PORTS
    return [card._replace(in_port=in_port) for card in cards]


def limit_growth(site: Site, size: VmSize, capabilities: Capabilities) -> VmSize:
    if not size.most_vcpus or (capabilities.vcpu_hotplug and capabilities.memory_hotplug):
        return size
    site.log.write("warning", "the VM keeps its size: nothing can be plugged into it while it runs")
    return VmSize(size.vcpus, size.memory_mib)
