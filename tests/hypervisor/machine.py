"""A VM of one driver with the debug image of this tree, and a shell in its guest over the driver's own channel."""

import asyncio
import fcntl
import os
import shutil
import socket
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from kata.config.artifacts import Artifacts
from kata.config.model import Configuration, HypervisorConfig
from kata.hypervisor.channel import AGENT_PORT, DEBUG_CONSOLE_PORT, choose_guest_channel
from kata.hypervisor.driver import Hypervisor, Vm
from kata.hypervisor.spec import Balloon, BlockDevice, Device, NetDevice, Rng, SharedFs, VmSpec
from kata.hypervisor.vmmuser import derive_user_id
from kata.network.tap import drop_tap, keep_tap, open_tap
from kata.sandbox.description import list_kernel_parameters
from kata.sandbox.guest import Guest
from kata.sandbox.line import Line, open_line
from kata.storage.virtiofsd import find_virtiofsd, start_virtiofsd

PATIENCE = 120.0
MAC = "02:00:00:00:00:01"
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1  # netdevice(7)
_ETH_P_ALL = 3  # packet(7)
_LOOP = """exec sh -c 'while IFS= read -r line; do (eval "$line") 2>&1; echo; echo END; done'\n"""
_END = "\r\nEND\r\n"
"""What the terminal makes of the loop's last two lines."""


class Shell:
    """The guest's debug console, used line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def open(self) -> None:
        """Put a loop in the place of the interactive shell, with its prompts and its line editor."""
        self._writer.write(_LOOP.encode())
        await self.run("true")

    async def run(self, line: str) -> str:
        """Return what a line prints."""
        self._writer.write(f"{line}\n".encode())
        output = await asyncio.wait_for(self._reader.readuntil(_END.encode()), PATIENCE)
        text = output.decode(errors="replace").removesuffix(_END).replace("\r\n", "\n")
        return text.partition(f"{line}\n")[2].rstrip("\n")  # after the terminal's echo

    async def run_until(self, line: str, accept: Callable[[str], bool]) -> str:
        """Run a line until its output is accepted; the guest's own clock is what passes."""
        output = ""
        try:
            async with asyncio.timeout(PATIENCE):
                while not accept(output):
                    output = await self.run(line)
        except TimeoutError as error:
            raise AssertionError(f"{line} still prints {output!r}") from error
        return output

    def close(self) -> None:
        self._writer.close()


class Running(NamedTuple):
    """A VM whose agent answers; `booted` is how many seconds it took."""

    driver: Hypervisor
    spec: VmSpec
    vm: Vm
    guest: Guest
    shell: Shell
    line: Line
    booted: float


def describe(
    driver: Hypervisor, artifacts: Artifacts, directory: Path, line: Line, more: tuple[Device, ...] = ()
) -> VmSpec:
    """A VM with what the sandbox gives to any."""
    config = Configuration(hypervisor=HypervisorConfig(kernel_params="agent.debug_console"), driver=driver.name)
    parameters = list_kernel_parameters(config, artifacts, line.server)
    parameters.append(f"agent.debug_console_vport={DEBUG_CONSOLE_PORT}")
    return VmSpec(
        id=directory.name,
        directory=str(directory),
        kernel=artifacts.kernel,
        image=artifacts.image or None,
        initrd=artifacts.initrd or None,
        vcpus=1,
        memory_mib=512,
        kernel_parameters=tuple(parameters),
        devices=(*line.devices, Rng(), *more),
        hotplug_ports=4 if driver.find_capabilities().net_hotplug else 0,
        max_vcpus=2 if driver.find_capabilities().vcpu_hotplug else 0,
        max_memory_mib=1024 if driver.find_capabilities().memory_hotplug else 0,
    )


def name_tap(directory: Path) -> str:
    """A name of our own for the tap of a VM: IFNAMSIZ leaves 15 characters."""
    return f"t{zlib.crc32(str(directory).encode()):08x}"


@contextmanager
def make_devices(driver: Hypervisor, directory: Path) -> Iterator[tuple[Device, ...]]:
    """One of each kind of device that a driver declares or has to have, and what stands behind it on the host."""
    capabilities = driver.find_capabilities()
    disk = directory / "disk"
    disk.write_bytes(b"cold" + bytes((1 << 20) - 4))
    devices: list[Device] = [BlockDevice("cold", str(disk), readonly=True)]
    with ExitStack() as undo:
        if capabilities.balloon:
            devices.append(Balloon())
        name = name_tap(directory)
        taps = open_tap(name)
        undo.callback(os.close, taps[0])
        if capabilities.opens_taps:
            keep_tap(taps[0], derive_user_id(directory.name))
            undo.callback(drop_tap, name)
        devices.append(NetDevice("net0", MAC, taps, tap=name))
        yield tuple(devices)


@asynccontextmanager
async def share_directory(driver: Hypervisor, directory: Path, export: Path) -> AsyncIterator[tuple[Device, ...]]:
    """A shared file system, for a driver that declares it."""
    capabilities = driver.find_capabilities()
    if not capabilities.fs_share:
        yield ()
        return
    connect = not capabilities.connects_shares
    daemon = start_virtiofsd(find_virtiofsd(), str(export), str(directory), connect=connect)
    try:
        descriptor = -1 if daemon.connection is None else daemon.connection.fileno()
        yield (SharedFs("kataShared", descriptor, path=daemon.path),)
    finally:
        await daemon.stop()


@asynccontextmanager
async def start_line(driver: Hypervisor, directory: Path, *, savable: bool = False) -> AsyncIterator[Line]:
    """The channel that the driver likes best on this host, and, for a VM that is saved, can leave behind."""
    channel = choose_guest_channel(driver.find_capabilities())
    if savable and channel == "vsock":
        channel = choose_guest_channel(driver.find_capabilities(), "vport")
    line = open_line(channel, str(directory), driver.find_hybrid_socket(str(directory), directory.name))
    try:
        yield line
    finally:
        line.close()


@asynccontextmanager
async def boot(
    driver: Hypervisor,
    artifacts: Artifacts,
    directory: Path,
    *,
    full: bool,
    more: tuple[Device, ...] = (),
    **changes: Any,
) -> AsyncIterator[Running]:
    """Boot a VM, `full` with a device of each kind, and wait for its agent and its shell.

    It has `more` devices, and `changes` are made to its spec.
    """
    directory.mkdir(mode=0o700)
    export = directory.with_name(f"{directory.name}-export")
    export.mkdir()
    with ExitStack() as undo:
        devices = undo.enter_context(make_devices(driver, directory)) if full else more
        async with start_line(driver, directory) as line, share_directory(driver, directory, export) as share:
            spec = describe(driver, artifacts, directory, line, (*devices, *(share if full else ())))
            spec = spec._replace(**changes)
            began = time.monotonic()
            vm = await driver.start(spec, timeout=PATIENCE)
            line.hand_over()
            for device in share:
                if isinstance(device, SharedFs) and device.path:
                    os.unlink(device.path)
            try:
                yield await reach(driver, spec, vm, line, began)
            finally:
                await vm.stop(timeout=5)
    shutil.rmtree(export)


async def reach(
    driver: Hypervisor, spec: VmSpec, vm: Vm, line: Line, began: float, slots: list[int] | None = None
) -> Running:
    """Connect to a VM's agent and its shell. One that was saved is woken first, with its new devices' slots."""
    try:
        guest = Guest(await line.connect(AGENT_PORT, timeout=PATIENCE))
        if slots is None:
            await guest.check(timeout=PATIENCE)
        else:
            await guest.wake(os.urandom(512), slots, timeout=PATIENCE)
        booted = time.monotonic() - began
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(sock=await line.open_stream(DEBUG_CONSOLE_PORT))
    except Exception as error:
        raise AssertionError(f"{error}; the console:\n{vm.read_console()}") from error
    shell = Shell(reader, writer)
    await shell.open()
    return Running(driver, spec, vm, guest, shell, line, booted)


@contextmanager
def listen_at_tap(tap: str) -> Iterator[socket.socket]:
    """A packet socket on a tap, which reads what the guest sends."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as listener:
        fcntl.ioctl(listener, _SIOCSIFFLAGS, struct.pack("16sH22x", tap.encode(), _IFF_UP))
        listener.bind((tap, 0))
        listener.setblocking(False)
        yield listener


async def expect_packet(shell: Shell, tap: str, mac: str) -> None:
    """Have the guest send something by its first card, and read it at the tap's other side."""
    with listen_at_tap(tap) as listener:
        await shell.run("ip link set eth0 up; ip addr add 10.9.9.1/24 dev eth0; busybox ping -c1 -W1 10.9.9.2")
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            while bytes.fromhex(mac.replace(":", "")) not in (await loop.sock_recv(listener, 2048))[6:12]:
                pass


async def let_go(running: Running) -> None:
    """Close the connections to a VM."""
    running.shell.close()
    with suppress(OSError):
        running.guest.client.close()
