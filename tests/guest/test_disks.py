"""The host's block devices in containers: plugged into the VM for one, and taken out after it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import Change, Engine, combine, kill_process, make_privileged
from loop import attach_loop


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A block device of the host, on a file `disk` that begins with a word."""
    with attach_loop(tmp_path / "disk") as device:
        yield device


def give(device: str, path: str, access: str = "rwm") -> Change:
    """Do what an engine does for `--device`: the node, and a rule for it alone."""
    number = os.stat(device).st_rdev
    numbers = {"type": "b", "major": os.major(number), "minor": os.minor(number)}

    def change(spec: dict[str, Any]) -> None:
        spec["linux"].setdefault("devices", []).append({"path": path, "fileMode": 0o660, **numbers})
        rules = spec["linux"]["resources"].setdefault("devices", [])
        rules.append({"allow": True, "access": access, **numbers})

    return change


def test_a_block_device_is_read_and_written_under_its_path(engine: Engine, loop: str, tmp_path: Path) -> None:
    script = "head -n 1 /dev/disk && printf 'of the guest' | dd of=/dev/disk bs=4096 seek=1 conv=fsync,notrunc"
    result = engine.run_container("sh", "-c", script, change=give(loop, "/dev/disk"))
    assert (result.code, result.text) == (0, "of the host\n"), result
    subprocess.run(["blockdev", "--flushbufs", loop], check=True, timeout=30)
    assert (tmp_path / "disk").read_bytes()[4096:4108] == b"of the guest"


def test_a_block_device_without_the_permission_to_write_stays_as_it_is(
    engine: Engine, loop: str, tmp_path: Path
) -> None:
    script = "head -n 1 /dev/disk; echo other | dd of=/dev/disk conv=fsync,notrunc"
    result = engine.run_container("sh", "-c", script, change=give(loop, "/dev/disk", "rm"))
    assert result.code, result
    assert result.text == "of the host\n", result
    assert (tmp_path / "disk").read_bytes().startswith(b"of the host\n")


def test_a_block_device_is_taken_out_when_its_container_is_deleted(engine: Engine, loop: str) -> None:
    with (
        engine.hold("sleep", "1000", change=give(loop, "/dev/disk")) as first,
        engine.hold("sleep", "1000", pod=first.id) as other,
    ):
        disks = other.ask("ls", "/sys/block").split()
        engine.succeed("delete", "--force", first.id)
        assert len(other.ask("ls", "/sys/block").split()) == len(disks) - 1
        again = engine.run_container("head", "-n", "1", "/dev/disk", pod=first.id, change=give(loop, "/dev/disk"))
        assert again.text == "of the host\n", again


def test_a_privileged_container_gets_no_block_device_that_is_only_listed(engine: Engine, loop: str) -> None:
    result = engine.run_container(
        "sh", "-c", "test ! -e /dev/disk && ls /sys/block", change=combine(give(loop, "/dev/disk"), make_privileged)
    )
    assert result.code == 0, result
    assert "vdb" not in result.text


def test_a_device_that_a_vm_writes_is_refused_to_another_vm_and_free_when_the_first_is_killed(
    engine: Engine, loop: str
) -> None:
    with engine.hold("sleep", "1000", change=give(loop, "/dev/disk")) as first:
        for access in ("rwm", "rm"):
            refused = engine.run_container("true", change=give(loop, "/dev/disk", access))
            assert refused.code
            assert f"{loop} cannot be a disk of the VM: " in refused.err
            assert "another VM" in refused.err
        other = engine.run_container("head", "-n", "1", "/dev/disk", pod=first.id, change=give(loop, "/dev/disk"))
        assert other.text == "of the host\n", other
        kill_process(engine.find_process("serve", first.sandbox))
    again = engine.run_container("head", "-n", "1", "/dev/disk", change=give(loop, "/dev/disk"))
    assert again.text == "of the host\n", again
