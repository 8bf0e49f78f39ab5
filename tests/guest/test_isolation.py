"""What a container cannot reach: the host's kernel, processes and files, even with every privilege in its guest."""

import os
import platform
from pathlib import Path
from typing import Any

import pytest

from engine import Container, Engine, add_mount, combine, make_privileged


def read_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_the_kernel_is_the_guests_own(pod: Container) -> None:
    assert pod.ask("uname", "-r").strip() != platform.release()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text()
    assert pod.ask("cat", "/proc/sys/kernel/random/boot_id") != boot_id


def test_no_process_of_the_host_is_seen_by_a_container_with_all_privileges(engine: Engine, pod: Container) -> None:
    names = engine.run_container("sh", "-c", "cat /proc/[0-9]*/comm", pod=pod.id, change=make_privileged).text
    assert "python3" not in names
    assert "qemu" not in names


def test_a_walk_upwards_ends_at_the_containers_root(engine: Engine, pod: Container, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    inner = tmp_path / "inner"
    inner.mkdir()
    change = combine(make_privileged, add_mount("/data", "bind", str(inner), "rbind", "rw"))
    script = f"cat /data/../secret; cat /data/../../../../..{secret}; ls /data/..; cat {secret}"
    result = engine.run_container("sh", "-c", script, pod=pod.id, change=change)
    assert "of the host" not in result.text
    assert "bin" in result.text.split()


def test_a_link_to_a_file_of_the_host_is_followed_in_the_guest_only(
    engine: Engine, pod: Container, tmp_path: Path
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret").write_text("of the host")
    (inner / "absolute").symlink_to(tmp_path / "secret")
    (inner / "relative").symlink_to("../secret")
    (inner / "proc").symlink_to("/proc/self/root/etc/hostname")
    change = combine(make_privileged, add_mount("/data", "bind", str(inner), "rbind", "rw"))
    script = "cat /data/absolute; cat /data/relative; ln -s /etc/shadow /data/made; cat /data/made; ls /data"
    result = engine.run_container("sh", "-c", script, pod=pod.id, change=change)
    assert "of the host" not in result.text
    assert result.err.count("No such file") == 3, result
    assert os.readlink(inner / "made") == "/etc/shadow", "a link is data, not a path of the host"


def test_a_hard_link_does_not_leave_its_bind(engine: Engine, pod: Container, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/file").write_text("read only\n")
    change = combine(
        make_privileged,
        add_mount("/one", "bind", str(tmp_path / "one"), "rbind", "ro"),
        add_mount("/two", "bind", str(tmp_path / "two"), "rbind", "rw"),
    )
    result = engine.run_container(
        "sh", "-c", "ln /one/file /two/file || ln /data/../one/file /two/file", pod=pod.id, change=change
    )
    assert result.code != 0
    assert list((tmp_path / "two").iterdir()) == []
    assert (tmp_path / "one/file").read_text() == "read only\n"


def test_a_device_node_in_the_share_is_the_guests_device(engine: Engine, pod: Container, tmp_path: Path) -> None:
    """A block node with the numbers of a host's disk opens what has these numbers in the guest, or nothing."""
    (tmp_path / "inner").mkdir()
    change = combine(make_privileged, add_mount("/data", "bind", str(tmp_path / "inner"), "rbind", "rw"))
    script = "mknod /data/mem c 1 1; mknod /data/disk b 254 0; head -c 4 /data/disk | wc -c; stat -c %F /data/disk"
    result = engine.run_container("sh", "-c", script, pod=pod.id, change=change)
    assert result.code in (0, 1), result
    for node in (tmp_path / "inner").iterdir():
        status = node.stat()
        assert not status.st_mode & 0o6000, f"{node} has a mode that means something on the host"


def test_a_file_of_the_guest_with_setuid_stays_in_its_bind(engine: Engine, pod: Container, tmp_path: Path) -> None:
    change = add_mount("/data", "bind", str(tmp_path), "rbind", "rw")
    result = engine.run_container("sh", "-c", "cp /bin/busybox '/data/a\nb'; echo done", pod=pod.id, change=change)
    assert result.text == "done\n"
    assert (tmp_path / "a\nb").stat().st_size == Path("/bin/busybox").stat().st_size


def test_the_root_image_cannot_be_written_by_the_guest(engine: Engine, pod: Container) -> None:
    def change(spec: dict[str, Any]) -> None:
        make_privileged(spec)
        spec["linux"]["devices"] = [{"path": "/dev/vda", "type": "b", "major": 254, "minor": 0}]

    script = "mknod /tmp/vda b 254 0; dd if=/dev/zero of=/tmp/vda bs=512 count=1 && echo written"
    assert "written" not in engine.run_container("sh", "-c", script, pod=pod.id, change=change).text


@pytest.mark.parametrize("role", ["qemu", "virtiofsd"])
def test_what_serves_the_guest_has_a_syscall_filter(engine: Engine, pod: Container, role: str) -> None:
    pids = [engine.find_process(role, pod.sandbox)]
    if role == "virtiofsd":
        children = Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split()
        pids = [int(child) for child in children]
    assert pids
    for pid in pids:
        assert read_status(pid)["Seccomp"] == "2", f"{role} {pid} may make any system call"


def test_the_vmm_has_a_user_of_its_own_and_no_way_to_more(engine: Engine, pod: Container) -> None:
    status = read_status(engine.find_process("qemu", pod.sandbox))
    for identity in (status["Uid"], status["Gid"]):
        assert len(set(identity.split())) == 1
        assert int(identity.split()[0]) > 65536
    assert status["Groups"] == ""
    assert status["NoNewPrivs"] == "1"
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0, f"the VMM has {name}"


def test_virtiofsd_sees_the_share_and_nothing_else(engine: Engine, pod: Container) -> None:
    parent = engine.find_process("virtiofsd", pod.sandbox)
    (worker,) = (int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    root = set(os.listdir(f"/proc/{worker}/root"))
    assert "etc" not in root, root
    assert any(name.startswith(pod.id) for name in root), root
    for kind in ("mnt", "pid", "net"):
        assert os.readlink(f"/proc/{worker}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind


def test_two_sandboxes_have_different_kernels_and_users(engine: Engine, pod: Container) -> None:
    with engine.hold("sleep", "1000", name="other") as other:
        boot_id = "/proc/sys/kernel/random/boot_id"
        assert other.ask("cat", boot_id) != pod.ask("cat", boot_id)
        users = [read_status(engine.find_process("qemu", one.sandbox))["Uid"] for one in (pod, other)]
        assert users[0] != users[1]
