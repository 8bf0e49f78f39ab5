"""Virtio-serial ports: byte streams to the host that outlive their peers.

The host names a port `kata.vport.N`. A port is a device, not a connection: it is there without a host at the other
end, then reads give nothing at once and poll says HUP for ever, and it comes back when a host connects again.
"""

import asyncio
import errno
import os
import select
from collections.abc import Callable

from kata.errors import HostError

_SYSFS = "/sys/class/virtio-ports"
_READ = 1 << 18
_PORTION = 1 << 14
_PAGE = 4096
_BATCH = 8 * _PAGE
_HIGH_WATER = 1 << 16
_LOOK_AGAIN = 1.0  # seconds
_LINGER = 0.05  # seconds

AnyProtocol = asyncio.Protocol | asyncio.BufferedProtocol
"""What serves a visit: bytes are handed to it, or received into its memory."""


def find_port(number: int) -> str:
    """The device node of a logical port. Raise HostError when the VM has none."""
    wanted = f"kata.vport.{number}"
    try:
        names = os.listdir(_SYSFS)
    except FileNotFoundError:
        names = []
    for name in names:
        with open(f"{_SYSFS}/{name}/name", encoding="utf-8") as file:
            if file.read().strip() == wanted:
                return f"/dev/{name}"
    raise HostError(f"the VM has no virtio-serial port named {wanted}")


class PortTransport(asyncio.Transport):
    """One host's visit at a port. It ends when the host goes; the descriptor stays open for the next one."""

    def __init__(self, descriptor: int, protocol: AnyProtocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._protocol = protocol
        self._pending = bytearray()
        self._reading = False
        self._full = False
        self.ended = self._loop.create_future()
        protocol.connection_made(self)
        self.resume_reading()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.ended.done():
            return
        if self._pending:
            self._pending += data
            self._control_flow()
            return
        rest = memoryview(data)
        while rest:
            sent = self._send(rest)
            if sent <= 0:
                break
            rest = rest[sent:]
        if rest and not self.ended.done():
            self._pending += rest
            self._loop.add_writer(self._descriptor, self._flush)
            self._control_flow()

    def _control_flow(self) -> None:
        """Tell a protocol that wants to know when the host reads too slowly, and when it has caught up."""
        if not self._full and len(self._pending) > _HIGH_WATER:
            self._full = True
            self._protocol.pause_writing()
        elif self._full and not self._pending:
            self._full = False
            self._protocol.resume_writing()

    def _send(self, data: memoryview) -> int:
        """Bytes taken (the kernel takes 32 KiB at most), 0 when the port is full, -1 when it is at its end."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._end(error)
            return -1

    def _flush(self) -> None:
        at = 0
        with memoryview(self._pending) as pending:
            while at < len(pending) and (sent := self._send(pending[at:])) > 0:
                at += sent
        if self.ended.done():
            return
        del self._pending[:at]
        if not self._pending:
            self._loop.remove_writer(self._descriptor)

    def _receive(self) -> None:
        protocol = self._protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            count, gone = self._fill(memoryview(protocol.get_buffer(-1))[:_READ])
            if count:
                protocol.buffer_updated(count)
        else:
            buffer = bytearray(_PORTION)
            count, gone = self._fill(memoryview(buffer))
            if count:
                protocol.data_received(bytes(buffer[:count]))
        if gone:
            # The news that a host has come back takes another way than its bytes and may be later: those just read
            # can be the first of the next host. So a short absence is none.
            self.pause_reading()
            self._loop.call_later(_LINGER, self._end_unless_back)

    def _fill(self, buffer: memoryview) -> tuple[int, bool]:
        """Read what there is. Return how much, and whether the host is gone.

        The host fills pages, and a read of any size gives what is in one of them; a vector of pages gives more at once.
        """
        count = 0
        while count < len(buffer):
            pages = [buffer[at : at + _PAGE] for at in range(count, min(len(buffer), count + _BATCH), _PAGE)]
            try:
                got = os.readv(self._descriptor, pages)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EINTR:
                    return count, True
                continue
            if not got:
                return count, True
            count += got
        return count, False

    def _end_unless_back(self) -> None:
        if has_host(self._descriptor):
            self.resume_reading()
        else:
            self._end(None)

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._descriptor)

    def resume_reading(self) -> None:
        if not self._reading and not self.ended.done():
            self._reading = True
            self._loop.add_reader(self._descriptor, self._receive)

    def is_closing(self) -> bool:
        return self.ended.done()

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self.ended.done():
            return
        self.pause_reading()
        self._loop.remove_writer(self._descriptor)
        self._pending = bytearray()  # not cleared: a flush may have a view of it
        self.ended.set_result(None)
        self._protocol.connection_lost(error)


class Port:
    """An open port. Opening is exclusive, so it stays open for the agent's life."""

    def __init__(self, path: str) -> None:
        """Raise OSError when the device cannot be opened."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._changes = select.epoll()
        # Edge-triggered: HUP is reported once, then each time that the kernel wakes the port's waiters, which it
        # does when the host comes or goes. Level-triggered it would spin as long as no host is there.
        self._changes.register(self._descriptor, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def close(self) -> None:
        self._changes.close()
        os.close(self._descriptor)

    async def serve(self, make_protocol: Callable[[], AnyProtocol]) -> None:
        """Serve one host after the other, each with a fresh protocol, for ever."""
        while True:
            await self._wait_for_host()
            transport = PortTransport(self._descriptor, make_protocol())
            try:
                await transport.ended
            finally:
                transport.abort()

    async def _wait_for_host(self) -> None:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        loop.add_reader(self._changes.fileno(), self._note_change, changed)
        try:
            while not has_host(self._descriptor):
                changed.clear()
                try:
                    async with asyncio.timeout(_LOOK_AGAIN):
                        await changed.wait()
                except TimeoutError:
                    continue
        finally:
            loop.remove_reader(self._changes.fileno())

    def _note_change(self, changed: asyncio.Event) -> None:
        self._changes.poll(0)
        changed.set()


def has_host(descriptor: int) -> bool:
    """Whether somebody is connected at the other end of a port."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN | select.POLLOUT)
    return not any(event & select.POLLHUP for _, event in poller.poll(0))
