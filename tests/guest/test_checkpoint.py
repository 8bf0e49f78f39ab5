"""Sandboxes that are saved while they run, and go on from there: the same processes, in another VM."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from engine import ALL_CAPABILITIES, Container, Engine, Result, combine, grant, kill_process
from guest.test_disk_roots import make_image, read_file, set_root
from howto import find_block, follow
from netns import run_ip
from podnet import make_pod_network
from polling import wait_until
from watch import wait_for_file

_COUNTER = "n=0; while true; do n=$((n+1)); echo $n; usleep 20000; done"
_ECHO = "while read -r line; do n=$((n+1)); echo $n $line; [ $line = end ] && exit 7; done"
_FACTS = (
    "cat /proc/sys/kernel/random/boot_id /etc/machine-id; hostname; cat /sys/class/net/eth0/address; "
    "head -c 8 /dev/urandom | od -An -tx8"
)
_UNSHARED = 'shared_fs = "none"\n'


@pytest.fixture(scope="module")
def unshared(engine: Engine) -> Iterator[Engine]:
    """An engine whose VMs share no files, and are copies of a template that is there."""
    engine.use_templates(_UNSHARED)
    engine.succeed("factory", "init")
    yield engine
    engine.succeed("factory", "destroy")


def save(held: Container, place: Path, *flags: str) -> Result:
    return held.engine.run("checkpoint", "--image-path", str(place), *flags, held.id)


def save_and_delete(held: Container, place: Path) -> None:
    saved = save(held, place)
    assert saved.code == 0, saved
    assert held.wait() == 137
    held.engine.succeed("delete", held.id)


@contextlib.contextmanager
def restore(held: Container, place: Path, *flags: str) -> Iterator[Container]:
    """Have a container go on, in the place of another or as another, during the block."""
    pid_file = held.bundle / "pid"
    engine = held.engine
    result = engine.run("restore", "--detach", "--image-path", str(place), "--pid-file", str(pid_file), *flags, held.id)
    assert result.code == 0, result
    try:
        yield replace(held, pid=int(pid_file.read_text()), out=engine.directory / f"command-{engine._count}.out")
    finally:
        engine.run("delete", "--force", held.id)


def await_lines(path: Path, count: int) -> None:
    wait_until(lambda: path.read_text().count("\n") >= count)


def test_a_counter_goes_on_where_it_was_and_not_a_line_of_it_is_lost(unshared: Engine, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    with unshared.hold("sh", "-c", _COUNTER) as held:
        await_lines(held.out, 5)
        for _ in range(2):  # the second takes the place of the first
            saved = save(held, place, "--leave-running")
            assert saved.code == 0, saved
            await_lines(held.out, held.out.read_text().count("\n") + 5)
        assert held.find_status() == "running"
        save_and_delete(held, place)
        before = [int(line) for line in held.out.read_text().split()]
        assert before == list(range(1, len(before) + 1))
        names = {"checkpoint.json", "disk-0", "inventory.img", "memory", "state"}
        assert {path.name for path in place.iterdir()} == names
        assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}
        assert place.stat().st_mode & 0o777 == 0o700
        with restore(held, place) as restored:
            await_lines(restored.out, 5)
            after = [int(line) for line in restored.out.read_text().split()]
            assert after == list(range(before[-1] + 1, before[-1] + 1 + len(after)))
            assert restored.find_status() == "running"
            # What one is able to do with any container.
            assert restored.execute("cat", stdin=b"by stdin").out == b"by stdin"
            assert abs(float(restored.ask("date", "+%s")) - time.time()) < 3
            restored.engine.succeed("pause", held.id)
            assert save(restored, tmp_path / "paused").code == 0
            assert restored.wait() == 137
        with restore(held, tmp_path / "paused") as restored:
            assert restored.find_status() == "paused"
            assert not restored.out.read_text()
            unshared.succeed("resume", held.id)
            await_lines(restored.out, 5)
            restored.kill("KILL")
            assert restored.wait() == 137


def test_saving_and_restoring_keep_their_promises(unshared: Engine, tmp_path: Path) -> None:
    starts, pauses, restores = [], [], []
    for _ in range(3):
        began = time.monotonic()
        with unshared.hold("sleep", "1000") as held:
            starts.append(time.monotonic() - began)
            assert save(held, tmp_path, "--leave-running").code == 0
            pauses.append(json.loads((tmp_path / "checkpoint.json").read_text())["stood_still"])
            save_and_delete(held, tmp_path)
            began = time.monotonic()
            with restore(held, tmp_path):
                restores.append(time.monotonic() - began)
    assert median(pauses) < 0.5 * median(starts), (pauses, starts)
    assert median(restores) < 1.5 * median(starts), (restores, starts)


def test_a_container_in_the_foreground_is_written_to_and_tells_its_exit_code(unshared: Engine, tmp_path: Path) -> None:
    name = unshared.name("echo")
    bundle = unshared.make_bundle(name, ["sh", "-c", _ECHO])
    with unshared.start("run", "--bundle", str(bundle), name) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"one\n")
        running.stdin.flush()
        assert running.stdout.readline() == b"1 one\n"
        unshared.succeed("checkpoint", "--image-path", str(tmp_path), name)
        assert running.wait(timeout=30) == 137
    with unshared.start("restore", "--image-path", str(tmp_path), name) as restored:
        assert restored.communicate(b"two\nend\n", timeout=60) == (b"2 two\n3 end\n", b"")
        assert restored.returncode == 7
    assert unshared.run("state", name).code
    # The same once more, and it does not draw the same numbers.
    for other in ("a", "b"):
        result = unshared.run("restore", "--image-path", str(tmp_path), f"{name}-{other}", stdin=b"three\nend\n")
        assert (result.code, result.text) == (7, "2 three\n3 end\n"), result


def test_the_page_holds_word_for_word(unshared: Engine, tmp_path: Path) -> None:
    name = unshared.name("page")
    script = "n=0; while true; do n=$((n+1)); echo $n > /m; mv /m /n; usleep 20000; done"
    (tmp_path / "counter").symlink_to(unshared.make_bundle(name, ["sh", "-c", script]))
    commands = find_block("checkpoint", "kata-runtime restore") + find_block("checkpoint", "kata-runtime fork")
    shown = follow(commands, tmp_path, {"kata-runtime": unshared.command()}).split()
    assert {"first-1", "first-2"} < set(shown)
    assert all(int(word) > 0 for word in shown if not word.startswith("first-"))


def test_two_that_go_on_from_one_checkpoint_draw_other_numbers(unshared: Engine, tmp_path: Path) -> None:
    script = "while read -r line; do head -c 16 /dev/urandom | od -x; done"
    name = unshared.name("draw")
    bundle = unshared.make_bundle(name, ["sh", "-c", script])
    with unshared.start("run", "--bundle", str(bundle), name):
        wait_until(lambda: unshared.run("state", name).text.find('"running"') > 0)
        unshared.succeed("checkpoint", "--image-path", str(tmp_path), name)
    drawn = {unshared.run("restore", "--image-path", str(tmp_path), name, stdin=b"draw\n").out for _ in range(2)}
    assert len(drawn) == 2
    assert b"" not in drawn


def test_a_disk_goes_back_to_what_it_held_with_the_files_that_are_open_on_it(unshared: Engine, tmp_path: Path) -> None:
    image = make_image(tmp_path, "ext4")
    script = "exec 3>/log; while read -r line; do echo $line >&3; echo done; done; sync"
    name = unshared.name("disk")
    bundle = unshared.make_bundle(name, ["sh", "-c", script], set_root(image))
    place = tmp_path / "saved"
    with unshared.start("run", "--bundle", str(bundle), name) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for line in (b"before\n", b"lost\n"):
            running.stdin.write(line)
            running.stdin.flush()
            assert running.stdout.readline() == b"done\n"
            if line == b"before\n":
                unshared.succeed("checkpoint", "--leave-running", "--image-path", str(place), name)
                busy = unshared.run("restore", "--detach", "--image-path", str(place), f"{name}-other")
                assert busy.code
                assert f"the disk {image} cannot be restored: another VM, or a program of the host, has it" in busy.err
        running.stdin.close()
        assert running.wait(timeout=30) == 0
    assert read_file(image, "/log") == "before\nlost\n"
    result = unshared.run("restore", "--image-path", str(place), name, stdin=b"after\n")
    assert (result.code, result.text) == (0, "done\n"), result
    assert read_file(image, "/log") == "before\nafter\n"
    subprocess.run(["e2fsck", "-fn", str(image)], check=True, capture_output=True, timeout=60)


def test_a_restored_pod_network_is_that_of_the_namespace_it_is_restored_in(unshared: Engine, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    token = unshared.token
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(make_pod_network(f"{token}-first"))
        run_ip("-n", net.pod, "rule", "add", "from", "10.5.0.2", "lookup", "100")
        run_ip("-n", net.pod, "route", "add", "default", "via", "10.5.0.1", "table", "100")
        change = combine(net.join, grant(*ALL_CAPABILITIES))
        held = stack.enter_context(unshared.hold("sleep", "1000", change=change))
        held.ask("ping", "-c", "1", "-W", "5", "10.5.0.1")
        save_and_delete(held, place)
        with restore(held, place) as restored:
            restored.ask("ping", "-c", "1", "-W", "5", "10.5.0.1")
            assert "10.5.0.2" in restored.ask("ip", "rule")
        other = stack.enter_context(make_pod_network(f"{token}-other"))
        run_ip("-n", other.pod, "addr", "add", "10.5.0.7/24", "dev", "eth0")
        spec = json.loads((held.bundle / "config.json").read_text())
        other.join(spec)
        (held.bundle / "config.json").write_text(json.dumps(spec))
        with restore(held, place) as restored:
            restored.ask("ping", "-c", "1", "-W", "5", "10.5.0.1")
            restored.ask("sh", "-c", "ip addr show eth0 | grep 10.5.0.7/24")
            assert "10.5.0.2" not in restored.ask("ip", "rule")
            assert restored.ask("ip", "route", "show", "table", "100") == ""
            assert restored.ask("cat", "/sys/class/net/eth0/address") == find_address(other.pod)
        spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "network"]
        spec["linux"]["namespaces"].append({"type": "network"})
        (held.bundle / "config.json").write_text(json.dumps(spec))
        with restore(held, place) as restored:
            assert restored.ask("ls", "/sys/class/net").split() == ["lo"]


def find_address(namespace: str) -> str:
    link = subprocess.run(
        ["ip", "-n", namespace, "-j", "link", "show", "eth0"], check=True, capture_output=True, timeout=10
    )
    return f"{json.loads(link.stdout)[0]['address']}\n"


def test_what_cannot_be_saved_or_restored_is_refused_with_the_reason(unshared: Engine, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    with unshared.hold("sleep", "1000", start=False) as held:
        assert "is created: only one that runs can be saved" in save(held, place).err
        unshared.succeed("start", held.id)
        with unshared.start("exec", held.id, "sh", "-c", "echo up; sleep 1000") as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"up\n"
            assert "has other processes" in save(held, place).err
            other.kill()
        wait_until(lambda: save(held, place, "--leave-running").code == 0)
        assert "a VM is saved as a whole" in save(held, place, "--pre-dump").err
        save_and_delete(held, place)
        for reason, (file, old, new) in {
            "is of version 99": ("checkpoint.json", b'"version": 1', b'"version": 99'),
            "is damaged": ("state", b"QEVM", b"QEVN"),
            "does not describe": ("checkpoint.json", b'"size"', b'"sighs"'),
            "it had '-smart' where": ("checkpoint.json", b"-smp", b"-smart"),
            "vmlinux.container is not the file that it was": ("checkpoint.json", b"container ", b"container 1"),
        }.items():
            whole = (place / file).read_bytes()
            assert old in whole
            (place / file).write_bytes(whole.replace(old, new, 1))
            refused = unshared.run("restore", "--detach", "--image-path", str(place), held.id)
            (place / file).write_bytes(whole)
            assert refused.code
            assert reason in refused.err, refused
        (place / "state").chmod(0o666)
        assert "others could have written it" in unshared.run("restore", "--image-path", str(place), held.id).err
    assert "there is no checkpoint at" in unshared.run("restore", "--image-path", str(tmp_path), "any").err


def test_a_sandbox_that_shares_files_is_told_how_one_can_be_saved(engine: Engine, tmp_path: Path) -> None:
    engine.use_templates("")
    try:
        with engine.hold("sleep", "1000") as held:
            refused = save(held, tmp_path / "saved")
            assert refused.code
            assert "start it with shared_fs = " in refused.err
            assert not (tmp_path / "saved").exists()
            assert held.ask("echo", "on") == "on\n"
    finally:
        engine.use_templates(_UNSHARED)


def test_a_full_disk_leaves_nothing_and_the_sandbox_goes_on(unshared: Engine, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(tmp_path)], check=True, timeout=10)
    try:
        with unshared.hold("sh", "-c", _COUNTER) as held:
            refused = save(held, tmp_path / "saved")
            assert "No space left on device" in refused.err, refused
            assert list((tmp_path / "saved").iterdir()) == []
            await_lines(held.out, held.out.read_text().count("\n") + 5)
            assert held.find_status() == "running"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True, timeout=10)


def test_only_one_checkpoint_is_made_at_a_time_and_it_outlives_its_command(unshared: Engine, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    with unshared.hold("sh", "-c", _COUNTER) as held:
        vmm = unshared.find_process("qemu", held.id)
        os.kill(vmm, signal.SIGSTOP)
        try:
            with unshared.start("checkpoint", "--leave-running", "--image-path", str(place), held.id) as first:
                wait_for_file(place / ".making")
                assert "is being saved already" in save(held, tmp_path / "other").err
                first.kill()
        finally:
            os.kill(vmm, signal.SIGCONT)
        wait_for_file(place / "checkpoint.json")
        assert held.ask("echo", "on") == "on\n"
        # And one whose daemon dies.
        (place / "checkpoint.json").unlink()
        os.kill(vmm, signal.SIGSTOP)
        with unshared.start("checkpoint", "--image-path", str(place), held.id) as last:
            wait_for_file(place / ".making")
            kill_process(unshared.find_process("serve", held.id))
            assert last.wait(timeout=30)
        unshared.succeed("delete", "--force", held.id)
        assert not (place / ".making").exists()
        assert not (place / "checkpoint.json").exists()


def read_counter(held: Container) -> int:
    """Return the number that is in /n, which is empty in the moment in which it is written."""
    return int(held.ask("sh", "-c", 'until n=$(cat /n) && [ "$n" ]; do :; done; echo $n'))


def test_copies_of_a_running_container_go_on_from_it_and_have_nothing_of_its_own(
    unshared: Engine, tmp_path: Path
) -> None:
    image = make_image(tmp_path, "ext4")
    script = (
        "echo 00112233445566778899aabbccddeeff > /etc/machine-id; n=0; while true; do n=$((n+1)); echo $n > /n; done"
    )
    with contextlib.ExitStack() as stack:
        nets = [stack.enter_context(make_pod_network(f"{unshared.token}-{name}")) for name in ("parent", "child")]
        change = combine(set_root(image), nets[0].join, grant(*ALL_CAPABILITIES))
        held = stack.enter_context(unshared.hold("sh", "-c", script, change=change))
        held.await_success("test $(cat /n) -gt 20")
        names = [f"{held.id}-a", f"{held.id}-b"]
        for name in names:
            stack.callback(unshared.run, "delete", "--force", name)
        before = read_counter(held)
        flags = ("--netns", nets[1].path, "--netns", "/run/netns/missing")
        broken = unshared.run("fork", *flags, held.id, *names)
        assert broken.code
        assert "/run/netns/missing cannot be opened" in broken.err
        assert broken.text.split() == [names[0]]
        unshared.succeed("delete", "--force", names[0])
        assert sorted(unshared.succeed("fork", "-n", "2", held.id).split()) == [f"{held.id}-1", f"{held.id}-2"]
        for name in (f"{held.id}-1", f"{held.id}-2"):
            unshared.succeed("delete", "--force", name)
        unshared.succeed("fork", "--netns", nets[1].path, "--output", str(tmp_path), held.id, names[0])
        copy = replace(held, id=names[0])
        copy.ask("ping", "-c", "1", "-W", "5", "10.5.0.1")
        facts = [one.ask("sh", "-c", _FACTS).splitlines() for one in (held, copy)]
        assert all(len(lines) == 5 for lines in facts), facts
        assert [mine for mine, other in zip(*facts, strict=True) if mine == other] == []
        assert facts[1][2] == names[0]
        assert facts[1][3] == find_address(nets[1].pod).strip()
        assert min(map(read_counter, (held, copy))) > before
        copy.ask("sh", "-c", "echo of the copy > /mine; echo said > /proc/1/fd/1")
        wait_until(lambda: (tmp_path / f"{copy.id}.log").read_text() == "said\n")
        assert held.execute("cat", "/mine").code
        again = unshared.succeed("fork", copy.id).strip()
        stack.callback(unshared.run, "delete", "--force", again)
        assert replace(held, id=again).ask("cat", "/mine") == "of the copy\n"
    assert read_file(image, "/mine") == ""
