"""What every driver has to do, and what it may declare: a driver is asked for all that it declares, and for no more.

On a machine without KVM this is QEMU with TCG; `make test-lab` has the others.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hypervisor.machine import MAC, Running, boot, describe, expect_packet, let_go, name_tap, start_line
from kata.config.artifacts import Artifacts
from kata.errors import ConfigError, DeadlineError, ExistsError, KataError, NotFoundError
from kata.hypervisor.driver import Capabilities, Hypervisor
from kata.hypervisor.spec import BlockDevice, DiskAddress, NetDevice, VfioDevice
from kata.hypervisor.vmmuser import derive_user_id
from kata.network.tap import open_tap
from kata.resources.hostdevice import give_back, lend_group, read_device, take_device, wait_unused
from kata.sys.process import is_alive
from lab.machine import RNG

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]
HOT_MAC = "02:00:00:00:00:0a"


def require(capabilities: Capabilities, *names: str) -> None:
    """Skip a test of what the driver does not declare; that it refuses it is asked by another."""
    lacking = [name for name in names if not getattr(capabilities, name)]
    if lacking:
        pytest.skip(f"the driver does not declare {', '.join(lacking)}")


async def test_the_agent_answers_over_the_best_channel(
    running: Running, record_property: Callable[[str, object], None]
) -> None:
    await running.guest.check(timeout=10)
    assert await running.vm.query_state() == "running"
    record_property("booted", f"{running.booted:.1f} s")
    rollup = Path(f"/proc/{running.vm.pid}/smaps_rollup").read_text()
    own = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss_Anon"))
    shared = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss_Shmem"))
    record_property("memory", f"{own >> 10} MiB of its own, {shared >> 10} MiB of the guest's")


async def test_the_console_has_the_kernels_words(running: Running) -> None:
    await running.shell.run("echo '<0>hello console' > /dev/kmsg")
    async with asyncio.timeout(30):
        while "hello console" not in running.vm.read_console():
            await running.guest.check(timeout=30)


async def test_the_kernel_waits_for_no_clock_that_is_not_there(running: Running) -> None:
    # Linux's rtc_cmos gives up after a second.
    assert "rtc_cmos: broken or not accessible" not in await running.shell.run("dmesg")


async def test_the_vmm_is_confined(running: Running) -> None:
    require(running.driver.find_capabilities(), "own_user")
    lines = Path(f"/proc/{running.vm.pid}/status").read_text().splitlines()
    status = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    user = str(derive_user_id(running.spec.id))
    assert status["Uid"] == [user] * 4
    assert status["Gid"] == [user] * 4
    assert status["NoNewPrivs"] == ["1"]
    assert int(status["CapEff"][0], 16) == 0
    threads = [
        Path(f"/proc/{running.vm.pid}/task/{thread}/status").read_text()
        for thread in (await running.vm.list_vcpu_threads()).values()
    ]
    assert all("\nSeccomp:\t2\n" in thread for thread in threads)


async def test_each_vcpu_is_a_thread(running: Running) -> None:
    require(running.driver.find_capabilities(), "vcpu_threads")
    threads = await running.vm.list_vcpu_threads()
    assert set(threads) >= set(range(running.spec.vcpus))
    assert all(Path(f"/proc/{running.vm.pid}/task/{thread}").exists() for thread in threads.values())


async def test_the_root_image_is_read_only(running: Running) -> None:
    assert await running.shell.run("cat /sys/block/vda/ro") == "1"


async def test_an_image_that_is_memory_is_the_hosts_pages_and_its_file_stays_as_it_is(
    driver: Hypervisor, artifacts: Artifacts, tmp_path: Path
) -> None:
    require(driver.find_capabilities(), "image_dax")
    was = Path(artifacts.image).read_bytes()
    # The root is a disk, so that nothing in the guest keeps it from writing to the memory.
    root = BlockDevice("root", artifacts.image, readonly=True)
    directory = tmp_path / f"{driver.name}-dax"
    async with boot(driver, artifacts, directory, full=False, more=(root,), image_dax=True) as running:
        shell = running.shell
        cached = "while read name kib unit; do [ $name = Cached: ] && echo $kib; done < /proc/meminfo"
        await shell.run("mkdir -p /run/image && mount -t erofs -o ro,dax=always /dev/pmem0 /run/image")
        before = int(await shell.run(cached))
        await shell.run("cat /run/image/usr/bin/python3* > /dev/null")
        assert int(await shell.run(cached)) < before + 1000, "the guest has a copy of what it read"
        write = "busybox dd if=/dev/zero of=/dev/pmem0 bs=4096 count=1 conv=notrunc"
        assert "busy" in await shell.run(write), "what is mounted can be opened for writing"
        assert "1+0 records out" in await shell.run(f"umount /run/image; {write}")
        sums = await shell.run("for f in pmem0 zero; do head -c 4096 /dev/$f | busybox md5sum; done")
        assert len(set(sums.split("\n"))) == 1, "the guest does not see what it wrote"
        await let_go(running)
    assert Path(artifacts.image).read_bytes() == was


async def test_a_disk_is_there_from_the_start(running: Running) -> None:
    assert await running.shell.run("cat /sys/block/vdb/ro; head -c 4 /dev/vdb") == "1\ncold"


async def test_a_network_card_is_there_from_the_start(running: Running) -> None:
    assert await running.shell.run("cat /sys/class/net/eth0/address") == MAC


async def test_entropy_comes_from_the_host(running: Running) -> None:
    assert "virtio_rng" in await running.shell.run("cat /sys/class/misc/hw_random/rng_available")


async def test_a_balloon_gives_back_what_is_free(running: Running) -> None:
    require(running.driver.find_capabilities(), "balloon")
    # Feature bit 5 of the balloon (virtio 1.2, section 5.5.3) is free page reporting; its device id is 5.
    line = 'for d in /sys/bus/virtio/devices/*; do [ "$(cat $d/device)" = 0x0005 ] && cut -c6 $d/features; done'
    assert await running.shell.run(line) == "1"


async def test_files_are_shared_both_ways(running: Running, tmp_path_factory: pytest.TempPathFactory) -> None:
    require(running.driver.find_capabilities(), "fs_share")
    export = Path(running.spec.directory).with_name(f"{running.spec.id}-export")
    (export / "from-host").write_text("hello guest\n")
    assert await running.shell.run("mount -t virtiofs kataShared /mnt && cat /mnt/from-host") == "hello guest"
    await running.shell.run("echo hello host > /mnt/from-guest; umount /mnt")
    assert (export / "from-guest").read_text() == "hello host\n"


def find_disk(address: DiskAddress) -> str:
    """A line of shell that names the block device at an address, and nothing when there is none."""
    if address.driver == "mmioblk":
        # It is always there, with a sector as long as it is empty.
        path = f"/sys/block/{address.source.rpartition('/')[2]}"
        return f"[ $(cat {path}/size) -gt 1 ] && echo {path}"
    path = "".join(f"/*:*:{part}.0" for part in address.source.split("/"))
    return f"ls -d /sys/devices/pci0000:00{path}/virtio*/block/* 2>/dev/null"


async def test_a_disk_comes_and_goes(running: Running, tmp_path: Path) -> None:
    require(running.driver.find_capabilities(), "block_hotplug")
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    address = await running.vm.plug_block(BlockDevice("data", str(disk)))
    with pytest.raises(ExistsError):
        await running.vm.plug_block(BlockDevice("data", str(disk)))
    name = (await running.shell.run_until(find_disk(address), lambda text: "/block/" in text)).rpartition("/")[2]
    if address.driver == "blk":
        assert await running.shell.run(f"cat /sys/block/{name}/serial") == "data"
    await running.shell.run(f"echo written by the guest | busybox dd of=/dev/{name} conv=notrunc,fsync")
    assert disk.read_bytes().startswith(b"written by the guest\n")
    await running.vm.unplug("data", timeout=60)
    assert await running.shell.run(find_disk(address)) == ""
    with pytest.raises(NotFoundError):
        await running.vm.unplug("data")


async def test_a_disk_grows_while_the_guest_has_it(running: Running, tmp_path: Path) -> None:
    require(running.driver.find_capabilities(), "block_hotplug")
    disk = tmp_path / "disk"
    disk.write_bytes(b"before".ljust(1 << 20, b"\0"))
    address = await running.vm.plug_block(BlockDevice("growing", str(disk)))
    found = await running.shell.run_until(find_disk(address), lambda text: "/block/" in text)
    os.truncate(disk, 3 << 20)
    await running.vm.resize_block("growing", 3 << 20)
    await running.shell.run_until(f"cat {found}/size", lambda text: text == str((3 << 20) // 512))
    name = found.rpartition("/")[2]
    assert await running.shell.run(f"head -c 6 /dev/{name}") == "before"
    await running.shell.run(f"echo beyond | busybox dd of=/dev/{name} bs=4096 seek=512 conv=notrunc,fsync")
    assert disk.read_bytes()[2 << 20 :].startswith(b"beyond\n")
    await running.vm.unplug("growing", timeout=60)
    with pytest.raises(NotFoundError):
        await running.vm.resize_block("growing", 3 << 20)


async def test_a_read_only_disk_cannot_be_written(running: Running, tmp_path: Path) -> None:
    require(running.driver.find_capabilities(), "block_hotplug")
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    address = await running.vm.plug_block(BlockDevice("readonly", str(disk), readonly=True))
    found = await running.shell.run_until(find_disk(address), lambda text: "/block/" in text)
    assert await running.shell.run(f"cat {found}/ro") == "1"
    await running.vm.unplug("readonly", timeout=60)


async def test_a_disk_that_cannot_be_opened_is_named_and_leaves_room_for_the_next(running: Running) -> None:
    require(running.driver.find_capabilities(), "block_hotplug")
    for _ in range(2):
        with pytest.raises(ConfigError, match="/nowhere cannot be opened"):
            await running.vm.plug_block(BlockDevice("absent", "/nowhere"))


async def test_a_network_card_comes_and_goes(running: Running) -> None:
    require(running.driver.find_capabilities(), "net_hotplug")
    taps = open_tap(f"h{os.getpid()}")
    try:
        await running.vm.plug_net(NetDevice("hot", HOT_MAC, taps))
    finally:
        os.close(taps[0])
    await running.shell.run_until("cat /sys/class/net/*/address", lambda text: HOT_MAC in text)
    await running.vm.unplug("hot", timeout=60)
    assert HOT_MAC not in await running.shell.run("cat /sys/class/net/*/address")


async def test_a_device_of_the_host_comes_and_goes(driver: Hypervisor, artifacts: Artifacts, tmp_path: Path) -> None:
    require(driver.find_capabilities(), "vfio")
    if not os.environ.get("KATA_LAB"):
        pytest.skip("NO SPARE DEVICE BEHIND AN IOMMU: none is passed to a VM; run make test-lab")
    host = read_device(RNG)
    take_device(RNG)
    try:
        async with boot(driver, artifacts, tmp_path / f"{driver.name}-host", full=False, host_devices=True) as running:
            lend_group(host.group, derive_user_id(running.spec.id))
            await running.vm.plug_vfio(VfioDevice("host", RNG))
            line = "echo 1 > /sys/bus/pci/rescan; cat /sys/class/misc/hw_random/rng_available"
            await running.shell.run_until(line, lambda text: text.count("virtio_rng") == 2)
            await running.vm.unplug("host", timeout=60)
            assert (await running.shell.run(line)).count("virtio_rng") == 1
            wait_unused(host.group, timeout=30)
            await let_go(running)
    finally:
        give_back(RNG, host.driver)


async def test_a_vcpu_comes_and_goes(running: Running) -> None:
    require(running.driver.find_capabilities(), "vcpu_hotplug")
    cpu = "/sys/devices/system/cpu/cpu1"
    await running.vm.resize_vcpus(2, timeout=60)
    await running.shell.run_until(
        f"ls {cpu} && {{ echo 1 > {cpu}/online; cat {cpu}/online; }}", lambda t: t[-1:] == "1"
    )
    assert set(await running.vm.list_vcpu_threads()) == {0, 1}
    await running.shell.run(f"echo 0 > {cpu}/online")
    await running.vm.resize_vcpus(1, timeout=60)


async def test_memory_comes(running: Running) -> None:
    require(running.driver.find_capabilities(), "memory_hotplug")
    total = "while read name kib unit; do [ $name = MemTotal: ] && echo $kib; done < /proc/meminfo"
    before = int(await running.shell.run(total))
    await running.vm.resize_memory(1024, timeout=60)
    await running.shell.run_until(total, lambda text: text.isdigit() and int(text) > before + (400 << 10))


async def test_what_is_not_declared_is_refused(running: Running) -> None:
    capabilities = running.driver.find_capabilities()
    # A VM that was not started for devices of the host has none, whatever the driver declares.
    refused: list[Awaitable[object]] = [running.vm.plug_vfio(VfioDevice("gpu", "0000:00:1f.7"))]
    if not capabilities.net_hotplug:
        refused.append(running.vm.plug_net(NetDevice("hot", HOT_MAC, ())))
    if not capabilities.block_hotplug:
        refused.append(running.vm.plug_block(BlockDevice("data", "/dev/null")))
        refused.append(running.vm.unplug("data"))
        refused.append(running.vm.resize_block("data", 1 << 20))
    if not capabilities.vcpu_hotplug:
        refused.append(running.vm.resize_vcpus(2))
    if not capabilities.memory_hotplug:
        refused.append(running.vm.resize_memory(1024))
    if not capabilities.pause:
        refused.append(running.vm.pause())
    for call in refused:
        with pytest.raises(KataError):
            await call


async def test_packets_of_the_guest_reach_the_tap(running: Running) -> None:
    await expect_packet(running.shell, name_tap(Path(running.spec.directory)), MAC)


async def test_a_paused_vm_answers_again_when_it_is_resumed(running: Running) -> None:
    require(running.driver.find_capabilities(), "pause")
    await running.vm.pause()
    assert await running.vm.query_state() == "paused"
    with pytest.raises(DeadlineError):
        await running.guest.check(timeout=1)
    await running.vm.resume()
    assert await running.vm.query_state() == "running"
    await running.guest.check(timeout=60)


async def test_a_driver_tells_its_version_and_where_its_vmm_is(driver: Hypervisor) -> None:
    assert driver.version[0].isdigit()
    assert Path(driver.path).is_absolute()


async def test_a_kernel_that_is_not_there_is_named(driver: Hypervisor, tmp_path: Path) -> None:
    await _fail_to_start(driver, Artifacts("/nowhere/vmlinux"), tmp_path, ConfigError, "/nowhere/vmlinux")


async def test_a_kernel_that_is_none_fails_the_start_and_leaves_nothing(driver: Hypervisor, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"no kernel at all" * 1000)
    await _fail_to_start(driver, Artifacts(str(kernel)), tmp_path, KataError, "phase hypervisor|is no bzImage")


async def _fail_to_start(
    driver: Hypervisor, artifacts: Artifacts, tmp_path: Path, kind: type[KataError], says: str
) -> None:
    directory = tmp_path / "box"
    directory.mkdir()
    async with start_line(driver, directory) as line:
        spec = describe(driver, artifacts, directory, line)
        with pytest.raises(kind, match=says):
            await driver.start(spec, timeout=60)
    _check_nothing_is_left(directory)


def _check_nothing_is_left(directory: Path) -> None:
    assert {path.suffix for path in directory.iterdir()} <= {".log"}
    assert str(directory) not in Path("/proc/self/mountinfo").read_text()


async def _kill(running: Running) -> None:
    os.kill(running.vm.pid, signal.SIGKILL)


async def _panic(running: Running) -> None:
    with pytest.raises((asyncio.IncompleteReadError, OSError, TimeoutError)):
        await running.shell.run("echo c > /proc/sysrq-trigger")


async def _reset(running: Running) -> None:
    with pytest.raises((asyncio.IncompleteReadError, OSError, TimeoutError)):
        await running.shell.run("echo b > /proc/sysrq-trigger")


@pytest.mark.parametrize(
    ("end", "says"),
    [(_kill, "was killed by signal 9"), (_panic, "the guest's kernel panicked"), (_reset, "reset|status 0")],
    ids=["killed", "panic", "reset"],
)
async def test_a_vm_that_ends_says_why_and_leaves_nothing(
    driver: Hypervisor, artifacts: Artifacts, tmp_path: Path, end: Callable[[Running], Awaitable[None]], says: str
) -> None:
    directory = tmp_path / "box"
    async with boot(driver, artifacts, directory, full=False) as running:
        await end(running)
        async with asyncio.timeout(60):
            leaving = await running.vm.wait_exit()
        assert await running.vm.query_state() == "ended"
        assert _matches(says, leaving.reason), leaving
        assert leaving.panicked == (end is _panic)
        await let_go(running)
    assert not is_alive(running.vm.pid, running.vm.start_ticks)
    _check_nothing_is_left(directory)


def _matches(pattern: str, text: str) -> bool:
    return any(part in text for part in pattern.split("|"))


async def test_a_vm_that_is_stopped_politely_leaves_nothing(
    driver: Hypervisor, artifacts: Artifacts, tmp_path: Path
) -> None:
    directory = tmp_path / "box"
    async with boot(driver, artifacts, directory, full=True) as running:
        await let_go(running)
        await running.vm.stop(timeout=10)
        (directory / "disk").unlink()
        _check_nothing_is_left(directory)
    assert not is_alive(running.vm.pid, running.vm.start_ticks)
