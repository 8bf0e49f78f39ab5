import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from kata.errors import HostError, UsageError
from kata.sandbox.hooks import run_hooks, try_hooks

_STATE = {"id": "c", "status": "creating", "pid": 7}


def _write_script(directory: Path, name: str, body: str) -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def _describe(*hooks: dict[str, Any]) -> dict[str, Any]:
    return {"hooks": {"createRuntime": list(hooks)}}


async def test_a_hook_gets_the_state_its_arguments_and_only_its_environment(tmp_path: Path) -> None:
    path = _write_script(tmp_path, "hook", f'cat > {tmp_path}/state; echo "$0 $1 $A" > {tmp_path}/seen; env | wc -l')
    hook = {"path": path, "args": ["zero", "one"], "env": ["A=1=2"]}
    await run_hooks(_describe(hook), "createRuntime", _STATE)
    assert json.loads((tmp_path / "state").read_text()) == _STATE
    assert (tmp_path / "seen").read_text().endswith("one 1=2\n")


async def test_hooks_run_in_order_and_a_failure_keeps_the_next_from_running(tmp_path: Path) -> None:
    first = _write_script(tmp_path, "first", f"echo 1 >> {tmp_path}/order")
    bad = _write_script(tmp_path, "bad", "echo out of order >&2; exit 3")
    last = _write_script(tmp_path, "last", f"echo 3 >> {tmp_path}/order")
    with pytest.raises(HostError, match="bad failed with status 3: out of order"):
        await run_hooks(_describe({"path": first}, {"path": bad}, {"path": last}), "createRuntime", _STATE)
    assert (tmp_path / "order").read_text() == "1\n"


async def test_hooks_that_may_fail_all_run_and_each_failure_is_told(tmp_path: Path) -> None:
    bad = _write_script(tmp_path, "bad", "exit 3")
    last = _write_script(tmp_path, "last", f"echo 3 >> {tmp_path}/order")
    document = _describe({"path": bad}, {"path": "relative"}, {"path": "/absent"}, {"path": last})
    failures = await try_hooks(document, "createRuntime", _STATE)
    assert len(failures) == 3
    assert (tmp_path / "order").read_text() == "3\n"


@pytest.mark.parametrize("hook", [{}, {"path": None}, {"path": "relative"}])
async def test_a_hook_without_an_absolute_path_is_refused(hook: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="createRuntime hook"):
        await run_hooks(_describe(hook), "createRuntime", _STATE)


async def test_a_hook_that_cannot_run_is_named() -> None:
    with pytest.raises(HostError, match=r"createRuntime hook /absent cannot run"):
        await run_hooks(_describe({"path": "/absent"}), "createRuntime", _STATE)


async def test_a_hook_that_outlives_its_timeout_is_killed_with_its_children(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    path = _write_script(tmp_path, "hook", f"sleep 1000 > {fifo} & sleep 1000 > {fifo}")
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(HostError, match="timeout"):
        await run_hooks(_describe({"path": path, "timeout": 0.3}), "createRuntime", _STATE)
    os.set_blocking(reading, True)
    assert await asyncio.to_thread(os.read, reading, 1) == b""  # the end of the last that could write
    os.close(reading)


async def test_a_daemon_that_a_hook_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    path = _write_script(tmp_path, "hook", f"sleep 1000 & echo $! > {tmp_path}/pid")
    start = time.monotonic()
    await run_hooks(_describe({"path": path}), "createRuntime", _STATE)
    assert time.monotonic() - start < 5
    os.kill(int((tmp_path / "pid").read_text()), 9)


async def test_a_hook_is_killed_when_its_caller_is_cancelled(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    path = _write_script(tmp_path, "hook", f"echo $$ > {fifo}; exec sleep 1000")
    task = asyncio.create_task(run_hooks(_describe({"path": path}), "createRuntime", _STATE))
    hook = int(await asyncio.to_thread(fifo.read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not os.path.exists(f"/proc/{hook}")


async def test_a_document_without_hooks_runs_none() -> None:
    documents: list[dict[str, Any]] = [{}, {"hooks": None}, {"hooks": {}}, {"hooks": {"createRuntime": None}}]
    for document in documents:
        await run_hooks(document, "createRuntime", _STATE)
