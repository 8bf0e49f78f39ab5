"""A real VM under the QEMU driver: Kata's kernel and a busybox that runs the lines it reads from its serial port."""

import asyncio
import fcntl
import os
import select
import shutil
import signal
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from isolation import run_with_own_mounts
from kata.errors import ConfigError, DeadlineError, NotFoundError, StartError
from kata.hypervisor.qemu.driver import Qemu, QemuSettings
from kata.hypervisor.qemu.vm import QemuVm
from kata.hypervisor.spec import Balloon, BlockDevice, DiskAddress, NetDevice, Rng, SerialPort, SharedFs, VmSpec
from kata.hypervisor.vmmuser import derive_user_id
from kata.storage.share import Share
from kata.storage.virtiofsd import find_virtiofsd, start_virtiofsd
from kata.sys.process import is_alive
from kata.sys.unixsocket import connect_unix

KERNEL = os.environ.get("KATA_TEST_KERNEL", "/usr/local/share/kata-containers/vmlinux.container")
BUSYBOX = shutil.which("busybox")
PORT = "kata.vport.1024"
PATIENCE = 60.0
ONLINE = "cat /sys/devices/system/cpu/online"
MEMORY = "head -n 1 /proc/meminfo"

INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for port in /sys/class/virtio-ports/*; do
    [ "$(cat $port/name)" = PORT ] && exec 3<>/dev/${port##*/}
done
mount -t virtiofs kataShared /mnt 2>/dev/null
while IFS= read -r line <&3; do
    (eval "$line") >/out 2>&1
    { cat /out; echo; echo END; } >&3
done
"""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: confines QEMU under a user of its own"),
    pytest.mark.skipif(not os.path.exists(KERNEL), reason=f"needs a guest kernel at {KERNEL}: kata-image kernel"),
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64"),
    pytest.mark.skipif(BUSYBOX is None, reason="needs a static busybox"),
]


@pytest.fixture(scope="module")
def initrd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert BUSYBOX is not None
    folder = tmp_path_factory.mktemp("initrd")
    tree = folder / "tree"
    for name in ("bin", "proc", "sys", "dev", "mnt"):
        (tree / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, tree / "bin/busybox")
    for applet in ("sh", "mount", "cat", "ls", "poweroff", "mkdir", "sleep", "head", "id", "wc", "ip", "dd"):
        (tree / "bin" / applet).symlink_to("busybox")
    (tree / "init").write_text(INIT.replace("PORT", PORT))
    (tree / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in tree.rglob("*"))
    with (folder / "initrd").open("wb") as archive:
        subprocess.run(
            [BUSYBOX, "cpio", "-o", "-H", "newc"], input=names.encode(), stdout=archive, cwd=tree, check=True
        )
    return folder / "initrd"


@pytest.fixture
def spec(initrd: Path, tmp_path: Path) -> VmSpec:
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    return VmSpec(
        id=tmp_path.name,
        directory=str(run),
        kernel=KERNEL,
        initrd=str(initrd),
        vcpus=1,
        memory_mib=256,
        kernel_parameters=("console=ttyS0", "quiet", "panic=-1", "reboot=k"),
        devices=(SerialPort(PORT, str(run / "vport.sock")), Rng()),
        hotplug_ports=2,
    )


@dataclass(frozen=True, slots=True)
class Guest:
    """A VM and a shell in it."""

    vm: QemuVm
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def run(self, line: str) -> str:
        """What the guest's shell prints for a line."""
        self.writer.write(line.encode() + b"\n")
        output = await asyncio.wait_for(self.reader.readuntil(b"\nEND\n"), PATIENCE)
        return output.decode().removesuffix("\nEND\n")

    async def run_until(self, line: str, accept: Callable[[str], bool]) -> str:
        """Run a line until its output is accepted; the guest's own clock is what passes."""
        async with asyncio.timeout(PATIENCE):
            while not accept(output := await self.run(line)):
                pass
            return output


def open_driver(tmp_path: Path, settings: QemuSettings | None = None) -> Qemu:
    return Qemu(settings or QemuSettings(), str(tmp_path / "state"))


@asynccontextmanager
async def boot(driver: Qemu, spec: VmSpec) -> AsyncIterator[Guest]:
    vm = await driver.start(spec)
    try:
        port = next(device for device in spec.devices if isinstance(device, SerialPort))
        reader, writer = await asyncio.open_unix_connection(sock=connect_unix(port.path))
        try:
            yield Guest(vm, reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    finally:
        await vm.stop(timeout=2)


def read_status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def read_namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def list_children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def list_processes_of(user: int) -> list[str]:
    done = subprocess.run(["ps", "-U", str(user), "-o", "pid="], capture_output=True, text=True, check=False)
    return done.stdout.split()


def list_leftovers(spec: VmSpec) -> list[str]:
    """What is in the sandbox's folder besides logs."""
    return [name for name in os.listdir(spec.directory) if not name.endswith((".log", ".log.1"))]


async def test_a_vm_boots_and_is_confined(tmp_path: Path, spec: VmSpec) -> None:
    async with boot(open_driver(tmp_path), spec) as guest:
        assert await guest.run("echo hello; id -u") == "hello\n0\n"
        facts = read_status(guest.vm.pid)
        user = derive_user_id(spec.id)
        assert facts["Uid"] == facts["Gid"] == "\t".join([str(user)] * 4)
        assert facts["Groups"] == ""
        assert {facts["CapEff"], facts["CapPrm"], facts["CapInh"], facts["CapAmb"]} == {"0" * 16}
        assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
        assert os.listdir(f"/proc/{guest.vm.pid}/cwd") == []
        assert list(await guest.vm.list_vcpu_threads()) == [0]
    assert list_leftovers(spec) == []
    assert not is_alive(guest.vm.pid, guest.vm.start_ticks)


async def test_pause_and_resume_are_seen_in_the_state(tmp_path: Path, spec: VmSpec) -> None:
    async with boot(open_driver(tmp_path), spec._replace(paused=True)) as guest:
        assert await guest.vm.query_state() == "created"
        await guest.vm.resume()
        assert await guest.run("echo up") == "up\n"
        await guest.vm.pause()
        assert await guest.vm.query_state() == "paused"
        await guest.vm.resume()
        assert await guest.run("echo again") == "again\n"


async def test_memory_comes_and_goes_and_vcpus_come_while_the_guest_runs(tmp_path: Path, spec: VmSpec) -> None:
    spec = spec._replace(max_vcpus=3, max_memory_mib=1024)
    async with boot(open_driver(tmp_path), spec) as guest:
        before = int((await guest.run(MEMORY)).split()[1])
        await guest.vm.resize_memory(600, timeout=PATIENCE)
        await guest.run_until(MEMORY, lambda text: before + (300 << 10) < int(text.split()[1]) < before + (345 << 10))
        await guest.vm.resize_vcpus(3, timeout=PATIENCE)
        assert list(await guest.vm.list_vcpu_threads()) == [0, 1, 2]
        await guest.run_until("echo 1 > /sys/devices/system/cpu/cpu1/online", lambda text: text == "")
        await guest.run_until("echo 1 > /sys/devices/system/cpu/cpu2/online", lambda text: text == "")
        assert await guest.run(ONLINE) == "0-2\n"

        await guest.vm.resize_memory(256, timeout=PATIENCE)
        await guest.run_until(MEMORY, lambda text: int(text.split()[1]) < before + (64 << 10))
        await guest.vm.resize_vcpus(1, timeout=PATIENCE)
        await guest.vm.resize_vcpus(2, timeout=PATIENCE)
        assert await guest.run("echo up") == "up\n"


async def test_a_vm_that_cannot_grow_says_what_it_can_have(tmp_path: Path, spec: VmSpec) -> None:
    async with boot(open_driver(tmp_path), spec._replace(paused=True)) as guest:
        with pytest.raises(ConfigError, match=r"cannot have 2 vCPUs \(1 to 1\)"):
            await guest.vm.resize_vcpus(2)
        with pytest.raises(ConfigError, match=r"cannot have 512 MiB of memory \(256 to 256 MiB\)"):
            await guest.vm.resize_memory(512)


async def test_a_guest_that_takes_no_memory_is_told_of_with_what_it_has(tmp_path: Path, spec: VmSpec) -> None:
    async with boot(open_driver(tmp_path), spec._replace(paused=True, max_memory_mib=512)) as guest:
        with pytest.raises(DeadlineError, match=r"the guest took 256 MiB of memory of 512 within 0.1 s"):
            await guest.vm.resize_memory(512, timeout=0.1)


async def test_a_guest_that_powers_off_ends_the_vm_and_that_is_said(tmp_path: Path, spec: VmSpec) -> None:
    async with boot(open_driver(tmp_path), spec) as guest:
        guest.writer.write(b"poweroff -f\n")
        ending = await asyncio.wait_for(guest.vm.wait_exit(), PATIENCE)
        assert (ending.returncode, ending.reason) == (0, "the guest powered itself off")
        assert await guest.vm.query_state() == "ended"


async def test_a_panic_is_told_from_a_reset_and_quotes_the_console(tmp_path: Path, spec: VmSpec) -> None:
    async with boot(open_driver(tmp_path), spec) as guest:
        guest.writer.write(b"echo c > /proc/sysrq-trigger\n")
        ending = await asyncio.wait_for(guest.vm.wait_exit(), PATIENCE)
        assert ending.panicked
        assert ending.reason == "the guest's kernel panicked"
        assert "Kernel panic" in ending.console


async def test_a_vmm_that_is_killed_is_reported_and_leaves_nothing(tmp_path: Path, spec: VmSpec) -> None:
    async with boot(open_driver(tmp_path), spec) as guest:
        await guest.run("echo up")
        os.kill(guest.vm.pid, 9)
        ending = await asyncio.wait_for(guest.vm.wait_exit(), PATIENCE)
        assert ending.reason == "QEMU was killed by signal 9"
    assert list_leftovers(spec) == []


async def test_a_start_that_fails_quotes_qemu_and_leaves_nothing(tmp_path: Path, spec: VmSpec) -> None:
    driver = open_driver(tmp_path, QemuSettings(cpu="no-such-processor"))
    with pytest.raises(StartError, match="unable to find CPU model 'no-such-processor'") as caught:
        await driver.start(spec)
    assert caught.value.phase == "hypervisor"
    assert "exited with status 1" in caught.value.reason
    assert list_leftovers(spec) == []


async def test_a_kernel_that_is_not_there_is_named(tmp_path: Path, spec: VmSpec) -> None:
    with pytest.raises(ConfigError, match=r"needs /no/kernel, which cannot be opened: No such file"):
        await open_driver(tmp_path).start(spec._replace(kernel="/no/kernel"))
    assert list_leftovers(spec) == []


async def test_a_cancelled_start_leaves_no_process(tmp_path: Path, spec: VmSpec) -> None:
    driver = open_driver(tmp_path)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await driver.start(spec)
    assert list_leftovers(spec) == []
    assert list_processes_of(derive_user_id(spec.id)) == []


def test_qemu_and_virtiofsd_die_with_the_process_that_started_them(tmp_path: Path, spec: VmSpec) -> None:
    reader, writer = os.pipe()
    daemon = os.fork()
    if daemon == 0:

        async def start() -> None:
            served = start_virtiofsd(find_virtiofsd(), str(tmp_path), spec.directory)
            vm = await open_driver(tmp_path).start(spec)
            os.write(writer, f"{vm.pid} {served.pid}".encode())
            await asyncio.Event().wait()

        try:
            asyncio.run(start())
        finally:
            os._exit(1)
    os.close(writer)
    pidfds = [os.pidfd_open(int(word)) for word in os.read(reader, 100).split()]
    os.kill(daemon, signal.SIGKILL)
    os.waitpid(daemon, 0)
    for pidfd in pidfds:
        # A pidfd is readable when its process has ended.
        assert select.select([pidfd], [], [], PATIENCE)[0]
        os.close(pidfd)
    os.close(reader)
    assert len(pidfds) == 2


async def test_a_disk_comes_and_goes_while_the_vm_runs(tmp_path: Path, spec: VmSpec) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"first sector".ljust(1 << 20, b"\0"))
    disk.chmod(0o600)
    async with boot(open_driver(tmp_path), spec) as guest:
        await guest.run("echo up")
        place = await guest.vm.plug_block(BlockDevice("data", str(disk)))
        assert place == DiskAddress("blk", "10/00")
        found = await guest.run_until(
            "ls /sys/devices/pci0000:00/0000:00:10.0/*:00.0/virtio*/block/", lambda text: text == "vda\n"
        )
        assert found == "vda\n"
        assert await guest.run("head -c 12 /dev/vda; cat /sys/block/vda/serial") == "first sectordata"
        await guest.run("echo written | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null")
        await guest.vm.unplug("data", timeout=PATIENCE)
        assert "No such file" in await guest.run("ls /dev/vda")
        # The port is free again, and so is the id.
        assert (await guest.vm.plug_block(BlockDevice("data", str(disk), readonly=True))).source in {"10/00", "11/00"}
    assert disk.read_bytes().startswith(b"written\n")


async def test_disks_beyond_the_ports_come_and_go_at_the_scsi_controller(tmp_path: Path, spec: VmSpec) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"first sector".ljust(1 << 20, b"\0"))
    async with boot(open_driver(tmp_path), spec._replace(scsi=True, hotplug_ports=0)) as guest:
        await guest.run("echo up")
        for number in range(3):
            block = BlockDevice(f"data{number}", str(disk), readonly=number > 0, aio="native", direct=True)
            assert await guest.vm.plug_block(block) == DiskAddress("scsi", f"{number}:0")
        await guest.run_until("ls /sys/block", lambda text: "sdc" in text)
        assert await guest.run("head -c 12 /dev/sdc") == "first sector"
        await guest.run("echo written | dd of=/dev/sda conv=notrunc,fsync 2>/dev/null")
        for number in range(3):
            await guest.vm.unplug(f"data{number}", timeout=PATIENCE)
        await guest.run_until("ls /sys/block", lambda text: "sd" not in text)
        assert await guest.vm.plug_block(BlockDevice("data0", str(disk))) == DiskAddress("scsi", "3:0")
    assert disk.read_bytes().startswith(b"written\n")


async def test_a_network_card_is_plugged_in_by_descriptor(tmp_path: Path, spec: VmSpec) -> None:
    # TUNSETIFF with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR (linux/if_tun.h).
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"katatest%d", 0x0002 | 0x1000 | 0x4000))
        async with boot(open_driver(tmp_path), spec) as guest:
            await guest.run("echo up")
            mac = "02:00:00:00:00:0a"
            before = await guest.run("ls /sys/class/net")
            await guest.vm.plug_net(NetDevice("eth0", mac, taps=(tap,)))
            await guest.run_until("cat /sys/class/net/eth*/address", lambda text: mac in text)
            await guest.vm.unplug("eth0", timeout=PATIENCE)
            assert "lo" in before
            assert await guest.run("ls /sys/class/net") == before
    finally:
        os.close(tap)


async def test_a_guest_that_does_not_answer_keeps_its_device(tmp_path: Path, spec: VmSpec) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"\0" * 4096)
    async with boot(open_driver(tmp_path), spec._replace(paused=True)) as guest:
        await guest.vm.plug_block(BlockDevice("data", str(disk)))
        with pytest.raises(DeadlineError, match="DEVICE_DELETED"):
            await guest.vm.unplug("data", timeout=0.1)


async def test_disks_and_a_balloon_are_there_from_the_start(tmp_path: Path, spec: VmSpec) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"a" * 4096)
    devices = (*spec.devices, BlockDevice("data", str(disk), readonly=True), Balloon())
    async with boot(open_driver(tmp_path), spec._replace(devices=devices)) as guest:
        assert await guest.run("cat /sys/block/vda/ro /sys/block/vda/serial") == "1\ndata"


def run_shared(tmp_path: Path, spec: VmSpec, body: Callable[[Share, Guest], Awaitable[None]]) -> None:
    """Boot with a share, in a mount namespace of our own as the sandbox's daemon does it."""

    async def start() -> None:
        share = Share(str(tmp_path / "shared"), spec.id)
        share.open()
        daemon = start_virtiofsd(find_virtiofsd(), share.export, spec.directory)
        assert daemon.connection is not None
        devices = (*spec.devices, SharedFs("kataShared", daemon.connection.fileno()))
        try:
            async with boot(open_driver(tmp_path), spec._replace(devices=devices)) as guest:
                await body(share, guest)
        finally:
            await daemon.stop()
            share.release()
        assert os.listdir(tmp_path / "shared") == []

    run_with_own_mounts(lambda: asyncio.run(start()))


def test_what_is_shared_later_appears_in_the_guest_and_goes_again(tmp_path: Path, spec: VmSpec) -> None:
    source = tmp_path / "rootfs"
    source.mkdir()
    (source / "from-host").write_text("hello guest\n")

    async def body(share: Share, guest: Guest) -> None:
        assert await guest.run("ls /mnt") == ""
        share.bind(str(source), "c1/rootfs")
        share.bind(str(source / "from-host"), "c1-0123-file", readonly=True)
        assert await guest.run("cat /mnt/c1/rootfs/from-host /mnt/c1-0123-file") == "hello guest\nhello guest\n"
        await guest.run("echo hello host > /mnt/c1/rootfs/from-guest")
        assert (source / "from-guest").read_text() == "hello host\n"
        for line in ("echo x > /mnt/c1-0123-file", "mkdir /mnt/top", "mkdir /mnt/c1/evil"):
            assert "Read-only file system" in await guest.run(line)
        share.unbind("c1/rootfs")
        share.unbind("c1-0123-file")
        assert await guest.run("ls -R /mnt") == "/mnt:\n"

    run_shared(tmp_path, spec, body)


def test_virtiofsd_keeps_its_namespaces_and_its_filter(tmp_path: Path, spec: VmSpec) -> None:
    async def body(_: Share, guest: Guest) -> None:
        assert await guest.run("ls /mnt") == ""
        ours = os.getpid()
        daemons = [pid for pid in list_children(ours) if read_status(pid)["Name"] == "virtiofsd"]
        # The C version serves from a child; its parent only waits.
        serving = [list_children(pid)[0] if list_children(pid) else pid for pid in daemons]
        assert len(serving) == 1
        assert read_status(serving[0])["Seccomp"] == "2"
        for kind in ("mnt", "net", "pid"):
            assert read_namespace(serving[0], kind) != read_namespace(ours, kind)

    run_shared(tmp_path, spec, body)


async def save(driver: Qemu, spec: VmSpec, saved: Path, line: str = "true") -> None:
    """Boot a VM, let its shell run a line, and save it."""
    saved.mkdir()
    async with boot(driver, spec._replace(savable=True)) as guest:
        await guest.run(line)
        await guest.vm.save(str(saved), timeout=PATIENCE)


def make_sibling(spec: VmSpec, tmp_path: Path, name: str) -> VmSpec:
    """Describe the same VM for another sandbox."""
    directory = tmp_path / name
    directory.mkdir(mode=0o700)
    port = SerialPort(PORT, str(directory / "vport.sock"))
    return spec._replace(id=name, directory=str(directory), devices=(port, *spec.devices[1:]))


async def test_a_saved_vm_goes_on_in_any_number_of_others(tmp_path: Path, spec: VmSpec) -> None:
    driver, saved = open_driver(tmp_path), tmp_path / "saved"
    await save(driver, spec, saved, "echo kept > /kept")
    assert sorted(os.listdir(saved)) == ["memory", "state"]
    siblings = [make_sibling(spec, tmp_path, name)._replace(saved=str(saved)) for name in ("one", "two")]
    async with boot(driver, siblings[0]) as one, boot(driver, siblings[1]) as two:
        await one.run("echo changed > /kept")
        assert await one.run("cat /kept") == "changed\n"
        assert await two.run("cat /kept") == "kept\n"
        assert await one.vm.query_state() == await two.vm.query_state() == "running"
    async with boot(driver, siblings[0]) as again:
        assert await again.run("cat /kept") == "kept\n"


async def test_pages_that_hold_nothing_are_not_saved(tmp_path: Path, spec: VmSpec) -> None:
    saved = tmp_path / "saved"
    await save(open_driver(tmp_path), spec, saved)
    status = (saved / "memory").stat()
    assert status.st_size == spec.memory_mib << 20
    assert status.st_blocks * 512 < 128 << 20


def test_a_saved_vm_finds_a_share_that_it_did_not_have(tmp_path: Path, spec: VmSpec) -> None:
    saved = tmp_path / "saved"
    asyncio.run(save(open_driver(tmp_path), spec, saved))
    source = tmp_path / "rootfs"
    source.mkdir()
    (source / "file").write_text("hello clone\n")

    async def start() -> None:
        clone = make_sibling(spec, tmp_path, "clone")
        share = Share(str(tmp_path / "shared"), clone.id)
        share.open()
        share.bind(str(source), "c1")
        daemon = start_virtiofsd(find_virtiofsd(), share.export, clone.directory)
        try:
            async with boot(open_driver(tmp_path), clone._replace(saved=str(saved))) as guest:
                assert daemon.connection is not None
                assert (await guest.vm.plug_share(SharedFs("kataShared", daemon.connection.fileno()))).path == "10/00"
                await guest.run("echo 1 > /sys/bus/pci/devices/0000:00:10.0/rescan")
                assert await guest.run("mount -t virtiofs kataShared /mnt && cat /mnt/c1/file") == "hello clone\n"
                # The next port is as free as it was.
                disk = tmp_path / "disk"
                disk.write_bytes(b"first sector".ljust(1 << 20, b"\0"))
                await guest.vm.plug_block(BlockDevice("data", str(disk)))
                await guest.run_until("ls /dev/vda", lambda text: text == "/dev/vda\n")
                assert await guest.run("head -c 12 /dev/vda") == "first sector"
                await guest.vm.unplug("data", timeout=PATIENCE)
        finally:
            await daemon.stop()
            share.release()

    run_with_own_mounts(lambda: asyncio.run(start()))


async def test_a_vm_that_was_never_saved_is_named(tmp_path: Path, spec: VmSpec) -> None:
    with pytest.raises(NotFoundError, match="no saved VM at /no/where"):
        await open_driver(tmp_path).start(spec._replace(saved="/no/where"))
    assert list_leftovers(spec) == []


async def test_a_saved_vm_that_is_cut_short_fails_and_leaves_nothing(tmp_path: Path, spec: VmSpec) -> None:
    driver, saved = open_driver(tmp_path), tmp_path / "saved"
    await save(driver, spec, saved)
    os.truncate(saved / "state", (saved / "state").stat().st_size // 2)
    clone = make_sibling(spec, tmp_path, "clone")
    with pytest.raises(StartError, match="QEMU exited"):
        await driver.start(clone._replace(saved=str(saved)))
    assert list_leftovers(clone) == []
