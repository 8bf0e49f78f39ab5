"""`direct-volume`: what storage drivers for Kubernetes call, to have a guest mount a volume from its device."""

import asyncio
import json
import os
import sys
from urllib.parse import quote

from kata.cli.invocation import Invocation
from kata.cli.records import find_sandbox_dir
from kata.errors import GuestError, NotFoundError, UsageError
from kata.sandbox.management import SOCKET_NAME
from kata.storage.directvolume import add_volume, list_sandboxes, remove_volume
from kata.transport.http import fetch

_TIMEOUT = 90.0


def run_direct_volume(invocation: Invocation) -> int:
    """Run `add`, `remove`, `stats` or `resize`."""
    calls = {"add": _add, "remove": _remove, "stats": _stat, "resize": _resize}
    call = calls.get(invocation.arguments[0])
    if call is None:
        raise UsageError(f"direct-volume has no command {invocation.arguments[0]!r}", hint=f"one of {', '.join(calls)}")
    path = invocation.text("volume-path")
    if not path:
        raise UsageError("direct-volume needs --volume-path, the path of the volume on the host")
    call(invocation, os.path.normpath(path))
    return 0


def _add(invocation: Invocation, path: str) -> None:
    if not invocation.text("mount-info"):
        raise UsageError("direct-volume add needs --mount-info, JSON with device, fstype and options")
    add_volume(path, invocation.text("mount-info"))


def _remove(_: Invocation, path: str) -> None:
    remove_volume(path)


def _stat(invocation: Invocation, path: str) -> None:
    sys.stdout.write(_ask(invocation, path, f"/direct-volume/stats?path={quote(path, safe='')}") + "\n")


def _resize(invocation: Invocation, path: str) -> None:
    size = invocation.text("size")
    if not (size.isascii() and size.isdigit() and int(size)):
        raise UsageError("direct-volume resize needs --size, a number of bytes")
    _ask(invocation, path, "/direct-volume/resize", json.dumps({"VolumePath": path, "Size": int(size)}).encode())


def _ask(invocation: Invocation, volume: str, path: str, body: bytes = b"") -> str:
    """Have a sandbox that has the volume answer. Raise NotFoundError where none has it, GuestError."""
    for sandbox in list_sandboxes(volume):
        socket = f"{find_sandbox_dir(invocation.root, sandbox)}/{SOCKET_NAME}"
        if not os.path.exists(socket):
            continue  # it crashed, or is of another --root
        method = "POST" if body else "GET"
        response = asyncio.run(fetch(socket, path, f"sandbox {sandbox}", method=method, body=body, timeout=_TIMEOUT))
        text = response.body.decode(errors="replace").strip()
        if response.status != 200:
            raise GuestError(f"volume {volume} of sandbox {sandbox}: {text}")
        return text
    raise NotFoundError(f"no container has the volume {volume} mounted")
