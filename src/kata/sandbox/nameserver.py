"""Name servers on the loopback interface of the pod's namespace, for the guest to ask.

In networks of its own Docker has a name server listen on 127.0.0.11 of each container's namespace, and a resolv.conf
that names it. In the guest that address is the guest's own; so the agent takes what is asked there, and this process,
which lives in the namespace, asks in its place.

Nothing is offered unless a container's resolv.conf names an address of 127.0.0.0/8, and somebody has a UDP socket there
in the pod's namespace. A program of the guest may write into its resolv.conf: it gets at port 53 of such addresses, as
any container's program does, and at nothing else. 127.0.0.1 and ::1 are the pod's own, whose servers are in the guest.
"""

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import Any

from kata.errors import KataError
from kata.observe.log import Log
from kata.protocol.messages import nameserver as wire
from kata.protocol.netlink.notation import parse_ip
from kata.sandbox.guest import Guest
from kata.sys.file import read_text
from kata.transport.nameserver import read_message, write_message

_RESOLV_CONF = "/etc/resolv.conf"
_LONGEST_RESOLV_CONF = 64 << 10
_SOCKETS = "/proc/thread-self/net/udp"
_MOST_ADDRESSES = 3
"""As many name servers as resolv.conf(5) allows."""

_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between looks after a change: Docker writes a resolv.conf when the link is there, and has a socket later."""

_MOST_QUERIES = 32
_TIMEOUT = 10.0


class NameRelay:
    """Asks for one guest, from the calling thread's network namespace, until `close`."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._files: dict[str, None] = {}
        self._addresses: list[str] = []
        self._changing = asyncio.Lock()
        self._pauses: list[float] = []
        self._looking: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, spec: dict[str, Any]) -> None:
        """Know the resolv.conf of another container."""
        if path := _find_resolv_conf(spec):
            self._files[path] = None

    async def follow(self, guest: Guest) -> None:
        """Offer the guest the name servers that there are now, or soon. Where that fails, the log says so."""
        if not self._files:
            return
        await self._look(guest)
        self._pauses = list(_PAUSES)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_again(guest))

    async def _look_again(self, guest: Guest) -> None:
        while self._pauses:
            await asyncio.sleep(self._pauses.pop(0))
            await self._look(guest)

    async def _look(self, guest: Guest) -> None:
        async with self._changing:
            named = {address: None for path in self._files for address in _list_loopback_servers(_read_lines(path))}
            addresses = [address for address in named if _is_bound(address)][:_MOST_ADDRESSES]
            if addresses == self._addresses:
                return
            try:
                await guest.serve_names(addresses)
            except KataError as error:
                self._log.write("warning", f"the guest does not reach the name servers of its resolv.conf: {error}")
                return
            self._addresses = addresses
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask_for(guest))

    async def _ask_for(self, guest: Guest) -> None:
        slots = asyncio.Semaphore(_MOST_QUERIES)
        try:
            while self._addresses:
                await slots.acquire()
                task = asyncio.create_task(self._answer(guest, await guest.next_query()))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                task.add_done_callback(lambda _: slots.release())
        except KataError as error:
            if not guest.client.lost.is_set():
                self._log.write("warning", f"the guest's name servers are given up: {error}")

    async def _answer(self, guest: Guest, query: wire.Query) -> None:
        answer = b""
        # Whatever the guest says, nothing is asked but what was offered.
        if query.address in self._addresses and len(query.data) <= wire.LARGEST_MESSAGE:
            try:
                async with asyncio.timeout(_TIMEOUT):
                    answer = await _ask(query.address, query.data, tcp=query.tcp)
            except OSError:  # TimeoutError is one
                answer = b""
        try:
            await guest.answer_query(query.id, answer)
        except KataError:
            return  # the guest is gone, or hangs

    def close(self) -> None:
        """Stop. May be called again."""
        for task in (self._looking, self._asking, *self._tasks):
            if task is not None:
                task.cancel()


def read_name_servers(spec: dict[str, Any]) -> list[str]:
    """Return the lines of the resolv.conf that the engine made for a container, none where it made none."""
    return _read_lines(_find_resolv_conf(spec))


def _find_resolv_conf(spec: dict[str, Any]) -> str:
    for mount in spec.get("mounts") or []:
        if mount.get("destination") == _RESOLV_CONF:
            return str(mount.get("source"))
    return ""


def _read_lines(path: str) -> list[str]:
    if not os.path.isfile(path):
        return []
    with open(path, "rb") as file:
        return file.read(_LONGEST_RESOLV_CONF).decode(errors="replace").splitlines()


def _list_loopback_servers(lines: list[str]) -> Iterator[str]:
    """Return the addresses of a resolv.conf's name servers that are on loopback, and not the guest's own."""
    for line in lines:
        word, _, address = line.partition(" ")
        try:
            place = parse_ip(address.strip())
        except KataError:
            continue
        if word == "nameserver" and len(place) == 4 and place[0] == 127 and place != b"\x7f\0\0\1":
            yield address.strip()


def _is_bound(address: str) -> bool:
    """Say whether there is a UDP socket at an address of this thread's namespace. Source: proc_pid_net(5)."""
    bound = {line.split()[1].partition(":")[0] for line in read_text(_SOCKETS).splitlines()[1:]}
    return not bound.isdisjoint({f"{int.from_bytes(place, 'little'):08X}" for place in (parse_ip(address), bytes(4))})


async def _ask(address: str, query: bytes, *, tcp: bool) -> bytes:
    """Return what the name server answers. Raise OSError."""
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as asked:
        await loop.sock_connect(asked, (address, wire.PORT))
        if tcp:
            await write_message(asked, query)
            return await read_message(asked)
        await loop.sock_sendall(asked, query)
        return await loop.sock_recv(asked, wire.LARGEST_MESSAGE)
