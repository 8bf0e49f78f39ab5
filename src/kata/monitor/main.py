"""`kata-monitor`'s command line: listens, and serves until SIGTERM or SIGINT."""

import argparse
import asyncio
import ipaddress
import signal
import sys

from kata import __version__
from kata.errors import KataError, UsageError
from kata.monitor.calls import MonitorCalls
from kata.observe.log import Log
from kata.protocol.http import Request
from kata.sandbox.store import DEFAULT_ROOT
from kata.transport.http import HttpConnection

_DEFAULT_ADDRESS = "127.0.0.1:8090"


def main() -> int:
    """Run until it is told to end; an error is one line on standard error, and exit code 1."""
    options = _build_parser().parse_args()
    try:
        host, port = parse_address(options.listen_address)
        asyncio.run(_serve(host, port, options.root, Log("", "monitor", options.log_level)))
    except OSError as error:
        print(f"kata-monitor: {options.listen_address} cannot be listened at: {error.strerror}", file=sys.stderr)
        return 1
    except KataError as error:
        print(f"kata-monitor: {error}", file=sys.stderr)
        return 1
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kata-monitor", description="Serve the metrics of this node's sandboxes.")
    add = parser.add_argument
    add("-listen-address", "--listen-address", default=_DEFAULT_ADDRESS, metavar="ADDRESS", help="IP address and port")
    add("-log-level", "--log-level", default="info", choices=("debug", "info", "warning", "error"))
    add(
        "-runtime-endpoint",
        "--runtime-endpoint",
        metavar="PATH",
        help="accepted for upstream's sake and not used: the pods' names come from their annotations",
    )
    add("--root", default=DEFAULT_ROOT, metavar="DIR", help="the runtime's state directory")
    add("--version", action="version", version=f"kata-monitor {__version__}")
    return parser


def parse_address(text: str) -> tuple[str, int]:
    """Return the address and port of `127.0.0.1:8090` or `[::1]:8090`. Raise UsageError for anything else."""
    host, _, port = text.rpartition(":")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        host = ""
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(
            f"{text!r} is no address to listen at", hint=f"give an IP address and port: {_DEFAULT_ADDRESS}"
        )
    return host.strip("[]"), int(port)


async def _serve(host: str, port: int, root: str, log: Log) -> None:
    loop = asyncio.get_running_loop()
    calls = MonitorCalls(root, log)
    ended = asyncio.Event()

    def log_error(request: Request, error: Exception) -> None:
        log.write("error", f"{request.method} {request.path} failed", error=repr(error))

    server = await loop.create_server(lambda: HttpConnection(calls.serve, log_error), host, port)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    bound = server.sockets[0].getsockname()
    log.write("info", f"listening at {bound[0]}:{bound[1]}")
    await ended.wait()
    server.close()
