"""`delete`: what containerd runs when a shim is dead, to remove what it left."""

import contextlib
import os
import select
import signal
import sys
import time

from kata.errors import KataError
from kata.protocol.messages.google import make_timestamp
from kata.protocol.messages.task import DeleteResponse
from kata.sandbox import store
from kata.sandbox.collect import release_sandbox
from kata.shim.address import find_path, is_answered
from kata.shim.bundle import find_place
from kata.shim.flags import Invocation
from kata.sys.file import read_text
from kata.sys.process import end_process, read_start_ticks

_KILLED = 128 + signal.SIGKILL
_FAREWELL_TIMEOUT_MS = 2000
_END_TIMEOUT = 5.0


def delete(invocation: Invocation) -> int:
    """End the shim if it still lives, release its sandbox, and print how the container is taken to have ended."""
    container = invocation.require("id")
    bundle = os.path.abspath(invocation.texts["bundle"] or os.getcwd())
    pid = _end_daemon(bundle, container)
    namespace = invocation.texts["namespace"]
    sandbox = store.make_key(_find_sandbox(bundle, container), namespace)
    key = store.make_key(container, namespace)
    if not store.is_served(store.find_sandbox_dir(store.DEFAULT_ROOT, sandbox)):  # else it is a member that is gone
        for line in release_sandbox(store.DEFAULT_ROOT, sandbox):
            print(line, file=sys.stderr)
    with contextlib.suppress(KataError):
        if store.read_container(store.DEFAULT_ROOT, key).sandbox == sandbox:
            store.remove_container(store.DEFAULT_ROOT, key)
    address = read_text(f"{bundle}/address")
    if address and not is_answered(address):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(find_path(address))
    response = DeleteResponse(pid=pid, exit_status=_KILLED, exited_at=make_timestamp(time.time_ns()))
    sys.stdout.buffer.write(response.encode())
    return 0


def _find_sandbox(bundle: str, container: str) -> str:
    try:
        return find_place(bundle, container)[1]
    except KataError:
        return container  # without a readable bundle no pod is known


def _end_daemon(bundle: str, container: str) -> int:
    """Kill the shim that `shim.pid` names, and return that pid; a member of a pod has none of its own.

    containerd 1.6 comes here after each ordinary Shutdown too, so a shim that is just ending is left the time for it.
    """
    text = read_text(f"{bundle}/shim.pid")
    if not text.isdecimal():
        return 0
    pid = int(text)
    ticks = read_start_ticks(pid)
    if ticks is None or not _is_ours(pid, container):
        return pid
    with contextlib.suppress(ProcessLookupError, TimeoutError):
        descriptor = os.pidfd_open(pid)
        try:
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            if not poller.poll(_FAREWELL_TIMEOUT_MS):
                end_process(pid, ticks, signal.SIGKILL, timeout=_END_TIMEOUT)
        finally:
            os.close(descriptor)
    return pid


def _is_ours(pid: int, container: str) -> bool:
    """Say whether the process is the container's shim, and not a stranger that was given its number."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return b"-id" in words and words[words.index(b"-id") + 1] == container.encode()
