"""OCI hooks on the host: programs that the bundle wants run at points of a container's life.

The state goes to each hook's standard input. Hooks before the start are fatal when they fail; poststart and poststop
only log. Source: OCI runtime specification, config.md#posix-platform-hooks and runtime.md#lifecycle.
"""

import asyncio
import json
import os
import signal
from contextlib import suppress
from typing import Any

from kata.errors import HostError, UsageError

_DEFAULT_TIMEOUT = 30.0
_SAID = 500


async def run_hooks(document: dict[str, Any], point: str, state: dict[str, Any]) -> None:
    """Run the hooks of one point in order. Raise HostError when one fails or outlives its timeout (seconds)."""
    for hook in _list_hooks(document, point):
        await _run_hook(hook, point, json.dumps(state).encode())


async def try_hooks(document: dict[str, Any], point: str, state: dict[str, Any]) -> list[str]:
    """Run all hooks of one point, whatever fails; return a sentence per failure."""
    failures = []
    for hook in _list_hooks(document, point):
        try:
            await _run_hook(hook, point, json.dumps(state).encode())
        except (HostError, UsageError) as error:
            failures.append(str(error))
    return failures


def _list_hooks(document: dict[str, Any], point: str) -> list[dict[str, Any]]:
    return (document.get("hooks") or {}).get(point) or []


async def _run_hook(hook: dict[str, Any], point: str, state: bytes) -> None:
    path = hook.get("path")
    if not isinstance(path, str) or not path.startswith("/"):
        raise UsageError(f"{point} hook has no absolute path: {path!r}")
    # Files in memory, not pipes: a daemon that the hook leaves behind holds them without anybody waiting for it.
    given, said = os.memfd_create("state"), os.memfd_create("said")
    try:
        os.pwrite(given, state, 0)
        status = await _run_program(hook, point, path, given, said)
        if status != 0:
            text = os.pread(said, _SAID, max(0, os.fstat(said).st_size - _SAID)).decode(errors="replace").strip()
            raise HostError(f"{point} hook {path} failed with status {status}: {text}")
    finally:
        os.close(given)
        os.close(said)


async def _run_program(hook: dict[str, Any], point: str, path: str, given: int, said: int) -> int:
    try:
        process = await asyncio.create_subprocess_exec(
            *(hook.get("args") or [path]),
            executable=path,
            env=dict(entry.partition("=")[::2] for entry in hook.get("env") or []),
            stdin=given,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    except OSError as error:
        raise HostError(f"{point} hook {path} cannot run: {error.strerror}") from error
    try:
        async with asyncio.timeout(hook.get("timeout") or _DEFAULT_TIMEOUT):
            return await process.wait()
    except TimeoutError as error:
        raise HostError(f"{point} hook {path} did not end within its timeout") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
