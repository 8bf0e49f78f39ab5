import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kata.errors import HostError
from kata.sys.process import is_alive, list_threads, parse_stat, read_start_ticks, send_signal
from kata.transport.boundedlog import BoundedLog
from kata.transport.child import start_child


async def test_the_status_and_the_last_words_are_kept() -> None:
    child = start_child("tool", ["sh", "-c", "echo it broke >&2; exit 3"])
    ending = await child.wait()
    assert ending.describe() == "exited with status 3: it broke"
    assert child.ending == ending


async def test_a_signal_is_named() -> None:
    child = start_child("tool", ["sleep", "60"])
    ending = await child.stop()
    assert ending.describe() == "was killed by signal 9"


async def test_a_child_that_obeys_is_not_killed() -> None:
    reader, writer = os.pipe()
    script = f"trap 'exit 7' TERM; echo up >/dev/fd/{writer}; while :; do sleep 0.01; done"
    child = start_child("tool", ["sh", "-c", script], descriptors=(writer,))
    assert os.read(reader, 3) == b"up\n"
    assert (await child.stop(grace=10)).returncode == 7
    os.close(reader)
    os.close(writer)


async def test_stopping_twice_gives_the_same_ending() -> None:
    child = start_child("tool", ["true"])
    first = await child.wait()
    assert await child.stop() == first


async def test_many_can_wait_and_one_can_give_up() -> None:
    child = start_child("tool", ["sleep", "60"])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(child.wait(), 0.01)
    waiting = asyncio.gather(child.wait(), child.wait())
    child.send_signal(signal.SIGKILL)
    assert [ending.returncode for ending in await waiting] == [-9, -9]


async def test_a_grandchild_that_keeps_the_pipe_does_not_hide_the_end() -> None:
    child = start_child("tool", ["sh", "-c", "sleep 60 & echo $! >&2"])
    ending = await asyncio.wait_for(child.wait(), 10)
    assert ending.returncode == 0
    os.kill(int(ending.stderr), signal.SIGKILL)


async def test_a_flood_on_standard_error_is_bounded_in_memory_and_on_disk(tmp_path: Path) -> None:
    log = BoundedLog(str(tmp_path / "log"), limit=100_000)
    child = start_child("tool", ["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo end >&2"], log=log)
    ending = await child.wait()
    assert ending.stderr.endswith("xend")
    assert len(ending.stderr) <= 8192
    log.close()
    assert measure_files(tmp_path) <= 100_000


def measure_files(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


async def test_only_the_descriptors_that_are_passed_arrive() -> None:
    kept, passed = os.open("/dev/null", os.O_RDONLY), os.open("/dev/zero", os.O_RDONLY)
    child = start_child("tool", ["sh", "-c", "ls /proc/self/fd >&2"], descriptors=(passed,))
    seen = (await child.wait()).stderr.split()
    assert str(passed) in seen
    assert str(kept) not in seen
    os.close(kept)
    os.close(passed)


async def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(HostError, match=r"tool did not start: .*no-such-program"):
        start_child("tool", ["/no-such-program"])


async def test_a_process_is_known_by_its_start_time_too() -> None:
    child = start_child("tool", ["sleep", "60"])
    assert is_alive(child.pid, child.start_ticks)
    assert not is_alive(child.pid, child.start_ticks + 1)
    assert not send_signal(child.pid, child.start_ticks + 1)
    assert send_signal(child.pid, child.start_ticks)
    assert (await child.wait()).returncode == -9
    assert not send_signal(child.pid, child.start_ticks)
    assert read_start_ticks(child.pid) is None


def test_a_child_dies_with_its_parent() -> None:
    argv = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", "echo up; exec sleep 60 >/dev/null"]
    script = (
        f"import subprocess; p = subprocess.Popen({argv}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL); "
        "p.stdout.readline(); print(p.pid)"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    pid = int(done.stdout)
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([descriptor], [], [], 10)[0]
    os.close(descriptor)


def test_a_command_name_with_brackets_and_spaces_is_read() -> None:
    stat = parse_stat("42 (a) b (c)) S 7 " + " ".join(str(number) for number in range(5, 53)))
    assert (stat.pid, stat.command, stat.state, stat.parent, stat.start_ticks) == (42, "a) b (c)", "S", 7, 22)


def test_threads_have_names() -> None:
    assert os.getpid() in list_threads(os.getpid())
