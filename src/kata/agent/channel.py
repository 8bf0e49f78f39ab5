"""Where the host reaches the agent: kernel vsock, virtio-serial, or a Unix socket when the agent is no PID 1."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable

from kata.agent.port import AnyProtocol, Port, find_port
from kata.errors import ConfigError, HostError

MakeProtocol = Callable[[], AnyProtocol]


async def serve(address: str, make_protocol: MakeProtocol) -> None:
    """Serve `vsock://CID:PORT` (CID -1: any), `vport://PORT` or `unix://PATH` until cancelled.

    Raise ConfigError for another address, HostError when it cannot be bound.
    """
    scheme, _, rest = address.partition("://")
    find = _SCHEMES.get(scheme)
    if find is None or not rest:
        raise ConfigError(f"the agent cannot listen on {address}", hint="vsock://-1:1024 and vport://1024 work")
    try:
        await find(rest, make_protocol)
    except (OSError, ValueError) as error:
        raise HostError(f"the agent cannot listen on {address}: {error}") from error


async def _serve_vsock(rest: str, make_protocol: MakeProtocol) -> None:
    cid, _, port = rest.rpartition(":")
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.bind((socket.VMADDR_CID_ANY if cid in {"", "-1"} else int(cid), int(port)))
    await _serve_socket(sock, make_protocol)


async def _serve_unix(path: str, make_protocol: MakeProtocol) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.bind(path)
    await _serve_socket(sock, make_protocol)


async def _serve_socket(sock: socket.socket, make_protocol: MakeProtocol) -> None:
    sock.setblocking(False)
    server = await asyncio.get_running_loop().create_server(make_protocol, sock=sock)
    try:
        await server.serve_forever()
    finally:
        server.close()


async def _serve_vport(rest: str, make_protocol: MakeProtocol) -> None:
    port = Port(find_port(int(rest)))
    try:
        await port.serve(make_protocol)
    finally:
        port.close()


_SCHEMES: dict[str, Callable[[str, MakeProtocol], Awaitable[None]]] = {
    "vsock": _serve_vsock,
    "unix": _serve_unix,
    "vport": _serve_vport,
}


def find_sibling(server: str, port: int) -> str:
    """The address of another logical port on the transport that serves the agent's calls."""
    scheme, _, rest = server.partition("://")
    if scheme == "vsock":
        return f"vsock://{rest.rpartition(':')[0]}:{port}"
    return f"{scheme}://{port}" if scheme == "vport" else f"{server}.{port}"
