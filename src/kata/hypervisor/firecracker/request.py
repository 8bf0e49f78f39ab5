"""Firecracker's requests from a VM's description. Pure: the same spec gives the same calls, in the order they are made.

Names and types are those of its OpenAPI description, `src/firecracker/swagger/firecracker.yaml`. Paths are names in the
root directory of its jail.

Firecracker takes no new device while the VM runs, but another file behind a disk: so a VM has disks with nothing in
them, some read-only, because which they are cannot change either.
"""

from typing import Any, NamedTuple

from kata.errors import ConfigError, UnsupportedError
from kata.hypervisor.cell import IMAGE, INITRD, KERNEL, MEMORY, VSOCK_SOCKET, name_disk
from kata.hypervisor.ratelimit import NO_LIMIT, UNLIMITED, RateLimit, RateLimits, describe_limit
from kata.hypervisor.spec import Balloon, BlockDevice, HybridVsock, NetDevice, Rng, VmSpec

STATE = "state"
"""The name in the jail of what is not the memory of a VM that is saved or restored."""

EMPTY = "empty"
"""The file behind a disk with nothing in it."""

MOST_VCPUS = 32
_READONLY_PLACES = 5
_WRITABLE_PLACES = 3
"""Disks for what is plugged in. Each takes one of the 19 interrupts that Firecracker has for all devices, two of which
are its clock's and its generation id's."""

_PARAMETERS = ("reboot=k",)
"""Firecracker sees a reset by the keyboard controller, and takes a triple fault for a crash."""


class Call(NamedTuple):
    """One request. `body` is what becomes its JSON."""

    method: str
    target: str
    body: dict[str, Any]


class Place(NamedTuple):
    """A disk that something can be put behind: its name for Firecracker, and the guest's node of it."""

    drive: str
    node: str
    readonly: bool


def build_calls(spec: VmSpec, limits: RateLimits = UNLIMITED) -> list[Call]:
    """All that comes before the start of the VM. Raise ConfigError, UnsupportedError for a device that it has not."""
    _check(spec)
    boot = {"kernel_image_path": KERNEL, "boot_args": " ".join((*spec.kernel_parameters, *_PARAMETERS))}
    machine: dict[str, Any] = {"vcpu_count": spec.vcpus, "mem_size_mib": spec.memory_mib, "smt": False}
    calls = [
        Call("PUT", "/boot-source", {**boot, "initrd_path": INITRD} if spec.initrd else boot),
        Call("PUT", "/machine-config", {**machine, "huge_pages": "2M"} if spec.hugepages else machine),
    ]
    if spec.image:
        calls.append(_describe_disk(IMAGE, IMAGE, readonly=True))
    disks = [
        (f"d{number}", name_disk(device.id), device.readonly)
        for number, device in enumerate(device for device in spec.devices if isinstance(device, BlockDevice))
    ]
    disks += [(place.drive, EMPTY, place.readonly) for place in list_places(spec)]
    calls += [_describe_disk(drive, path, limits.disk, readonly=readonly) for drive, path, readonly in disks]
    calls += [_describe_card(spec, name, card, limits.net) for name, card in _list_cards(spec)]
    calls += [call for device in spec.devices if (call := _describe_device(spec, device)) is not None]
    return calls


def _list_cards(spec: VmSpec) -> list[tuple[str, NetDevice]]:
    """The network cards by names that say which one each is: so a restored VM's are found by their turn."""
    cards = [device for device in spec.devices if isinstance(device, NetDevice)]
    return [(f"n{number}", card) for number, card in enumerate(cards)]


def list_places(spec: VmSpec) -> list[Place]:
    """The disks for what is plugged in later. The guest has disks in the order of the calls: vda, vdb and so on."""
    first = (1 if spec.image else 0) + sum(isinstance(device, BlockDevice) for device in spec.devices)
    kinds = [True] * _READONLY_PLACES + [False] * _WRITABLE_PLACES
    return [
        Place(f"p{number}", f"/dev/vd{chr(ord('a') + first + number)}", readonly)
        for number, readonly in enumerate(kinds)
    ]


def _check(spec: VmSpec) -> None:
    if not 1 <= spec.vcpus <= MOST_VCPUS:
        raise ConfigError(
            f"sandbox {spec.id} cannot have {spec.vcpus} vCPUs", hint=f"Firecracker has 1 to {MOST_VCPUS}"
        )
    if spec.max_vcpus > spec.vcpus or spec.max_memory_mib > spec.memory_mib:
        raise UnsupportedError(f"sandbox {spec.id} cannot grow: Firecracker's VMs have the size they start with")
    if spec.memory_mib < 1:
        raise ConfigError(f"sandbox {spec.id} cannot have {spec.memory_mib} MiB")
    if spec.image and spec.initrd:
        raise ConfigError(f"sandbox {spec.id} has both an image and an initrd", hint="set one of them")


def _describe_disk(drive: str, path: str, limit: RateLimit = NO_LIMIT, *, readonly: bool) -> Call:
    # What the guest flushes is on the disk then; the default forgets it.
    disk: dict[str, Any] = {"drive_id": drive, "path_on_host": path, "is_root_device": False, "is_read_only": readonly}
    disk["cache_type"] = "Unsafe" if readonly else "Writeback"
    return Call("PUT", f"/drives/{drive}", {**disk, **describe_limit("rate_limiter", limit)})


def describe_exchange(place: Place, path: str) -> Call:
    """Another file behind a disk, or the same one with another size."""
    return Call("PATCH", f"/drives/{place.drive}", {"drive_id": place.drive, "path_on_host": path})


def _describe_card(spec: VmSpec, name: str, card: NetDevice, limit: RateLimit) -> Call:
    if not card.tap:
        raise UnsupportedError(f"sandbox {spec.id}: Firecracker opens taps by their names")
    body: dict[str, Any] = {"iface_id": name, "host_dev_name": card.tap, "guest_mac": card.mac}
    body |= {**describe_limit("rx_rate_limiter", limit), **describe_limit("tx_rate_limiter", limit)}
    return Call("PUT", f"/network-interfaces/{name}", body)


def _describe_device(spec: VmSpec, device: object) -> Call | None:
    match device:
        case BlockDevice() | NetDevice():
            return None
        case HybridVsock():
            return Call("PUT", "/vsock", {"guest_cid": device.cid, "uds_path": VSOCK_SOCKET})
        case Rng():
            return Call("PUT", "/entropy", {})
        case Balloon():
            balloon = {"amount_mib": 0, "deflate_on_oom": True, "free_page_reporting": True}
            return Call("PUT", "/balloon", balloon)
        case _:
            raise UnsupportedError(f"sandbox {spec.id} has a {type(device).__name__}, which Firecracker has not")


START = Call("PUT", "/actions", {"action_type": "InstanceStart"})
PAUSE = Call("PATCH", "/vm", {"state": "Paused"})
RESUME = Call("PATCH", "/vm", {"state": "Resumed"})
SAVE = Call("PUT", "/snapshot/create", {"snapshot_type": "Full", "snapshot_path": STATE, "mem_file_path": MEMORY})


def describe_restoring(spec: VmSpec) -> Call:
    """The call that makes a VM of a saved one, with other taps behind its cards. Its memory is copied as it writes."""
    cards = [{"iface_id": name, "host_dev_name": card.tap} for name, card in _list_cards(spec)]
    memory = {"backend_type": "File", "backend_path": MEMORY}
    body = {"snapshot_path": STATE, "mem_backend": memory, "resume_vm": not spec.paused, "network_overrides": cards}
    return Call("PUT", "/snapshot/load", body)
