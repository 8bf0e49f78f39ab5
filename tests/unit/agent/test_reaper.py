"""Reaping of real processes: our own, and orphans that appear before their pid is known.

The reaper takes every child of its process, so it has one to itself: each test runs a script.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

SOURCE = Path(__file__).parents[3] / "src"
PROLOGUE = f"""
import asyncio, os, pty, sys
sys.path.insert(0, {str(SOURCE)!r})
from kata.agent.reaper import Reaper
from kata.errors import DeadlineError, HostError
from kata.sys import linux

linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
reaper = Reaper()

def run(*argv, timeout=10.0):
    return reaper.run(list(argv), stdio=(null, null, null), timeout=timeout)
"""
EPILOGUE = """
async def main():
    reaper.start()
    await test()
    reaper.stop()

asyncio.run(asyncio.wait_for(main(), 30))
"""


def run_script(body: str) -> str:
    """Run the body as the coroutine `test` beside a reaper, and return what it prints."""
    script = PROLOGUE + "async def test():\n" + textwrap.indent(textwrap.dedent(body), "    ") + EPILOGUE
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_statuses_come_back_each_to_its_own() -> None:
    out = run_script("print(await asyncio.gather(*(run('sh', '-c', f'exit {n}') for n in range(10))))")

    assert out == str(list(range(10)))


def test_a_killed_process_has_128_and_its_signal() -> None:
    assert run_script("print(await run('sh', '-c', 'kill -TERM $$'))") == str(128 + 15)


def test_a_program_that_takes_too_long_is_killed_and_named() -> None:
    out = run_script(
        """
        try:
            await run("sleep", "1000", timeout=0.05)
        except DeadlineError as error:
            print(error)
        """
    )

    assert out == "sleep did not end within 0.05 s and was killed"


def test_a_program_that_does_not_exist_is_named() -> None:
    out = run_script(
        """
        try:
            await run("no-such-program")
        except HostError as error:
            print(error)
        """
    )

    assert "no-such-program" in out


def test_an_orphan_that_died_before_its_pid_was_known_keeps_its_status() -> None:
    out = run_script(
        """
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        with reaper.expect_orphans():
            # The first shell ends at once; the child that it leaves behind ends a little later, as our orphan.
            _, status = reaper.spawn(["sh", "-c", "(sleep 0.1; exit 9) & echo $!"], stdio=(null, theirs, null))
            assert await status == 0
            pid = int(os.read(ours, 100))
            while pid not in reaper._strangers:
                await asyncio.sleep(0.01)
            print(await reaper.watch(pid))
        print(reaper._strangers)
        """
    )

    assert out.split("\n") == ["9", "{}"]


def test_an_orphan_that_nobody_expects_is_reaped_and_forgotten() -> None:
    out = run_script(
        """
        assert await run("sh", "-c", "(sleep 0.1; exit 4) & exit 0") == 0
        while open(f"/proc/self/task/{os.getpid()}/children").read():
            await asyncio.sleep(0.01)
        print(reaper._strangers)
        """
    )

    assert out == "{}"


def test_a_program_gets_a_controlling_terminal() -> None:
    out = run_script(
        """
        master, slave = pty.openpty()
        _, status = reaper.spawn_on_terminal(["sh", "-c", "echo hi > /dev/tty"], os.ttyname(slave))
        assert await status == 0
        print(os.read(master, 10))
        """
    )

    assert out == "b'hi\\r\\n'"
