"""The time that a container sees. KATA_DRIFT is the number of seconds for which it is watched."""

import asyncio
import os
import select
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from engine import ARTEFACTS, Engine
from kata.config.artifacts import Artifacts
from kata.config.model import Configuration
from kata.hypervisor.channel import AGENT_PORT
from kata.hypervisor.qemu.driver import Qemu, QemuSettings
from kata.hypervisor.qemu.vm import QemuVm
from kata.hypervisor.spec import VmSpec
from kata.sandbox.clock import GuestClock
from kata.sandbox.description import list_kernel_parameters
from kata.sandbox.guest import Guest
from kata.sandbox.line import open_line

_WATCHED = float(os.environ.get("KATA_DRIFT", "5"))
_BETWEEN = min(30.0, _WATCHED)
_WANTED = 0.05
_READ_CLOCK = "while read line; do adjtimex; done"
_READINGS = 6


class Reading(NamedTuple):
    """How many seconds the guest is ahead, and by how many that may be wrong."""

    uncertainty: float
    ahead: float


def _read(process: "subprocess.Popen[bytes]") -> Reading:
    assert process.stdin is not None
    assert process.stdout is not None
    before = time.time()
    process.stdin.write(b"\n")
    process.stdin.flush()
    shown: dict[str, str] = {}
    while "return value" not in shown:
        key, _, value = process.stdout.readline().decode().partition(":")
        shown[key.strip()] = value
    after = time.time()
    seconds = int(shown["time.tv_sec"]) + int(shown["time.tv_usec"]) / 1e6
    return Reading((after - before) / 2, seconds - (before + after) / 2)


@pytest.mark.timeout(_WATCHED * 2 + 120)
def test_a_container_sees_the_time_of_the_host(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    container = engine.name("clock")
    bundle = engine.make_bundle(container, ["sh", "-c", _READ_CLOCK])
    readings = []
    with engine.start("run", "--bundle", str(bundle), container) as process:
        end = time.monotonic() + _WATCHED
        while True:
            readings.append(min(_read(process) for _ in range(_READINGS)))
            if time.monotonic() >= end:
                break
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(_BETWEEN)
        process.communicate(timeout=60)
    with capsys.disabled():
        first, last, worst = (f"{reading.ahead * 1e3:+.1f}" for reading in (readings[0], readings[-1], _find(readings)))
        print(f"\nguest's clock over {_WATCHED:g} s, ms ahead: first {first}, last {last}, furthest {worst}")
    assert all(abs(reading.ahead) <= _WANTED + reading.uncertainty for reading in readings), readings


def _find(readings: list[Reading]) -> Reading:
    return max(readings, key=lambda reading: abs(reading.ahead))


def test_a_container_that_was_paused_sees_the_time_of_the_host(engine: Engine) -> None:
    with engine.hold("sleep", "1000") as held:
        engine.succeed("pause", held.id)
        select.select([], [], [], 1.5)
        engine.succeed("resume", held.id)
        before = time.time()
        shown = float(held.ask("date", "+%s"))
        assert before - 1 <= shown <= time.time()


@asynccontextmanager
async def _boot(directory: Path, image: Path) -> AsyncIterator[tuple[QemuVm, Guest]]:
    """Start a VM with the agent and nothing else, and wait until it answers."""
    line = open_line("vport", str(directory))
    kernel = ARTEFACTS / "vmlinux.container"
    parameters = list_kernel_parameters(Configuration(), Artifacts(str(kernel), str(image)), line.server)
    spec = VmSpec(
        "clock", str(directory), str(kernel), 1, 256, str(image), None, tuple(parameters), devices=line.devices
    )
    machine = await Qemu(QemuSettings(accelerator="tcg"), None).start(spec)
    try:
        guest = Guest(await line.connect(AGENT_PORT, timeout=30))
        await guest.check(timeout=60)
        yield machine, guest
        guest.client.close()
    finally:
        await machine.stop(timeout=0)


async def test_a_guest_that_stood_still_while_its_host_slept_has_the_hosts_time_at_once(
    tmp_path: Path, guest_image: Path
) -> None:
    """A host that wakes tells of it as one whose clock is set does; here it is, to the time that it shows."""
    async with _boot(tmp_path, guest_image) as (machine, guest):
        clock = GuestClock(guest)
        await clock.set()
        following = asyncio.create_task(clock.follow())
        await machine.pause()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 1.5)
        await machine.resume()
        late, uncertainty = await clock.compare()
        assert late < -1_000_000_000 + uncertainty
        try:
            time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns())
        except PermissionError as error:
            pytest.skip(f"the clock cannot be set here, to the time that it shows: {error}")
        async with asyncio.timeout(10):
            while True:
                ahead, uncertainty = await clock.compare()
                if abs(ahead) < _WANTED * 1e9 + uncertainty:
                    break
        following.cancel()
