"""Name servers of the pod's namespace on the host, at their addresses in the guest.

Docker's, for one, listens on 127.0.0.11 of that namespace, which no packet of the guest's reaches. So what programs of
the guest ask there is handed to the host, message by message, and the host's answer to them. No port is taken: a
container that is a name server itself may bind port 53 of every address.
"""

import asyncio
import os
import socket
from collections.abc import Coroutine
from contextlib import ExitStack

from kata.agent.hold import Hold
from kata.errors import UnsupportedError, UsageError
from kata.protocol.messages import nameserver as wire
from kata.protocol.messages.types import Empty
from kata.protocol.netlink.notation import parse_ip
from kata.transport.nameserver import read_message, write_message
from kata.transport.ttrpc import Method, Services

_MOST_ADDRESSES = 8
_MOST_QUERIES = 64
_MOST_CONNECTIONS = 64
_TIMEOUT = 15.0
"""Seconds: longer than the host waits, so that its answer is never too late."""

_UDP_HEADER = 8


class NameServers:
    """What listens, and the queries under way."""

    def __init__(self) -> None:
        self._addresses: list[str] = []
        self._opened = ExitStack()
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: dict[int, wire.Query] = {}
        self._has_asked = asyncio.Event()
        self._pending: dict[int, asyncio.Future[bytes]] = {}
        self._last = 0
        self._connections = 0

    async def serve(self, request: wire.Addresses) -> Empty:
        """Answer at these addresses, and no others. Raise UsageError, and UnsupportedError for want of BPF."""
        if len(request.addresses) > _MOST_ADDRESSES:
            raise UsageError(
                f"{len(request.addresses)} name servers are too many, at most {_MOST_ADDRESSES} are served"
            )
        for address in request.addresses:
            if parse_ip(address)[0] != 127 or len(parse_ip(address)) != 4:
                raise UsageError(f"name server {address} is not on the guest's loopback interface")
        async with self._changing:
            if request.addresses != self._addresses:
                await self._change(request.addresses)
        return Empty()

    async def _change(self, addresses: list[str]) -> None:
        await self._close()
        try:
            self._open(addresses)
        except OSError as error:
            await self._close()
            raise UnsupportedError(
                f"name servers cannot be had at {', '.join(addresses)}: {error.strerror}",
                hint="the guest's kernel needs CONFIG_BPF_SYSCALL",
            ) from error
        self._addresses = addresses

    async def _close(self) -> None:
        self._addresses = []
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        # A descriptor that is waited for must not be closed: the next one would have its number, and its waiter.
        await asyncio.gather(*tasks, return_exceptions=True)
        self._opened.close()

    def _open(self, addresses: list[str]) -> None:
        from kata.transport.socketlookup import Destination, take_destinations  # noqa: PLC0415 - few pods have such

        rows = []
        for address in addresses:
            place = parse_ip(address)
            listener = self._open_socket(socket.SOCK_STREAM, address)
            listener.listen(_MOST_CONNECTIONS)
            receiver = self._open_socket(socket.SOCK_DGRAM, address)
            # Only what is sent by hand can come from a port that is not taken.
            sender = self._open_socket(socket.SOCK_RAW, address, socket.IPPROTO_UDP)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
            rows.append((Destination(socket.IPPROTO_TCP, place, wire.PORT), listener))
            rows.append((Destination(socket.IPPROTO_UDP, place, wire.PORT), receiver))
            self._begin(self._accept(address, listener))
            self._begin(self._receive(address, receiver, sender))
        if rows:
            self._opened.callback(os.close, take_destinations(rows))

    def _open_socket(self, kind: socket.SocketKind, address: str, protocol: int = 0) -> socket.socket:
        opened = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        self._opened.callback(opened.close)
        opened.bind((address, 0))
        return opened

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, address: str, listener: socket.socket) -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            if self._connections < _MOST_CONNECTIONS:
                self._begin(self._converse(address, connection))
            else:
                connection.close()

    async def _converse(self, address: str, connection: socket.socket) -> None:
        """Answer one query of a connection after the other."""
        self._connections += 1
        try:
            with connection:
                while True:
                    async with asyncio.timeout(_TIMEOUT):
                        query = await read_message(connection)
                    answer = await self._ask(address, query, tcp=True) if query else b""
                    if not answer:
                        return
                    async with asyncio.timeout(_TIMEOUT):
                        await write_message(connection, answer)
        except OSError:  # TimeoutError is one
            return
        finally:
            self._connections -= 1

    async def _receive(self, address: str, receiver: socket.socket, sender: socket.socket) -> None:
        while True:
            query, client = await asyncio.get_running_loop().sock_recvfrom(receiver, wire.LARGEST_MESSAGE)
            if len(self._pending) < _MOST_QUERIES:
                self._begin(self._reply(address, query, client, sender))

    async def _reply(self, address: str, query: bytes, client: tuple[str, int], sender: socket.socket) -> None:
        answer = await self._ask(address, query, tcp=False)
        length = _UDP_HEADER + len(answer)
        if not answer or length > wire.LARGEST_MESSAGE:
            return
        # Without a checksum, as IPv4 allows: it does not leave this machine.
        header = b"".join(number.to_bytes(2) for number in (wire.PORT, client[1], length, 0))
        try:
            sender.sendto(header + answer, (client[0], 0))
        except OSError:
            return  # the client asks again, as for any datagram that is lost

    async def _ask(self, address: str, data: bytes, *, tcp: bool) -> bytes:
        """Return the host's answer, b"" where there is none."""
        if len(self._pending) >= _MOST_QUERIES:
            return b""
        self._last = self._last % 0xFFFFFFFF + 1
        number = self._last
        self._pending[number] = asyncio.get_running_loop().create_future()
        self._asked[number] = wire.Query(id=number, address=address, tcp=tcp, data=data)
        self._has_asked.set()
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await self._pending[number]
        except TimeoutError:
            return b""
        finally:
            del self._pending[number]
            self._asked.pop(number, None)

    async def next_query(self, _: Empty) -> wire.Query:
        """Wait for the next query."""
        while not self._asked:
            self._has_asked.clear()
            await self._has_asked.wait()
        return self._asked.pop(next(iter(self._asked)))

    async def answer(self, request: wire.Answer) -> Empty:
        """Hand over an answer. One that nobody waits for any more is dropped."""
        waiting = self._pending.get(request.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(request.data)
        return Empty()


def list_name_services(hold: Hold) -> Services:
    """Return the table of the service, with name servers of its own. The wait for a query ends when it is held."""
    servers = NameServers()
    return {
        wire.SERVICE: {
            "Serve": Method(wire.Addresses, servers.serve),
            "NextQuery": Method(Empty, hold.end_by_hold(servers.next_query)),
            "Answer": Method(wire.Answer, servers.answer),
        }
    }
