import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import HostError
from kata.resources.cgroup import (
    create_cgroup,
    drop_cgroup,
    join_cgroup,
    join_vcpus,
    list_hierarchies,
    remove_cgroup,
    translate_path,
)


@pytest.mark.parametrize(
    ("path", "directory"),
    [
        ("/kata/c", "kata/c"),
        ("kata/c", "kata/c"),
        ("/../a/./b//c", "a/b/c"),
        ("/", ""),
        ("system.slice:kata:c", "system.slice/kata-c.scope"),
        (":kata:c", "system.slice/kata-c.scope"),
        ("user.slice::c", "user.slice/c.scope"),
        ("a-b.slice:kata:c", "a.slice/a-b.slice/kata-c.scope"),
        ("a-b-c.slice:kata:c", "a.slice/a-b.slice/a-b-c.slice/kata-c.scope"),
        ("-.slice:kata:c", "kata-c.scope"),
        ("machine.slice:libpod:c.scope", "machine.slice/c.scope"),
        ("/a:b:c", "a:b:c"),
    ],
)
def test_a_cgroups_path_has_one_directory(path: str, directory: str) -> None:
    assert translate_path(path) == directory


@given(st.text(alphabet="ab.-:/ "))
def test_no_cgroups_path_leaves_its_hierarchy(path: str) -> None:
    assert os.path.normpath(f"/h/{translate_path(path)}").startswith("/h")
    assert not {".", ".."} & set(translate_path(path).split("/"))


def test_every_directory_is_told_before_it_is_made_parents_first(tmp_path: Path) -> None:
    told: list[tuple[str, bool]] = []

    create_cgroup("/a/b", lambda directory: told.append((directory, os.path.exists(directory))), [str(tmp_path)])

    assert told == [(f"{tmp_path}/a", False), (f"{tmp_path}/a/b", False)]
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: marks directories with trusted extended attributes")
def test_a_shared_parent_goes_with_the_last_of_its_cgroups_and_one_of_the_engines_stays(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    for name in ("first", "second"):
        create_cgroup(f"/engine/pods/{name}", lambda _: None, [str(tmp_path)])

    remove_cgroup(f"{tmp_path}/engine/pods/first")
    remove_cgroup(f"{tmp_path}/engine/pods")
    assert (tmp_path / "engine/pods/second").is_dir()
    remove_cgroup(f"{tmp_path}/engine/pods/second")
    assert [path.name for path in tmp_path.rglob("*")] == ["engine"]


def test_a_parent_that_goes_while_a_cgroup_is_made_in_it_is_made_again(tmp_path: Path) -> None:
    races = iter([True, False, False, False])

    def remove_parent(directory: str) -> None:
        if directory.endswith("/leaf") and next(races):
            os.rmdir(os.path.dirname(directory))

    create_cgroup("/a/leaf", remove_parent, [str(tmp_path)])

    assert (tmp_path / "a" / "leaf").is_dir()


def test_a_cgroup_that_somebody_else_makes_at_the_same_time_is_used(tmp_path: Path) -> None:
    create_cgroup("/a/b", os.mkdir, [str(tmp_path)])
    assert (tmp_path / "a" / "b").is_dir()


def test_a_cgroup_of_version_2_accounts_what_is_below_it(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    create_cgroup("/a/b", lambda _: None, [str(tmp_path)])
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"
    assert not (tmp_path / "a/cgroup.subtree_control").exists()


def test_a_cgroup_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match=f"{tmp_path}/file/a cannot be made: Not a directory"):
        create_cgroup("/a", lambda _: None, [f"{tmp_path}/file"])


def test_a_cgroup_that_takes_no_process_is_named(tmp_path: Path) -> None:
    (tmp_path / "a" / "cgroup.procs").mkdir(parents=True)
    with pytest.raises(HostError, match=f"process 7 cannot enter the cgroup {tmp_path}/a: Is a directory"):
        join_cgroup("/a", 7, [str(tmp_path)])


@pytest.mark.skipif(
    not all(os.access(hierarchy, os.W_OK) for hierarchy in list_hierarchies()), reason="needs writable cgroups: root"
)
def test_a_process_is_in_the_cgroup_until_it_ends() -> None:
    path = f"/kata-test-{os.getpid()}"
    create_cgroup(path, lambda _: None)
    child = subprocess.Popen(["sleep", "60"])
    try:
        join_cgroup(path, child.pid)
        assert path in Path(f"/proc/{child.pid}/cgroup").read_text()
        assert not drop_cgroup(path)
    finally:
        child.kill()
        child.wait()
    assert drop_cgroup(path)


def _find_cgroups_of(path: Path) -> set[str]:
    return {line.split(":", 1)[1] for line in (path / "cgroup").read_text().splitlines()}


@pytest.mark.skipif(
    not all(os.access(hierarchy, os.W_OK) for hierarchy in list_hierarchies()), reason="needs writable cgroups: root"
)
def test_vcpus_are_accounted_to_a_pod_and_the_rest_of_their_process_is_not() -> None:
    """With version 2 of cgroups threads cannot part, so the whole process is."""
    path = f"/kata-test-{os.getpid()}"
    create_cgroup(path, lambda _: None)
    text = "import threading; t = threading.Thread(target=input); t.start(); print(t.native_id, flush=True)"
    child = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        vcpu = int(child.stdout.readline())
        join_vcpus(path, child.pid, [vcpu, 1 << 22])
        rest, inside = (_find_cgroups_of(Path(f"/proc/{child.pid}/task/{task}")) for task in (child.pid, vcpu))
        unified = f":{path}"
        if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
            assert (rest, inside) == ({unified}, {unified})
        else:
            by_thread = {f"cpu:{path}", f"cpuacct:{path}", f"cpuset:{path}"}
            joint = {f"cpu,cpuacct:{path}", f"cpuset:{path}"}
            assert inside - {unified} - _find_cgroups_of(Path("/proc/self")) in (by_thread, joint)
            assert rest - _find_cgroups_of(Path("/proc/self")) <= {unified}
    finally:
        child.communicate(b"\n", timeout=30)
    assert drop_cgroup(path)
