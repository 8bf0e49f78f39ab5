"""The way to the agent: one of the guest channels, by logical port number."""

import asyncio
import os
import socket
from contextlib import ExitStack, suppress
from typing import NamedTuple

from kata.errors import DeadlineError, HostError, KataError
from kata.hypervisor.channel import (
    AGENT_PORT,
    DEBUG_CONSOLE_PORT,
    LOG_PORT,
    VHOST_VSOCK,
    format_port_name,
)
from kata.hypervisor.driver import Channel
from kata.hypervisor.spec import Device, HybridVsock, SerialPort, Vsock
from kata.sys.unixsocket import shorten_path
from kata.transport.boundedlog import BoundedLog
from kata.transport.hybridvsock import connect_hybrid
from kata.transport.ttrpc import Client, connect_socket, connect_unix

_LOG_LIMIT = 1 << 20
_CHUNK = 1 << 16
_FIRST_CID = 3
_RETRY = 0.02


class Line(NamedTuple):
    """A channel as devices of the VM and as the agent's address. `cid` is 0 for virtio-serial.

    `hybrid` is the VMM's socket where the vsock ends in the VMM.
    """

    server: str
    devices: tuple[Device, ...]
    directory: str
    cid: int = 0
    vhost: ExitStack = ExitStack()
    hybrid: str = ""

    @property
    def is_vsock(self) -> bool:
        """Whether it is vsock of either kind: without it, each port is a Unix socket in the sandbox's directory."""
        return bool(self.cid or self.hybrid)

    @property
    def agent_url(self) -> str:
        """Where the agent is from the host's side; without vsock, the socket of the VMM that has one client at most."""
        if self.hybrid:
            return f"hvsock://{self.hybrid}:{AGENT_PORT}"
        return (
            f"vsock://{self.cid}:{AGENT_PORT}" if self.cid else f"unix://{find_port_socket(self.directory, AGENT_PORT)}"
        )

    async def connect(self, port: int, *, timeout: float) -> Client:
        """Open a ttrpc client on a logical port, trying for `timeout` seconds. Raise GuestError."""
        if not self.is_vsock:
            return await connect_unix(find_port_socket(self.directory, port), "the agent", timeout=timeout)
        return await connect_socket(await self._dial(port, timeout), "the agent")

    async def _dial(self, port: int, timeout: float) -> socket.socket:
        """Connect by vsock. Until the agent listens it is refused at once, so this asks again. Raise DeadlineError."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    with suppress(OSError):
                        return await self.open_stream(port)
                    await asyncio.sleep(_RETRY)
        except TimeoutError as error:
            raise DeadlineError(f"the agent did not listen at its port {port} within {timeout:g} s") from error

    async def open_stream(self, port: int) -> socket.socket:
        """Connect to a port of the guest's that is listened at. Raise OSError."""
        if self.hybrid:
            return await connect_hybrid(self.hybrid, port)
        loop = asyncio.get_running_loop()
        family = socket.AF_VSOCK if self.cid else socket.AF_UNIX
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if self.cid:
                await loop.sock_connect(connection, (self.cid, port))
            else:
                with shorten_path(find_port_socket(self.directory, port)) as short:
                    await loop.sock_connect(connection, short)
        except BaseException:
            connection.close()
            raise
        return connection

    def hand_over(self) -> None:
        """Let go of what the VMM has taken: as long as anybody has vhost open, nobody hears that the VM has ended."""
        self.vhost.close()

    def close(self) -> None:
        self.hand_over()


def find_port_socket(directory: str, port: int) -> str:
    """Return the Unix socket that stands for a logical port of a guest without vsock."""
    return f"{directory}/vport-{port}.sock"


def open_line(channel: Channel, directory: str, hybrid: str = "") -> Line:
    """Prepare a channel. `hybrid` is where the VMM will listen. Raise HostError when our end cannot be opened."""
    if channel == "hybrid-vsock":
        return Line(f"vsock://-1:{AGENT_PORT}", (HybridVsock(_FIRST_CID),), directory, hybrid=hybrid)
    if channel == "vport":
        ports = (AGENT_PORT, LOG_PORT, DEBUG_CONSOLE_PORT)
        devices = tuple(SerialPort(format_port_name(port), find_port_socket(directory, port)) for port in ports)
        return Line(f"vport://{AGENT_PORT}", devices, directory)
    try:
        vhost = os.open(VHOST_VSOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{VHOST_VSOCK} cannot be opened: {error.strerror}", hint="modprobe vhost_vsock") from error
    cid = _FIRST_CID + int.from_bytes(os.urandom(8)) % ((1 << 32) - 2 - _FIRST_CID)
    lent = ExitStack()
    lent.callback(os.close, vhost)
    return Line(f"vsock://-1:{AGENT_PORT}", (Vsock(cid, vhost),), directory, cid, lent)


async def copy_agent_log(line: Line, path: str) -> None:
    """Copy what the agent logs to a bounded file, until cancelled or the VM ends."""
    log = BoundedLog(path, limit=_LOG_LIMIT)
    try:
        with suppress(KataError, OSError):
            reader, writer = await asyncio.open_connection(sock=await line.open_stream(LOG_PORT))
            try:
                while data := await reader.read(_CHUNK):
                    log.write(data)
            finally:
                writer.close()
    finally:
        log.close()
