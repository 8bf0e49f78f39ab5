"""OCI hooks on the host: programs that the bundle wants run at points of a container's life.

The state goes to each hook's standard input. Hooks before the start are fatal when they fail; poststart and poststop
only log. Source: OCI runtime specification, config.md#posix-platform-hooks and runtime.md#lifecycle.
"""

import asyncio
import json
from typing import Any

from kata.errors import HostError

_DEFAULT_TIMEOUT = 30.0


async def run_hooks(document: dict[str, Any], point: str, state: dict[str, Any]) -> None:
    """Run the hooks of one point in order. Raise HostError when one fails or outlives its timeout (seconds)."""
    for hook in (document.get("hooks") or {}).get(point) or []:
        await _run_hook(hook, point, json.dumps(state).encode())


async def _run_hook(hook: dict[str, Any], point: str, state: bytes) -> None:
    path = hook["path"]
    environment = dict(entry.partition("=")[::2] for entry in hook.get("env") or [])
    try:
        process = await asyncio.create_subprocess_exec(
            *(hook.get("args") or [path]),
            executable=path,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise HostError(f"{point} hook {path} cannot run: {error.strerror}") from error
    try:
        async with asyncio.timeout(hook.get("timeout") or _DEFAULT_TIMEOUT):
            output, _ = await process.communicate(state)
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise HostError(f"{point} hook {path} did not end within its timeout") from error
    if process.returncode != 0:
        said = output.decode(errors="replace").strip()[-500:]
        raise HostError(f"{point} hook {path} failed with status {process.returncode}: {said}")
