"""VMs that are copies of one saved VM: as good as booted ones, and nothing alike where that would matter."""

import contextlib
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine import ALL_CAPABILITIES, Container, Engine, add_mount, combine, grant, kill_process, make_privileged
from guest.facts import HYPERVISOR, SHARES, allow_facts, check_facts, collect_facts
from netns import read_ip, run_ip
from podnet import PodNet, add_veth, make_pod_network
from watch import wait_for_file

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def cloning(engine: Engine) -> Iterator[Engine]:
    """An engine whose VMs are copies of a template that is there."""
    engine.use_templates()
    engine.succeed("factory", "init")
    yield engine
    engine.succeed("factory", "destroy")


def list_phases(engine: Engine, sandbox: str) -> str:
    return engine.succeed("timeline", sandbox)


def test_two_copies_have_nothing_in_common_that_is_to_be_ones_own(cloning: Engine) -> None:
    with ExitStack() as stack:
        found = []
        for name in ("one", "two"):
            clone = stack.enter_context(cloning.hold("sleep", "1000", change=allow_facts(name)))
            assert "guest restore" in list_phases(cloning, clone.id)
            found.append(collect_facts(clone))
    check_facts(*found)


def test_a_container_lives_its_whole_life_in_a_copy(cloning: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    volume = add_mount("/mnt", "bind", str(tmp_path), "rbind", "rw" if SHARES else "ro")
    with make_pod_network(f"{cloning.token}-copy") as net:
        change = combine(volume, net.join, grant(*ALL_CAPABILITIES))
        if not SHARES:  # nor plugs in cards: a template has them, and the one that was made here has none
            with cloning.hold("sleep", "1000", change=change):
                wait_for_makers(cloning)
        with cloning.hold("sleep", "1000", change=change) as held:
            assert "guest restore" in list_phases(cloning, held.id)
            assert held.execute("cat", "/mnt/file").out == b"from the host\n"
            held.ask("sh", "-c", "echo mine > /root/file")
            if SHARES:
                held.ask("sh", "-c", "echo from the guest > /mnt/other")
                assert (tmp_path / "other").read_text() == "from the guest\n"
            assert held.execute("cat", stdin=b"by stdin").out == b"by stdin"
            assert held.execute("sh", "-c", "exit 7").code == 7
            assert (
                held.ask("cat", "/sys/class/net/eth0/address").strip()
                == read_ip("-n", net.pod, "link", "show", "eth0")[0]["address"]
            )
            held.ask("ping", "-c", "1", "-W", "5", "10.5.0.1")
            if SHARES:
                change_links(net, held)
            again = cloning.run_container("cat", "/root/file", pod=held.id)
            assert again.code != 0, "a container sees another's files"
            held.kill("KILL")
            assert held.wait() == 137
    assert cloning.run_container("echo", "done").out == b"done\n"


def change_links(net: PodNet, held: Container) -> None:
    """Exchange the pod's link for another while the VM runs."""
    add_veth(net, "net1", "10.6.0", "fd06:")
    run_ip("-n", net.pod, "link", "delete", "eth0")
    held.await_success("ip addr show net1 | grep 'inet6 fd06::2/64'", "! ip link show eth0")
    held.ask("ping", "-c", "1", "-W", "5", "10.6.0.1")


def test_copies_start_at_the_same_time(cloning: Engine) -> None:
    names = [cloning.name("many") for _ in range(4)]
    bundles = [cloning.make_bundle(name, ["echo", name]) for name in names]
    started = [cloning.start("run", "--bundle", str(bundle), name) for name, bundle in zip(names, bundles, strict=True)]
    for name, process in zip(names, started, strict=True):
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out.decode()) == (0, f"{name}\n"), err


@pytest.mark.skipif(HYPERVISOR != "qemu", reason="NOT QEMU: its devices take no hot-plug ports")
def test_a_vm_that_needs_what_no_template_has_boots_and_says_so(cloning: Engine) -> None:
    cloning.use_templates("pcie_root_port = 0\n")
    try:
        with make_pod_network(f"{cloning.token}-boots") as net:
            for number in (1, 2):
                add_veth(net, f"net{number}", f"10.{number + 5}.0", f"fd0{number + 5}:")
            with cloning.hold("sleep", "1000", change=net.join) as held:
                phases = list_phases(cloning, held.id)
                assert "guest boot" in phases
                assert "boots: it needs 4 hot-plug ports, and a template has 3" in phases
    finally:
        cloning.use_templates()


@pytest.mark.skipif(HYPERVISOR != "clh", reason="NOT CLOUD HYPERVISOR: the root image is a disk")
def test_copies_have_a_root_image_that_is_memory_and_no_container_writes_to_it(
    cloning: Engine, guest_image: Path
) -> None:
    was = guest_image.read_bytes()
    cloning.use_templates("disable_image_nvdimm = false\n")
    try:
        cloning.succeed("factory", "init")
        with cloning.hold("sleep", "1000", change=make_privileged, name="memory") as held:
            assert "guest restore" in list_phases(cloning, held.id)
            assert "root=/dev/pmem0 rootflags=dax=always" in held.ask("cat", "/proc/cmdline")
            node = "mknod /tmp/pmem0 b $(tr : ' ' < /sys/block/pmem0/dev)"
            result = held.execute("sh", "-c", f"{node} && dd if=/dev/zero of=/tmp/pmem0 bs=512 count=1")
            assert result.code != 0
            assert "busy" in result.err
        cloning.succeed("factory", "destroy")
    finally:
        cloning.use_templates()
    assert guest_image.read_bytes() == was


def test_a_copy_whose_daemon_is_killed_as_it_starts_leaves_nothing(cloning: Engine) -> None:
    before = cloning.find_traces()
    container = cloning.name("killed")
    bundle = cloning.make_bundle(container, ["sleep", "1000"])
    with cloning.start("create", "--bundle", str(bundle), container, stdin=subprocess.DEVNULL) as creation:
        wait_for_file(cloning.find_sandbox(container) / "console.log")
        kill_process(cloning.find_process("serve", container))
        creation.communicate(timeout=60)
        assert creation.returncode == 1
    cloning.run("delete", "--force", container)
    cloning.succeed("gc")
    assert not cloning.wait_until_clean(allowed=before)


def test_a_template_that_does_not_work_is_given_up_for_a_boot(cloning: Engine) -> None:
    # The one that was used last.
    template = max(
        (path for path in cloning.templates.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
    )
    os.truncate(template / "state", 1000)
    with cloning.hold("sleep", "1000") as held:
        phases = list_phases(cloning, held.id)
        assert "boots: its template failed" in phases
        assert "guest boot" in phases
        assert held.ask("echo", "up") == "up\n"
    assert not template.exists()


def test_the_first_vm_boots_and_the_next_is_a_copy(engine: Engine) -> None:
    engine.use_templates()
    engine.succeed("factory", "destroy")
    try:
        with engine.hold("sleep", "1000") as first:
            phases = list_phases(engine, first.id)
            assert "boots: there is no template for it yet" in phases
            assert "guest boot" in phases
            wait_for_makers(engine)
        assert "usable" in engine.succeed("factory", "status")
        with engine.hold("sleep", "1000") as second:
            assert "guest restore" in list_phases(engine, second.id)
        image = engine.directory / "other.img"
        shutil.copyfile(find_image(engine), image)
        engine.config.write_text(engine.config.read_text().replace(find_image(engine), str(image)))
        with engine.hold("sleep", "1000") as third:
            assert "guest boot" in list_phases(engine, third.id)
            victim = find_maker(engine)
            wait_for_file(find_making(engine) / "console.log")
            kill_process(victim)
            assert "nobody makes it any more" in engine.succeed("gc")
    finally:
        engine.use_templates()
        engine.succeed("factory", "destroy")
    assert not engine.templates.exists()


def find_image(engine: Engine) -> str:
    found = re.search('^image = "(.*)"', engine.config.read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def find_maker(engine: Engine) -> int:
    """Return the process that makes a template for an engine: its log is at the engine's place."""
    log = str(engine.templates / "maker.log")
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.readlink(f"/proc/{name}/fd/1") == log and "maker" in read_command(int(name)):
                return int(name)
    raise LookupError(f"nobody makes a template at {engine.templates}")


def read_command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")


def wait_for_makers(engine: Engine) -> None:
    with contextlib.suppress(LookupError):
        maker = os.pidfd_open(find_maker(engine))
        try:
            assert select.select([maker], [], [], 120)[0], "a template was not made"
        finally:
            os.close(maker)


def find_making(engine: Engine) -> Path:
    """Wait for the directory in which a template is being made."""
    deadline = time.monotonic() + 60
    while not (found := [path for path in engine.templates.iterdir() if path.name.startswith("making-")]):
        assert time.monotonic() < deadline
    return found[0]


def test_a_full_disk_costs_the_template_and_nothing_else(engine: Engine) -> None:
    engine.templates.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8M,mode=0700", "full", str(engine.templates)], check=True, timeout=10
    )
    try:
        engine.use_templates()
        refused = engine.run("factory", "init")
        assert refused.code == 1
        assert "No space left on device" in refused.err
        assert "not made: " in engine.succeed("factory", "status")
        with engine.hold("sleep", "1000") as held:
            assert "boots: its template could not be made" in list_phases(engine, held.id)
        assert sorted(path.suffix for path in engine.templates.iterdir() if path.is_file()) == ["", ".failed"]
        assert not [path for path in engine.templates.iterdir() if path.is_dir()]
    finally:
        subprocess.run(["umount", "-l", str(engine.templates)], check=True, timeout=10)
