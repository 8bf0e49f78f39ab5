"""What a VM is, in values that name no VMM. A driver turns them into its VMM's language.

Descriptors in a spec are borrowed: the caller opened them, keeps them open until `start` or the hot-plug returned, and
closes them afterwards. Paths are opened by the driver, so that the VMM itself needs no permission on any path.

Named tuples: a frozen dataclass costs 0.45 ms to define and these 0.06 ms, on the way to each pod.
"""

from typing import Literal, NamedTuple


class BlockDevice(NamedTuple):
    """A disk: an image file or a block device at `path`. `id` is unique in the VM; the guest sees it as the serial."""

    id: str
    path: str
    readonly: bool = False
    direct: bool = False
    """Bypass the host's page cache (O_DIRECT)."""
    no_flush: bool = False
    """Tell the guest that what it flushes is safe, and do nothing."""
    aio: str = "threads"
    """How the VMM reads and writes: `threads`, `native`, which needs `direct`, or `io_uring`."""
    discard: bool = False
    """Give back on the host what the guest discards, where the VMM can."""


class NetDevice(NamedTuple):
    """A network card on tap queues. `vhost` holds one /dev/vhost-net descriptor a queue, or nothing.

    `in_port` puts a card of a new VM into a hot-plug port, so that it can be unplugged.
    For a VMM that opens taps by itself (`Capabilities.opens_taps`), `tap` is the name of one that nobody has open.
    """

    id: str
    mac: str
    taps: tuple[int, ...]
    vhost: tuple[int, ...] = ()
    in_port: bool = False
    tap: str = ""


class SharedFs(NamedTuple):
    """A vhost-user file system. `socket` is a descriptor connected to its daemon.

    With -1 the VMM is to connect to `path`, at which the daemon listens (`Capabilities.connects_shares`).
    """

    tag: str
    socket: int
    queue_size: int = 1024
    path: str = ""


class Vsock(NamedTuple):
    """Kernel vsock. `vhost` is an open /dev/vhost-vsock with nothing set on it yet."""

    cid: int
    vhost: int


class HybridVsock(NamedTuple):
    """Vsock that ends in the VMM, at a Unix socket where the host asks for a port (`Hypervisor.find_hybrid_socket`)."""

    cid: int


class SerialPort(NamedTuple):
    """A byte stream that the guest finds by `name`; the driver listens at `path` for the host's side."""

    name: str
    path: str


class Rng(NamedTuple):
    """Entropy from the host."""


class Balloon(NamedTuple):
    """Gives pages that the guest freed back to the host (free page reporting)."""


class VfioDevice(NamedTuple):
    """A PCI device of the host, by address (`0000:65:00.0`), bound to vfio-pci.

    The VMM's user may open the node of its IOMMU group. `in_port` puts it into a hot-plug port of a new VM, where
    `Vm.locate` finds it.
    """

    id: str
    address: str
    in_port: bool = False


Device = BlockDevice | NetDevice | SharedFs | Vsock | HybridVsock | SerialPort | Rng | Balloon | VfioDevice


class Plugged(NamedTuple):
    """A device in the place that it had in a saved VM: the number of its hot-plug port, or of its SCSI target."""

    place: int
    device: BlockDevice | NetDevice


class VmSpec(NamedTuple):
    """A whole VM.

    `directory` is the sandbox's own: the console's log goes there. `image` becomes the first disk (/dev/vda),
    read-only, or with `image_dax` memory of the guest's (/dev/pmem0), which is the host's pages of it for as long as
    the guest writes nothing to them.
    `max_vcpus` and `max_memory_mib` of 0 mean: no more than at start. `hotplug_ports` bounds how many
    devices can be plugged in later, besides those that are in a port already. `paused` leaves the vCPUs stopped until
    `resume`.
    `hugepages` takes all of the memory from the host's reserved huge pages, at once.
    `firmware` makes it a confidential guest, which starts with that, and whose memory the host cannot read.
    `scsi` gives it a SCSI controller, to which disks are plugged in later, and none of them takes a port.
    `host_devices` says that it may have devices of the host, from its start or later.
    `iommu` puts one before them, so that the guest can pass them on by VFIO itself.

    A VM that is `savable` can be saved. `saved` is the directory where another one was, which this one goes on from:
    the two are the same in all but their names and paths. `plugged` is what was plugged into that one.
    """

    id: str
    directory: str
    kernel: str
    vcpus: int
    memory_mib: int
    image: str | None = None
    initrd: str | None = None
    kernel_parameters: tuple[str, ...] = ()
    max_vcpus: int = 0
    max_memory_mib: int = 0
    devices: tuple[Device, ...] = ()
    hotplug_ports: int = 0
    paused: bool = False
    hugepages: bool = False
    savable: bool = False
    saved: str = ""
    scsi: bool = False
    firmware: str = ""
    plugged: tuple[Plugged, ...] = ()
    host_devices: bool = False
    iommu: bool = False
    image_dax: bool = False


class PciAddress(NamedTuple):
    """Where the guest finds a device: slots from the root bus down, as the agent's protocol writes it (`03/00`)."""

    path: str


class DiskAddress(NamedTuple):
    """Where the guest finds a disk, in the words of the agent's protocol.

    `driver` is `blk` with PCI slots from the root bus down (`03/00`), `scsi` with target and unit (`4:0`), or `mmioblk`
    with the guest's node (`/dev/vdb`).
    """

    driver: Literal["blk", "scsi", "mmioblk"]
    source: str


VmState = Literal["created", "running", "paused", "ended"]
