"""A VM that is saved goes on as another: with what it had in memory, and with disks, shares and cards of its own."""

import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from hypervisor.machine import (
    PATIENCE,
    Running,
    describe,
    expect_packet,
    let_go,
    name_tap,
    reach,
    share_directory,
    start_line,
)
from hypervisor.test_conformance import find_disk, require
from kata.config.artifacts import Artifacts
from kata.errors import KataError, StartError
from kata.hypervisor.driver import Hypervisor
from kata.hypervisor.spec import BlockDevice, NetDevice, SharedFs
from kata.hypervisor.vmmuser import derive_user_id
from kata.network.tap import drop_tap, keep_tap, open_tap
from kata.sandbox.waking import find_root_slots

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]
MAC = "02:00:00:00:00:07"


@contextmanager
def make_card(driver: Hypervisor, directory: Path) -> Iterator[NetDevice]:
    """A network card for the VM of a directory, as the driver takes it."""
    name = name_tap(directory)
    taps = open_tap(name)
    try:
        if driver.find_capabilities().opens_taps:
            keep_tap(taps[0], derive_user_id(directory.name))
        yield NetDevice("net0", MAC, taps, tap=name)
    finally:
        os.close(taps[0])
        drop_tap(name)


async def save(driver: Hypervisor, artifacts: Artifacts, directory: Path, target: Path) -> None:
    """Boot a VM, leave a mark in its memory, and save it."""
    directory.mkdir(mode=0o700)
    target.mkdir(mode=0o700)
    async with AsyncExitStack() as owned:
        line = await owned.enter_async_context(start_line(driver, directory, savable=True))
        cards: tuple[NetDevice, ...] = ()
        if not driver.find_capabilities().net_hotplug:
            cards = (owned.enter_context(make_card(driver, directory)),)
        spec = describe(driver, artifacts, directory, line, cards)
        spec = spec._replace(savable=True, max_vcpus=0, max_memory_mib=0)
        vm = await driver.start(spec, timeout=PATIENCE)
        owned.push_async_callback(vm.stop, timeout=0)
        running = await reach(driver, spec, vm, line, time.monotonic())
        await running.guest.prepare_template()
        await running.shell.run("echo what was > /run/mark; sync")
        await let_go(running)
        await vm.save(str(target), timeout=PATIENCE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def copied(
    driver: Hypervisor, artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    """A VM that goes on from a saved one, with a card and, where the driver declares it, a share of its own."""
    require(driver.find_capabilities(), "template")
    place = tmp_path_factory.mktemp("saved")
    await save(driver, artifacts, place / f"{driver.name}-first", place / "saved")
    directory, export = place / f"{driver.name}-copy", place / "export"
    directory.mkdir(mode=0o700)
    export.mkdir()
    (export / "file").write_text("of the host\n")
    async with AsyncExitStack() as owned:
        line = await owned.enter_async_context(start_line(driver, directory, savable=True))
        shares = await owned.enter_async_context(share_directory(driver, directory, export))
        card = owned.enter_context(make_card(driver, directory))
        is_hot = driver.find_capabilities().net_hotplug
        began = time.monotonic()
        copy = describe(driver, artifacts, directory, line, () if is_hot else (card,))
        copy = copy._replace(max_vcpus=0, max_memory_mib=0, saved=str(place / "saved"))
        vm = await driver.start(copy, timeout=PATIENCE)
        owned.push_async_callback(vm.stop, timeout=5)
        slots = [await vm.plug_share(share) for share in shares if isinstance(share, SharedFs)]
        if is_hot:
            slots.append(await vm.plug_net(card))
        running = await reach(driver, copy, vm, line, began, find_root_slots(slots))
        yield running
        await let_go(running)


async def test_it_goes_on_with_what_it_had_in_memory(copied: Running) -> None:
    assert await copied.shell.run("cat /run/mark") == "what was"
    assert await copied.vm.query_state() == "running"
    assert await copied.shell.run("cat /sys/block/vda/ro; head -c 0 /dev/vda && echo read") == "1\nread"


async def test_it_has_a_share_of_its_own(copied: Running) -> None:
    require(copied.driver.find_capabilities(), "fs_share")
    line = "mkdir -p /run/share && mount -t virtiofs kataShared /run/share && cat /run/share/file"
    assert await copied.shell.run(line) == "of the host"


async def test_its_card_is_on_a_tap_of_its_own(copied: Running) -> None:
    assert await copied.shell.run("cat /sys/class/net/eth0/address") == MAC
    await expect_packet(copied.shell, name_tap(Path(copied.spec.directory)), MAC)


async def test_it_takes_disks(copied: Running, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"of its own".ljust(1 << 20, b"\0"))
    address = await copied.vm.plug_block(BlockDevice("data", str(disk)))
    found = await copied.shell.run_until(find_disk(address), lambda text: "/block/" in text)
    assert await copied.shell.run(f"head -c 10 /dev/{found.rpartition('/')[2]}") == "of its own"
    await copied.vm.unplug("data", timeout=60)


async def test_its_clock_and_its_timers_go_on(copied: Running) -> None:
    assert abs(int(await copied.shell.run("busybox date +%s")) - time.time()) < 30
    await copied.shell.run("sleep 1")


async def test_a_vm_that_was_not_meant_to_be_saved_is_not(running: Running, tmp_path: Path) -> None:
    with pytest.raises(KataError):
        await running.vm.save(str(tmp_path), timeout=10)


async def test_what_was_saved_and_is_broken_fails_the_start(copied: Running, tmp_path: Path) -> None:
    broken = tmp_path / "saved"
    shutil.copytree(copied.spec.saved, broken)
    os.truncate(broken / "state", 100)
    directory = tmp_path / f"{copied.driver.name}-broken"
    directory.mkdir()
    async with start_line(copied.driver, directory, savable=True) as line:
        devices = (*line.devices, *copied.spec.devices[len(line.devices) :])
        spec = copied.spec._replace(id=directory.name, directory=str(directory), saved=str(broken), devices=devices)
        with pytest.raises(StartError):
            await copied.driver.start(spec, timeout=60)
