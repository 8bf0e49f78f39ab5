"""The command line of acrn-dm, ACRN's device model, for a post-launched VM. Pure.

Source: ACRN 3's "Device Model Parameters" (doc/user-guides/acrn-dm-parameters.rst), and for devices its high-level
design documents and `devicemodel/hw/pci/virtio`.
"""

from collections.abc import Iterator

from kata.errors import ConfigError, UnsupportedError
from kata.hypervisor.spec import Balloon, BlockDevice, NetDevice, Rng, VmSpec, Vsock

LONGEST_BOOTARGS = 1023
LONGEST_PATH = 1023
LAST_SLOT = 31
LONGEST_NAME = 15
"""Characters of a VM's name, by which the hypervisor's scenario knows it."""

_FIRST_SLOT = 3  # 0 is the host bridge, 1 the LPC bridge; 2 is the graphics card's by custom


def build_arguments(spec: VmSpec, path: str, name: str, *, cpus: tuple[int, ...]) -> list[str]:
    """The whole command line. `name` is the VM's in the hypervisor's scenario, `cpus` the physical ones it may have.

    Raise ConfigError for a VM that cannot be, UnsupportedError for a device that it has not.
    """
    _check(spec, name, cpus)
    return [
        path,
        *("-m", f"{spec.memory_mib}M"),
        *("--cpu_affinity", ",".join(str(cpu) for cpu in cpus)),
        *("-k", _check_path(spec.kernel)),
        *(("-r", _check_path(spec.initrd)) if spec.initrd else ()),
        *("-B", " ".join(spec.kernel_parameters)),
        *("-s", "0:0,hostbridge", "-s", "1:0,lpc", "-l", "com1,stdio"),
        *_describe_devices(spec),
        name,
    ]


def _check(spec: VmSpec, name: str, cpus: tuple[int, ...]) -> None:
    if not name or len(name) > LONGEST_NAME or not all(sign.isalnum() or sign in "-_" for sign in name):
        raise ConfigError(f"ACRN has no VM {name!r}", hint=f"a name has 1 to {LONGEST_NAME} letters and digits")
    if len(cpus) != spec.vcpus:
        raise ConfigError(
            f"sandbox {spec.id} has {spec.vcpus} vCPUs for {len(cpus)} physical ones: ACRN gives each one of its own"
        )
    if spec.max_vcpus > spec.vcpus or spec.max_memory_mib > spec.memory_mib:
        raise UnsupportedError(f"sandbox {spec.id} cannot grow: ACRN's VMs have the size they start with")
    if spec.memory_mib < 1:
        raise ConfigError(f"sandbox {spec.id} cannot have {spec.memory_mib} MiB")
    if spec.hugepages:
        raise UnsupportedError(f"sandbox {spec.id}: acrn-dm takes huge pages by its own rules")
    if spec.image and spec.initrd:
        raise ConfigError(f"sandbox {spec.id} has both an image and an initrd", hint="set one of them")
    length = len(" ".join(spec.kernel_parameters))
    if length > LONGEST_BOOTARGS:
        raise ConfigError(
            f"sandbox {spec.id} has {length} characters of kernel parameters", hint=f"acrn-dm takes {LONGEST_BOOTARGS}"
        )


def _check_path(path: str) -> str:
    """A comma ends a path in acrn-dm's options, and it knows no way to write one."""
    if len(path) > LONGEST_PATH or "," in path or not path.startswith("/"):
        raise ConfigError(
            f"acrn-dm cannot open {path}", hint=f"an absolute path without commas, {LONGEST_PATH} at most"
        )
    return path


def _describe_devices(spec: VmSpec) -> Iterator[str]:
    devices = [*([f"virtio-blk,{_check_path(spec.image)},ro"] if spec.image else [])]
    for device in spec.devices:
        match device:
            case BlockDevice():
                devices.append(f"virtio-blk,{_check_path(device.path)}{',ro' if device.readonly else ''}")
            case NetDevice():
                if not device.tap:
                    raise UnsupportedError(f"sandbox {spec.id}: acrn-dm opens taps by their names")
                devices.append(f"virtio-net,tap={device.tap},mac={device.mac}")
            case Vsock():
                devices.append(f"vhost-vsock,cid={device.cid}")
            case Rng():
                devices.append("virtio-rnd")
            case Balloon():
                raise UnsupportedError(f"sandbox {spec.id}: acrn-dm has no balloon")
            case _:
                raise UnsupportedError(f"sandbox {spec.id} has a {type(device).__name__}, which acrn-dm has not")
    if _FIRST_SLOT + len(devices) > LAST_SLOT + 1:
        raise ConfigError(f"sandbox {spec.id} has {len(devices)} devices", hint="acrn-dm has 29 slots for them")
    for number, text in enumerate(devices):
        yield from ("-s", f"{_FIRST_SLOT + number},{text}")
