import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parents[3] / "src"
_START = """
import sys
sys.path.insert(0, sys.argv[1])
from kata.sys.deferred import DeferredModule, defer_modules
defer_modules()
import asyncio, signal
"""


def run(program: str) -> str:
    argv = [sys.executable, "-IS", "-c", _START + program, str(SOURCES)]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def test_an_event_loop_with_signal_handlers_and_time_limits_loads_nothing_that_is_deferred() -> None:
    program = """
async def work():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)
    async with asyncio.timeout(5):
        await asyncio.wait({asyncio.create_task(asyncio.sleep(0))})
loop = asyncio.new_event_loop()
loop.run_until_complete(work())
names = ("inspect", "logging", "subprocess", "traceback", "concurrent.futures")
print(*(isinstance(sys.modules[name], DeferredModule) for name in names))
"""
    assert run(program).split() == ["True"] * 5


def test_the_first_use_of_a_deferred_module_gives_the_real_one() -> None:
    program = """
import concurrent.futures, inspect, logging, subprocess, traceback
print(subprocess.run(["echo", "ran"], capture_output=True).stdout.decode().strip())
print(inspect.signature(run := (lambda a: a)))
print(logging.getLevelName(30), bool(traceback.extract_stack()), concurrent.futures.Future().done())
logging.getLogger("x").warning("said")
"""
    assert run(program).split() == ["ran", "(a)", "WARNING", "True", "False"]
