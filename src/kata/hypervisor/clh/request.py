"""Cloud Hypervisor's requests from a VM's description. Pure: the same spec gives the same values.

Names and types are those of its OpenAPI description, `vmm/src/api/openapi/cloud-hypervisor.yaml`, version 0.3.0. Paths
are names in the VMM's own directory, where it starts.
"""

from typing import Any

from kata.errors import ConfigError, UnsupportedError
from kata.hypervisor.cell import FIRMWARE, IMAGE, INITRD, KERNEL, MEMORY, VSOCK_SOCKET, name_disk
from kata.hypervisor.ratelimit import NO_LIMIT, UNLIMITED, RateLimit, RateLimits, describe_limit
from kata.hypervisor.spec import (
    Balloon,
    BlockDevice,
    HybridVsock,
    NetDevice,
    Rng,
    SharedFs,
    VfioDevice,
    VmSpec,
)

SAVED = "saved"
"""The name in the cell of the directory of a VM that is saved or restored; its memory is in a file beside that."""

SAVED_FILES = {"config": f"{SAVED}/config.json", "state": f"{SAVED}/state.json"}
"""What is in that directory, by the names that it has outside."""

VFIO = "/dev/vfio"
"""Where it opens VFIO's container and IOMMU groups. Of sysfs it opens nothing: a device's `iommu_group` is a link that
it reads, and no right of Landlock's is about reading links (Documentation/userspace-api/landlock.rst)."""

IMAGE_UNIT = 2 << 20
"""What the size of an image that is memory has to be a multiple of."""

_MIB = 1 << 20
_HOTPLUG_UNIT_MIB = 128  # its alignment of memory that comes later


def name_share(tag: str) -> str:
    """The name of a share's socket in the cell."""
    return f"fs-{tag}.sock"


def build_vm(spec: VmSpec, limits: RateLimits = UNLIMITED, *, landlock: bool) -> dict[str, Any]:
    """The body of vm.create. Raise ConfigError for a VM that cannot be, UnsupportedError for a device it has not.

    Network cards are no part of it: their descriptors go with a call of their own, `describe_net`.
    """
    _check(spec)
    config: dict[str, Any] = {
        "payload": _describe_payload(spec),
        # A guest needs no KVM of its own, and without it less of the host's kernel is open to it.
        "cpus": {"boot_vcpus": spec.vcpus, "max_vcpus": spec.max_vcpus or spec.vcpus, "nested": False},
        "memory": _describe_memory(spec),
        "serial": {"mode": "Tty"},
        "console": {"mode": "Off"},
        "pvpanic": True,
        "landlock_enable": landlock,
    }
    if landlock:
        # What is plugged in later appears in this directory, but for groups. Which those will be nobody knows yet: of
        # their nodes it can open those that its user is lent.
        paths = (".", VFIO) if spec.host_devices else (".",)
        config["landlock_rules"] = [{"path": path, "access": "rw"} for path in paths]
    if platform := _describe_platform(spec):
        config["platform"] = platform
    disks = [] if spec.image is None or spec.image_dax else [_describe_image()]
    config.update(_describe_pmem(spec))
    shares: list[dict[str, Any]] = []
    for device in spec.devices:
        match device:
            case BlockDevice():
                disks.append(describe_disk(device, limits.disk))
            case SharedFs():
                shares.append(describe_share(device))
            case HybridVsock():
                config["vsock"] = {"cid": device.cid, "socket": VSOCK_SOCKET}
            case Rng():
                config["rng"] = {"src": "/dev/urandom"}
            case Balloon():
                config.update(_describe_balloon(spec))
            case NetDevice() | VfioDevice():
                pass
            case _:
                kind = type(device).__name__
                raise UnsupportedError(f"sandbox {spec.id} has a {kind}, which Cloud Hypervisor has not")
    if disks:
        config["disks"] = disks
    if shares:
        config["fs"] = shares
    return config


def _check(spec: VmSpec) -> None:
    if spec.vcpus < 1 or (spec.max_vcpus and spec.max_vcpus < spec.vcpus):
        raise ConfigError(f"sandbox {spec.id} cannot have {spec.vcpus} vCPUs of at most {spec.max_vcpus}")
    if spec.memory_mib < 1 or (spec.max_memory_mib and spec.max_memory_mib < spec.memory_mib):
        raise ConfigError(f"sandbox {spec.id} cannot have {spec.memory_mib} MiB of at most {spec.max_memory_mib} MiB")
    if spec.image and spec.initrd:
        raise ConfigError(f"sandbox {spec.id} has both an image and an initrd", hint="set one of them")


def _describe_payload(spec: VmSpec) -> dict[str, Any]:
    payload = {"kernel": KERNEL, "cmdline": " ".join(spec.kernel_parameters)}
    if spec.firmware:
        payload["firmware"] = FIRMWARE
    return {**payload, "initramfs": INITRD} if spec.initrd else payload


def _describe_platform(spec: VmSpec) -> dict[str, Any]:
    platform = {"tdx": True} if spec.firmware else {}
    # Devices reach the guest's memory and not each other: it would have them do so at the guest's addresses, the last
    # that the processor has, and many an IOMMU has fewer. Versions before 52 do not know the word, and pass it over.
    return {**platform, "vfio_p2p_dma": False} if spec.host_devices else platform


def _describe_memory(spec: VmSpec) -> dict[str, Any]:
    if spec.savable:
        # It leaves a file that is shared out of what it saves, and takes it as it is when it restores.
        zone = {"id": "ram", "size": spec.memory_mib * _MIB, "file": MEMORY, "shared": True}
        return {"size": 0, "zones": [zone]}
    # Shared, because vhost-user daemons map the guest's memory.
    memory: dict[str, Any] = {"size": spec.memory_mib * _MIB, "shared": True, "hugepages": spec.hugepages}
    more = (spec.max_memory_mib - spec.memory_mib) // _HOTPLUG_UNIT_MIB * _HOTPLUG_UNIT_MIB
    # By virtio-mem the guest gives back what it got; by ACPI it only gets more.
    return {**memory, "hotplug_size": more * _MIB, "hotplug_method": "VirtioMem"} if more > 0 else memory


def _describe_balloon(spec: VmSpec) -> dict[str, Any]:
    # With a device of the host it would give back pages which that goes on writing to.
    return {} if spec.host_devices else {"balloon": {"size": 0, "free_page_reporting": True}}


def _describe_image() -> dict[str, Any]:
    return {"id": "image", "path": IMAGE, "readonly": True, "image_type": "Raw"}


def _describe_pmem(spec: VmSpec) -> dict[str, Any]:
    # A private mapping of a file that it opens for reading: what the guest writes is in copies of pages of its own. For
    # the guest itself it cannot be read-only (GHSA-wwj6-vghv-5p64): the guest's kernel has to see to that.
    return {"pmem": [{"id": "image", "file": IMAGE, "discard_writes": True}]} if spec.image and spec.image_dax else {}


def describe_disk(device: BlockDevice, limit: RateLimit = NO_LIMIT) -> dict[str, Any]:
    """The body of vm.add-disk. The guest reads 20 characters of serial at most."""
    disk = {"id": device.id, "path": name_disk(device.id), "readonly": device.readonly, "direct": device.direct}
    return {**disk, "image_type": "Raw", "serial": device.id[:20], **describe_limit("rate_limiter_config", limit)}


def describe_growth(device_id: str, size: int) -> dict[str, Any]:
    """The body of vm.resize-disk. For a block device `size` has to be what it has, in bytes."""
    return {"id": device_id, "desired_size": size}


def describe_net(device: NetDevice, limit: RateLimit = NO_LIMIT) -> dict[str, Any]:
    """The body of vm.add-net. The taps' descriptors travel with it; a queue is one direction of a tap.

    Without the MTU: it would set the tap's too, which its user may not. The tap has it, and the agent sets the guest's.
    """
    card = {"id": device.id, "mac": device.mac, "num_queues": 2 * len(device.taps)}
    return {**card, **describe_limit("rate_limiter_config", limit)}


def describe_share(device: SharedFs) -> dict[str, Any]:
    """The body of vm.add-fs."""
    queues = {"num_queues": 1, "queue_size": device.queue_size}
    return {"tag": device.tag, "socket": name_share(device.tag), **queues}


def describe_snapshot() -> dict[str, Any]:
    """The body of vm.snapshot."""
    return {"destination_url": f"file://{SAVED}"}


def describe_restoring(*, paused: bool) -> dict[str, Any]:
    """The body of vm.restore."""
    return {"source_url": f"file://{SAVED}", "resume": not paused}


def describe_vfio(device: VfioDevice) -> dict[str, Any]:
    """The body of vm.add-device."""
    return {"id": device.id, "path": f"/sys/bus/pci/devices/{device.address}"}


def find_device(info: Any, device_id: str) -> dict[str, Any]:
    """Return from vm.info where a device is, as its add-… says it of a VM that runs."""
    node = ((info or {}).get("device_tree") or {}).get(device_id) or {}
    return {"bdf": node.get("pci_bdf")}


def read_slot(answer: Any) -> str:
    """The slot on the root bus in what an add-… answers: `06` of `0000:00:06.0`. Raise ValueError, KeyError."""
    bdf = str(answer["bdf"])
    return f"{int(bdf.rpartition(':')[2].partition('.')[0], 16):02x}"
