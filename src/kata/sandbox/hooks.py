"""OCI hooks on the host: programs that the bundle wants run at points of a container's life.

The state goes to each hook's standard input. Hooks before the start are fatal when they fail; poststart and poststop
only log. Source: OCI runtime specification, config.md#posix-platform-hooks and runtime.md#lifecycle.
"""

import asyncio
import json
import os
import signal
import subprocess
from contextlib import nullcontext
from typing import Any

from kata.errors import HostError, UsageError
from kata.network.namespace import visit_namespace
from kata.transport.readiness import wait_readable

_DEFAULT_TIMEOUT = 30.0
_SAID = 500


async def run_hooks(document: dict[str, Any], point: str, state: dict[str, Any], *, network: int | None = None) -> None:
    """Run the hooks of one point in order. Raise HostError when one fails or outlives its timeout (seconds).

    `network` is a descriptor of the network namespace that they are to run in, None for this thread's.
    """
    for hook in _list_hooks(document, point):
        await _run_hook(hook, point, json.dumps(state).encode(), network)


async def try_hooks(
    document: dict[str, Any], point: str, state: dict[str, Any], *, network: int | None = None
) -> list[str]:
    """Run all hooks of one point, whatever fails; return a sentence per failure. `network` as in `run_hooks`."""
    failures = []
    for hook in _list_hooks(document, point):
        try:
            await _run_hook(hook, point, json.dumps(state).encode(), network)
        except (HostError, UsageError) as error:
            failures.append(str(error))
    return failures


def _list_hooks(document: dict[str, Any], point: str) -> list[dict[str, Any]]:
    return (document.get("hooks") or {}).get(point) or []


async def _run_hook(hook: dict[str, Any], point: str, state: bytes, network: int | None) -> None:
    path = hook.get("path")
    if not isinstance(path, str) or not path.startswith("/"):
        raise UsageError(f"{point} hook has no absolute path: {path!r}")
    # Files in memory, not pipes: a daemon that the hook leaves behind holds them without anybody waiting for it.
    given, said = os.memfd_create("state"), os.memfd_create("said")
    try:
        os.pwrite(given, state, 0)
        status = await _run_program(hook, point, given, said, network)
        if status != 0:
            text = os.pread(said, _SAID, max(0, os.fstat(said).st_size - _SAID)).decode(errors="replace").strip()
            raise HostError(f"{point} hook {path} failed with status {status}: {text}")
    finally:
        os.close(given)
        os.close(said)


async def _run_program(hook: dict[str, Any], point: str, given: int, said: int, network: int | None) -> int:
    path = hook["path"]
    try:
        with visit_namespace(network) if network is not None else nullcontext():
            process = _start_program(hook, given, said)
    except OSError as error:
        raise HostError(f"{point} hook {path} cannot run: {error.strerror}") from error
    ended = os.pidfd_open(process.pid)
    try:
        async with asyncio.timeout(hook.get("timeout") or _DEFAULT_TIMEOUT):
            await wait_readable(ended)
    except TimeoutError as error:
        raise HostError(f"{point} hook {path} did not end within its timeout") from error
    finally:
        os.close(ended)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode


def _start_program(hook: dict[str, Any], given: int, said: int) -> "subprocess.Popen[bytes]":
    # Not asyncio's, which waits in between: this thread may be in another network namespace for the moment.
    return subprocess.Popen(
        hook.get("args") or [hook["path"]],
        executable=hook["path"],
        env=dict(entry.partition("=")[::2] for entry in hook.get("env") or []),
        stdin=given,
        stdout=said,
        stderr=said,
        start_new_session=True,
    )
