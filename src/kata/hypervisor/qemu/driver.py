"""The QEMU driver: opens what a VM needs, and starts QEMU confined."""

import os
import stat
from contextlib import ExitStack, suppress
from typing import NamedTuple

from kata.config.model import HypervisorConfig
from kata.errors import ConfigError, UnsupportedError
from kata.hypervisor.accelerator import AcceleratorReport, choose_accelerator
from kata.hypervisor.binary import Product, find_binary
from kata.hypervisor.confinement import confine
from kata.hypervisor.driver import Capabilities, Started, ignore_start
from kata.hypervisor.launch import Launch, prepare_launch
from kata.hypervisor.memory import make_memory
from kata.hypervisor.qemu import microvm
from kata.hypervisor.qemu.arguments import Descriptors, Machine, build_arguments, list_borrowed_descriptors
from kata.hypervisor.qemu.saved import SavedVm
from kata.hypervisor.qemu.vhostnet import lend_vhost
from kata.hypervisor.qemu.vm import QemuVm
from kata.hypervisor.saved import describe_kvm_host, list_files, omit_own
from kata.hypervisor.spec import BlockDevice, Device, NetDevice, SerialPort, VfioDevice, VmSpec, Vsock
from kata.hypervisor.tsc import find_counter_khz
from kata.sys.unixsocket import listen_unix

PRODUCT = Product("QEMU", "qemu", "QEMU emulator version ", (7, 2), "qemu-system-x86")
_EMPTY = "empty"


class QemuSettings(NamedTuple):
    """What an operator may set. Empty strings leave the choice to the driver."""

    path: str = "qemu-system-x86_64"
    accelerator: str = "auto"
    machine: str = "q35"
    cpu: str = ""
    firmware: str = ""
    tb_size: int = 128
    vhost_net: bool = True
    """Let the host's kernel move the network's packets, where it can."""
    console_limit: int = 1 << 20
    """Bytes of the guest's console that are kept, and of QEMU's own words."""


class Qemu:
    """The driver. Making one probes the machine; that is cached in the state directory."""

    name = "qemu"

    def __init__(self, settings: QemuSettings, state_directory: str | None) -> None:
        self.settings = settings
        self.path, self.version = find_binary(PRODUCT, settings.path, state_directory)
        self.acceleration: AcceleratorReport = choose_accelerator(settings.accelerator, state_directory)
        if settings.machine == microvm.KIND and self.acceleration.accelerator != "kvm":
            # Linux calibrates its clock by a timer that this machine has not, and gets it from KVM otherwise.
            raise UnsupportedError("QEMU's machine microvm needs KVM", hint='set machine_type = "q35"')
        self.warning = self.acceleration.warning or ""
        self._tsc_khz = find_counter_khz(state_directory) if self.acceleration.accelerator == "tcg" else 0
        # Without KVM, QEMU is what signals and is signalled, and there is nothing to gain.
        self._has_vhost = settings.vhost_net and self.acceleration.accelerator == "kvm"

    def find_capabilities(self) -> Capabilities:
        has_pci = self.settings.machine != microvm.KIND
        return Capabilities(
            channels=("vsock", "vport"),
            accelerator=self.acceleration.accelerator,
            fs_share=True,
            block_hotplug=has_pci,
            scsi=has_pci,
            ports=has_pci,
            net_hotplug=has_pci,
            vfio=has_pci,
            multi_queue=True,
            pause=True,
            balloon=True,
            template=has_pci,
            checkpoint=has_pci,
            vcpu_hotplug=has_pci,
            memory_hotplug=has_pci,
        )

    def find_hybrid_socket(self, spec_directory: str, sandbox: str) -> str:  # noqa: ARG002 - it has none
        return ""

    async def start(self, spec: VmSpec, *, timeout: float = 30.0, started: Started = ignore_start) -> QemuVm:
        if self.settings.machine == microvm.KIND:
            spec = microvm.fix_devices(spec)
        saved = SavedVm(spec.saved) if spec.saved else None
        with prepare_launch(QemuVm.name, spec, self.settings.console_limit) as launch:
            if saved is not None:
                launch.kept.callback(saved.close)
            control, vmm_control = launch.connect()
            memory = None
            if spec.savable or saved is not None:
                memory = make_memory(f"kata-{spec.id}", spec.memory_mib << 20)
                launch.kept.callback(os.close, memory)
            if self._has_vhost:
                spec = spec._replace(devices=tuple(_lend_vhost(device, launch.lent) for device in spec.devices))
            descriptors = _open_everything(spec, launch, vmm_control)._replace(memory=memory)
            machine = self._describe_machine()
            argv = confine(build_arguments(spec, machine, descriptors), spec.id, machine.accelerator)
            child = launch.start(
                _allow_pinning(argv, spec),
                launch.open_log("qemu.log"),
                descriptors=_list_descriptors(spec, descriptors),
                cwd=_make_empty_directory(launch),
            )
            vm = QemuVm(launch, child, control, memory, saved, has_vhost=self._has_vhost)
        await vm.bring_up(started, timeout=timeout)
        return vm

    def _describe_machine(self) -> Machine:
        settings = self.settings
        return Machine(
            self.path,
            self.acceleration.accelerator,
            kind=settings.machine,
            cpu=settings.cpu,
            tb_size=settings.tb_size,
            firmware=settings.firmware,
            tsc_khz=self._tsc_khz,
        )

    def identify(self, spec: VmSpec) -> tuple[str, tuple[str, ...]]:
        """QEMU's whole command line without what one sandbox has for itself, its version, and the processor under KVM.

        Firmware and option ROMs are packaged with the binary.
        """
        ports = {port.name: 0 for port in spec.devices if isinstance(port, SerialPort)}
        descriptors = Descriptors(
            0, 0, 0, {}, ports, initrd=0 if spec.initrd else None, image=0 if spec.image else None, memory=0
        )
        devices = tuple(Vsock(0, 0) if isinstance(device, Vsock) else device for device in spec.devices)
        common = omit_own(spec)._replace(devices=devices)
        machine = self._describe_machine()._replace(tsc_khz=0)  # measured: nearly the same each time
        lines = ["QEMU", self.version, *build_arguments(common, machine, descriptors)]
        if machine.accelerator == "kvm":
            lines += describe_kvm_host()
        return "\n".join(lines), list_files(spec, self.path, machine.firmware)


def _open_everything(spec: VmSpec, launch: Launch, qmp: int) -> Descriptors:
    """Open files for QEMU and bind its sockets. The descriptors are lent; the sockets' paths go with the VM."""

    def opened(path: str, flags: int) -> int:
        descriptor = _open_for_vmm(spec.id, path, flags)
        launch.lent.callback(os.close, descriptor)
        return descriptor

    ports = {}
    for port in spec.devices:
        if isinstance(port, SerialPort):
            server = launch.lent.enter_context(listen_unix(port.path))
            launch.kept.callback(_remove_file, port.path)
            ports[port.name] = server.fileno()
    return Descriptors(
        qmp=qmp,
        console=launch.vmm_console,
        kernel=opened(spec.kernel, os.O_RDONLY),
        initrd=opened(spec.initrd, os.O_RDONLY) if spec.initrd else None,
        image=opened(spec.image, os.O_RDONLY) if spec.image else None,
        disks={
            device.id: opened(device.path, os.O_RDONLY if device.readonly else os.O_RDWR)
            for device in spec.devices
            if isinstance(device, BlockDevice)
        },
        ports=ports,
    )


def _make_empty_directory(launch: Launch) -> str:
    """Make a directory for QEMU to be in, as it is to have no files around it."""
    path = os.path.join(launch.spec.directory, _EMPTY)
    with suppress(FileExistsError):
        os.mkdir(path, 0o555)
    launch.kept.callback(_remove_directory, path)
    return path


def _allow_pinning(argv: list[str], spec: VmSpec) -> list[str]:
    """Let a VMM lock the guest's memory, where a device of the host reaches it."""
    if not any(isinstance(device, VfioDevice) for device in spec.devices):
        return argv
    from kata.hypervisor.pinning import count_pinned  # noqa: PLC0415 - most VMs have no such device

    return ["prlimit", f"--memlock={count_pinned(spec)}", "--", *argv]


def _lend_vhost(device: Device, stack: ExitStack) -> Device:
    return stack.enter_context(lend_vhost(device)) if isinstance(device, NetDevice) else device


def _open_for_vmm(sandbox_id: str, path: str, flags: int) -> int:
    """Open a file that QEMU gets. Raise ConfigError naming it."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"sandbox {sandbox_id} needs {path}, which cannot be opened: {error.strerror}") from error
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(descriptor)
        raise ConfigError(f"sandbox {sandbox_id} needs {path}, which is neither a file nor a block device")
    return descriptor


def _list_descriptors(spec: VmSpec, descriptors: Descriptors) -> list[int]:
    """All that QEMU inherits: what was opened here, and what the spec lends."""
    own = [descriptors.qmp, descriptors.console, descriptors.kernel, descriptors.initrd, descriptors.image]
    own.append(descriptors.memory)
    lists = [*descriptors.disks.values(), *descriptors.ports.values(), *list_borrowed_descriptors(spec)]
    return [descriptor for descriptor in [*own, *lists] if descriptor is not None]


def _remove_file(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _remove_directory(path: str) -> None:
    with suppress(OSError):
        os.rmdir(path)


def open_configured(config: HypervisorConfig, state_directory: str | None) -> Qemu:
    """The driver as the operator wants it."""
    settings = QemuSettings(
        path=config.path or QemuSettings().path,
        accelerator=config.accelerator,
        machine=config.machine_type or "q35",
        vhost_net=not config.disable_vhost_net,
    )
    return Qemu(settings, state_directory)
