import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.resources.cgroup import list_hierarchies
from kata.sandbox.ledger import (
    Kind,
    find_ledger,
    forget_gone_cgroups,
    list_resources,
    record_process,
    record_resource,
    release_resources,
)
from kata.sys.mount import bind, list_mounts, unmount
from kata.sys.process import read_start_ticks
from privilege import needs_root


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def test_resources_are_listed_in_the_order_of_writing(tmp_path: Path) -> None:
    rows = [(Kind.TREE, "/a"), (Kind.MOUNT, "/b\nc"), (Kind.CGROUP, "/ü")]
    for kind, value in rows:
        record_resource(str(tmp_path), kind, value)
    assert list_resources(str(tmp_path)) == rows


@pytest.mark.parametrize("line", ['["tree", "/half', '["tree"]', "5", '["device", "/dev/sda"]', "null", ""])
def test_a_line_that_is_no_resource_is_left_out(tmp_path: Path, line: str) -> None:
    record_resource(str(tmp_path), Kind.TREE, "/a")
    with open(find_ledger(str(tmp_path)), "a") as file:
        file.write(line + "\n")
    assert list_resources(str(tmp_path)) == [(Kind.TREE, "/a")]


def test_cgroups_that_went_are_written_down_no_more(tmp_path: Path) -> None:
    there, gone = tmp_path / "there", tmp_path / "gone"
    there.mkdir()
    for kind, path in ((Kind.CGROUP, there), (Kind.CGROUP, gone), (Kind.TREE, gone)):
        record_resource(str(tmp_path), kind, str(path))

    forget_gone_cgroups(str(tmp_path))

    assert list_resources(str(tmp_path)) == [(Kind.CGROUP, str(there)), (Kind.TREE, str(gone))]


def test_a_sandbox_that_wrote_nothing_owns_nothing(tmp_path: Path) -> None:
    assert list_resources(str(tmp_path)) == []
    assert release_resources(str(tmp_path)) == []


def test_a_process_is_killed_and_has_ended_by_then(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record_process(str(tmp_path), sleeper.pid)
    assert release_resources(str(tmp_path)) == []
    assert sleeper.poll() == -9


def test_a_stranger_with_the_pid_of_a_dead_process_is_not_killed(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    ticks = read_start_ticks(sleeper.pid)
    assert ticks is not None
    record_resource(str(tmp_path), Kind.PROCESS, f"{sleeper.pid} {ticks - 1}")
    assert release_resources(str(tmp_path)) == []
    assert sleeper.poll() is None


def test_a_process_that_is_gone_already_is_not_written_down(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    record_process(str(tmp_path), process.pid)
    assert list_resources(str(tmp_path)) == []


def test_what_was_never_made_is_released_without_a_failure(tmp_path: Path) -> None:
    for kind in (Kind.MOUNT, Kind.CGROUP, Kind.TREE):
        record_resource(str(tmp_path), kind, f"{tmp_path}/never/made")
    assert release_resources(str(tmp_path)) == []


@needs_root
def test_a_mount_is_taken_off_before_the_tree_around_it_is_removed(tmp_path: Path) -> None:
    tree, data = tmp_path / "tree", tmp_path / "data"
    (tree / "volume").mkdir(parents=True)
    data.mkdir()
    (data / "kept").touch()
    record_resource(str(tmp_path), Kind.TREE, str(tree))
    record_resource(str(tmp_path), Kind.MOUNT, str(tree / "volume"))
    bind(str(data), str(tree / "volume"))
    assert release_resources(str(tmp_path)) == []
    assert not list_mounts(str(tree))
    assert not tree.exists()
    assert (data / "kept").exists()


@needs_root
def test_what_cannot_be_released_stays_written_down_and_the_rest_goes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "volume").mkdir(parents=True)
    bind(str(tmp_path), str(tree / "volume"), recursive=False)
    try:
        record_resource(str(tmp_path), Kind.TREE, str(tmp_path / "other"))
        record_resource(str(tmp_path), Kind.TREE, str(tree))
        (tmp_path / "other").mkdir()
        [failure] = release_resources(str(tmp_path))
        assert str(tree) in failure
        assert not (tmp_path / "other").exists()
        assert list_resources(str(tmp_path)) == [(Kind.TREE, str(tree))]
    finally:
        unmount(str(tree / "volume"), detach=True)
    assert release_resources(str(tmp_path)) == []
    assert not tree.exists()


@needs_root
def test_a_cgroup_goes_when_its_process_is_killed(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    hierarchies = list_hierarchies()
    if not hierarchies or not os.access(hierarchies[0], os.W_OK):
        pytest.skip("NO WRITABLE CGROUPS: nothing of the host's cgroups is tested")
    group = f"{hierarchies[0]}/kata-unit-{os.getpid()}"
    record_resource(str(tmp_path), Kind.CGROUP, group)
    os.mkdir(group)
    record_process(str(tmp_path), sleeper.pid)
    for name in ("cpuset.cpus", "cpuset.mems"):
        if os.path.exists(f"{group}/{name}"):
            Path(f"{group}/{name}").write_text(Path(f"{hierarchies[0]}/{name}").read_text())
    Path(f"{group}/cgroup.procs").write_text(str(sleeper.pid))
    assert release_resources(str(tmp_path)) == []
    assert not os.path.exists(group)
