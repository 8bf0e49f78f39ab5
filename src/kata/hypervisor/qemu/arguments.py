"""QEMU's command line from a VM's description. Pure: the same spec, machine and descriptors give the same list.

Options are those of QEMU 7.2's qemu-system(1). Nothing is created that the guest does not use: no default devices, no
firmware tables for hardware that is not there. Everything the VMM would open by path comes as a descriptor, because its
user may open nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kata.errors import ConfigError
from kata.hypervisor.accelerator import Accelerator
from kata.hypervisor.qemu import microvm
from kata.hypervisor.spec import (
    Balloon,
    BlockDevice,
    Device,
    NetDevice,
    Rng,
    SerialPort,
    SharedFs,
    VfioDevice,
    VmSpec,
    Vsock,
)

FIRST_PORT_SLOT = 0x10
LAST_PORT_SLOT = 0x1E  # 0x1f is the ISA bridge
SCSI = "scsi0"
MOST_PORTS = LAST_PORT_SLOT - FIRST_PORT_SLOT + 1

GROWTH = "dev-growth"
"""The virtio-mem device by which the memory grows and shrinks."""

SECCOMP = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

# Turning off what costs start-up time or attack surface and is in no container's way.
_SWITCHES = dict.fromkeys(("hpet", "sata", "smbus", "usb", "graphics", "vmport", "dump-guest-core"), False)

# Five-level page tables make every walk of the emulated TLB longer. With ERMS kernel and C library copy by `rep movsb`,
# which TCG carries out byte by byte.
_TCG_CPU = "max,la57=off,erms=off"

# The emulated TSC is the host's, so the clock that the kernel would watch it by is the worse one: a busy host loses
# timer interrupts, and a guest that then trusts jiffies runs slow. Mitigations are translated like other code into
# something else, which protects from nothing.
# init_on_alloc: QEMU translates a page of code once and notices the guest's own writes to it, not virtiofsd's. A page
# that held code and then gets a file from the share would run as the old code (seen with QEMU 10, as segmentation
# faults); when the kernel clears each page that it hands out, QEMU drops the translation.
_TCG_PARAMETERS: tuple[str, ...] = ("tsc=reliable", "mitigations=off", "init_on_alloc=1")


class Machine(NamedTuple):
    """What depends on the host, not on the VM.

    `tb_size` is TCG's cache of translated code, in MiB; `tsc_khz` the frequency of the time stamp counter that TCG's
    guest has, 0 where it has to find out itself.
    """

    binary: str
    accelerator: Accelerator
    kind: str = "q35"
    cpu: str = ""
    tb_size: int = 128
    firmware: str = ""
    tsc_khz: int = 0


class Descriptors(NamedTuple):
    """The descriptors that the VMM inherits. `console` and `qmp` are connected sockets.

    `disks` has one for every `BlockDevice.id`, `ports` a listening socket for every `SerialPort.name`.
    """

    qmp: int
    console: int
    kernel: int
    disks: Mapping[str, int]
    ports: Mapping[str, int]
    initrd: int | None = None
    image: int | None = None
    memory: int | None = None
    """The file that is the guest's memory; None leaves it to QEMU."""


def format_option(head: str, properties: Mapping[str, object]) -> str:
    """`head,key=value,…` with commas in values doubled, as QEMU's option parser wants them. None leaves a key out."""
    parts = [head] if head else []
    for key, value in properties.items():
        if value is None:
            continue
        text = ("on" if value else "off") if isinstance(value, bool) else str(value)
        parts.append(f"{key}={text.replace(',', ',,')}")
    return ",".join(parts)


def build_arguments(spec: VmSpec, machine: Machine, descriptors: Descriptors) -> list[str]:
    """The whole command line, the binary first. Raise ConfigError for a spec that no QEMU can be given."""
    _check(spec)
    arguments = _list_arguments(spec, machine, descriptors)
    return list(microvm.put_on_mmio(arguments)) if machine.kind == microvm.KIND else arguments


def _list_arguments(spec: VmSpec, machine: Machine, descriptors: Descriptors) -> list[str]:
    return [
        machine.binary,
        *("-name", format_option("", {"guest": f"sandbox-{spec.id}", "debug-threads": True})),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-vga", "none"),
        *("-sandbox", SECCOMP),
        *_describe_machine(spec, machine, descriptors.memory),
        *_describe_boot(spec, machine, descriptors),
        *_describe_wires(descriptors),
        *_describe_ports(spec),
        *_describe_devices(spec, descriptors),
        # An id that changes under a guest tells it that it is a copy.
        *(("-device", "vmgenid,guid=auto") if spec.savable or spec.saved else ()),
        *(("-incoming", "defer") if spec.saved else ()),
        *(("-S",) if spec.paused else ()),
    ]


def list_borrowed_descriptors(spec: VmSpec) -> list[int]:
    """Descriptors that the devices of a spec lend to the VMM."""
    lent: list[int] = []
    for device in spec.devices:
        match device:
            case NetDevice():
                lent += [*device.taps, *device.vhost]
            case SharedFs():
                lent.append(device.socket)
            case Vsock():
                lent.append(device.vhost)
            case _:
                pass
    return lent


def list_cards_in_ports(spec: VmSpec) -> dict[str, str]:
    """Return id and QEMU's name of each device that is in a port from the start, the one in the first port first.

    Network cards, whose names begin with `net`, and devices of the host.
    """
    cards: dict[str, str] = {}
    for index, device in enumerate(_list_cards(spec)):
        if isinstance(device, NetDevice | VfioDevice) and device.in_port:
            cards[device.id] = f"{'net' if isinstance(device, NetDevice) else 'vfio'}{index}"
    return cards


def _list_cards(spec: VmSpec) -> list[Device]:
    return [device for device in spec.devices if not isinstance(device, SerialPort)]


def _check(spec: VmSpec) -> None:
    if spec.vcpus < 1 or (spec.max_vcpus and spec.max_vcpus < spec.vcpus):
        raise ConfigError(f"sandbox {spec.id} cannot have {spec.vcpus} vCPUs of at most {spec.max_vcpus}")
    if spec.memory_mib < 1 or (spec.max_memory_mib and spec.max_memory_mib < spec.memory_mib):
        raise ConfigError(f"sandbox {spec.id} cannot have {spec.memory_mib} MiB of at most {spec.max_memory_mib} MiB")
    ports = spec.hotplug_ports + len(list_cards_in_ports(spec))
    if not 0 <= ports <= MOST_PORTS:
        raise ConfigError(f"sandbox {spec.id} cannot have {ports} hot-plug ports", hint=f"0 to {MOST_PORTS}")
    if spec.image and spec.initrd:
        raise ConfigError(f"sandbox {spec.id} has both an image and an initrd", hint="set one of them")


def _describe_machine(spec: VmSpec, machine: Machine, memory: int | None) -> Iterator[str]:
    yield "-machine"
    switches = microvm.SWITCHES if machine.kind == microvm.KIND else _SWITCHES
    yield format_option(machine.kind, {"memory-backend": "ram", **switches})
    yield "-accel"
    if machine.accelerator == "kvm":
        yield "kvm"
        yield from ("-cpu", machine.cpu or "host,pmu=off")
        # The guest keeps time by kvmclock; ticks that were lost need no replay.
        if machine.kind != microvm.KIND:
            yield from ("-global", "kvm-pit.lost_tick_policy=discard")
    else:
        yield format_option("tcg", {"thread": "multi", "tb-size": machine.tb_size})
        yield from ("-cpu", machine.cpu or _TCG_CPU)
    # Linux counts a vCPU that may come only where it knows its hypervisor, and it does not know TCG
    # (acpi_is_processor_usable in arch/x86/kernel/acpi/boot.c). There all are present, and asleep: see _describe_boot.
    present = max(spec.vcpus, spec.max_vcpus) if machine.accelerator == "tcg" else spec.vcpus
    yield from ("-smp", format_option(str(present), {"maxcpus": spec.max_vcpus or None}))
    growth = spec.max_memory_mib - spec.memory_mib
    maximum = {"slots": 1, "maxmem": f"{spec.max_memory_mib}M"} if growth > 0 else {}
    yield from ("-m", format_option("", {"size": f"{spec.memory_mib}M", **maximum}))
    # Huge pages are taken at once: a VM that finds none left when the guest touches one dies of SIGBUS.
    huge = {"hugetlb": True, "prealloc": True} if spec.hugepages else {}
    backing = huge if memory is None else {"mem-path": f"/proc/self/fd/{memory}"}
    yield from ("-object", _describe_memory("ram", spec.memory_mib, backing))
    if growth > 0:
        yield from ("-object", _describe_memory("growth", growth, {}))
        front = {"id": GROWTH, "memdev": "growth", "requested-size": 0, "disable-legacy": "on"}
        yield from ("-device", format_option("virtio-mem-pci", front))
    yield from ("-rtc", "base=utc,clock=host")


def _describe_memory(name: str, mib: int, more: Mapping[str, object]) -> str:
    """A file of memory: shared, because vhost-user daemons map the guest's."""
    kind = "memory-backend-file" if "mem-path" in more else "memory-backend-memfd"
    return format_option(kind, {"id": name, "size": f"{mib}M", "share": True, **more})


def _describe_boot(spec: VmSpec, machine: Machine, descriptors: Descriptors) -> Iterator[str]:
    if machine.firmware:
        yield from ("-bios", machine.firmware)
    yield from ("-kernel", f"/proc/self/fd/{descriptors.kernel}")
    if descriptors.initrd is not None:
        yield from ("-initrd", f"/proc/self/fd/{descriptors.initrd}")
    # First, so that what an operator asks for is the last word.
    own = _TCG_PARAMETERS if machine.accelerator == "tcg" else ()
    if own and machine.tsc_khz:
        own = (*own, f"tsc_early_khz={machine.tsc_khz}")
    if own and spec.max_vcpus > spec.vcpus:
        own = (*own, f"maxcpus={spec.vcpus}")
    yield from ("-append", " ".join((*own, *spec.kernel_parameters)))


def _describe_wires(descriptors: Descriptors) -> Iterator[str]:
    """Control and console. Both are sockets that are connected already, so nothing waits for a path to appear."""
    yield from ("-chardev", format_option("socket", {"id": "qmp", "fd": descriptors.qmp}))
    yield from ("-mon", "chardev=qmp,mode=control")
    yield from ("-chardev", format_option("socket", {"id": "console", "fd": descriptors.console}))
    yield from ("-device", "isa-serial,chardev=console")


def _describe_ports(spec: VmSpec) -> Iterator[str]:
    """What devices are plugged into later: root ports, as a PCIe root bus itself takes none while the VM runs."""
    for index in range(spec.hotplug_ports + len(list_cards_in_ports(spec))):
        slot = f"{FIRST_PORT_SLOT + index:#x}"
        port = {"id": f"rp{index}", "bus": "pcie.0", "addr": slot, "chassis": index + 1, "io-reserve": 0}
        yield from ("-device", format_option("pcie-root-port", port))
    if spec.iommu:
        yield from ("-device", "virtio-iommu-pci,disable-legacy=on")
    if spec.scsi:
        yield from ("-device", f"virtio-scsi-pci,id={SCSI},disable-legacy=on")


def _describe_devices(spec: VmSpec, descriptors: Descriptors) -> Iterator[str]:
    sets = 0
    if descriptors.image is not None:
        sets += 1
        yield from _describe_disk("image", descriptors.image, sets, BlockDevice("image", "", readonly=True))
    serial = [device for device in spec.devices if isinstance(device, SerialPort)]
    if serial:
        # Port 0 is reserved for a console, so names begin at 1.
        yield from ("-device", f"virtio-serial-pci,id=vserial,max_ports={len(serial) + 1},disable-legacy=on")
    for index, port in enumerate(serial):
        listening = {"id": f"port{index}", "fd": descriptors.ports[port.name], "server": True, "wait": False}
        yield from ("-chardev", format_option("socket", listening))
        named = {"bus": "vserial.0", "nr": index + 1, "chardev": f"port{index}", "name": port.name}
        yield from ("-device", format_option("virtserialport", named))
    ports = {name: index for index, name in enumerate(list_cards_in_ports(spec).values())}
    for index, device in enumerate(_list_cards(spec)):
        if isinstance(device, BlockDevice):
            sets += 1
            yield from _describe_disk(f"disk{index}", descriptors.disks[device.id], sets, device)
        elif isinstance(device, NetDevice):
            yield from _describe_net(f"net{index}", device, ports.get(f"net{index}"))
        elif isinstance(device, VfioDevice):
            name = f"vfio{index}"
            bus = {"bus": f"rp{ports[name]}"} if name in ports else {}
            yield from ("-device", format_option("vfio-pci", {"id": f"dev-{name}", **bus, **describe_vfio(device)}))
        else:
            yield from _describe_device(index, device)


def _describe_disk(node: str, descriptor: int, number: int, device: BlockDevice) -> Iterator[str]:
    yield from ("-add-fd", format_option("", {"fd": descriptor, "set": number}))
    backend = {"driver": "file", "node-name": node, **describe_disk_backend(number, device)}
    cache = backend.pop("cache", {})
    flat = {**backend, **{f"cache.{key}": value for key, value in cache.items()}}
    yield from ("-blockdev", format_option("", flat))
    yield from ("-device", format_option("virtio-blk-pci", describe_disk_frontend(node, device)))


def describe_disk_backend(number: int, device: BlockDevice) -> dict[str, Any]:
    """Properties of the block node on a set of descriptors, as QMP takes them.

    Without QEMU's own locks: the sandbox has claimed the disk before, for whichever VMM (`storage/claim.py`).
    """
    cache = {"direct": device.direct, **({"no-flush": True} if device.no_flush else {})}
    backend = {"filename": f"/dev/fdset/{number}", "read-only": device.readonly, "locking": "off", "cache": cache}
    backend |= {"discard": "unmap"} if device.discard else {}
    return {**backend, **({} if device.aio == "threads" else {"aio": device.aio})}


def describe_disk_frontend(node: str, device: BlockDevice) -> dict[str, object]:
    """Properties of a virtio disk on a block node. The guest reads 20 characters of serial at most."""
    return {"id": f"dev-{node}", "drive": node, "serial": device.id[:20], "disable-legacy": "on"}


def describe_net_frontend(name: str, device: NetDevice) -> dict[str, object]:
    """Properties of a virtio network card on the netdev of this name.

    No boot ROM: nobody boots from the network. No `host_mtu`: the agent sets the MTU, and a card that was made with
    one takes none beyond it later.
    """
    queues = len(device.taps)
    many: dict[str, object] = {"mq": True, "vectors": 2 * queues + 2} if queues > 1 else {}
    front: dict[str, object] = {"id": f"dev-{name}", "netdev": name, "mac": device.mac, "disable-legacy": "on"}
    return {**front, "romfile": "", **many}


def describe_share_frontend(name: str, device: SharedFs) -> dict[str, object]:
    """Properties of a shared file system on the character device of this name."""
    return {"chardev": name, "tag": device.tag, "queue-size": device.queue_size}


def describe_vfio(device: VfioDevice) -> dict[str, object]:
    """Properties of a device of the host. No ROM of it: nobody boots from it."""
    return {"host": device.address, "rombar": 0}


def _describe_net(name: str, device: NetDevice, port: int | None) -> Iterator[str]:
    taps = ":".join(str(descriptor) for descriptor in device.taps)
    vhosts = ":".join(str(descriptor) for descriptor in device.vhost)
    # A single descriptor has an option of its own; the plural ones are for queues.
    one, many = ("fd", "vhostfd") if len(device.taps) == 1 else ("fds", "vhostfds")
    backend = {"id": name, one: taps, "vhost": True if vhosts else None, many: vhosts or None}
    yield from ("-netdev", format_option("tap", backend))
    front = {"bus": None if port is None else f"rp{port}", **describe_net_frontend(name, device)}
    yield from ("-device", format_option("virtio-net-pci", front))


def _describe_device(index: int, device: Device) -> Iterator[str]:
    match device:
        case SharedFs():
            name = f"fs{index}"
            yield from ("-chardev", format_option("socket", {"id": name, "fd": device.socket}))
            yield from ("-device", format_option("vhost-user-fs-pci", describe_share_frontend(name, device)))
        case Vsock():
            front = {"vhostfd": device.vhost, "guest-cid": device.cid, "disable-legacy": "on"}
            yield from ("-device", format_option("vhost-vsock-pci", front))
        case Rng():
            yield from ("-object", f"rng-builtin,id=rng{index}")
            yield from ("-device", f"virtio-rng-pci,rng=rng{index},disable-legacy=on")
        case Balloon():
            yield from ("-device", "virtio-balloon-pci,free-page-reporting=on,disable-legacy=on")
        case _:
            raise AssertionError(device)
