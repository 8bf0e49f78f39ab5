import os
import subprocess
from pathlib import Path

from kata.sandbox import store
from kata.sandbox.collect import collect, release_sandbox
from kata.sandbox.ledger import Kind, record_process, record_resource
from kata.sys.mount import bind, unmount
from privilege import needs_root


def _make_sandbox(root: Path, name: str) -> str:
    """Make a sandbox with one container whose daemon was there and died."""
    directory = store.find_sandbox_dir(str(root), name)
    os.makedirs(directory)
    os.close(store.lock_sandbox(directory))
    record = store.ContainerRecord(f"{name}-c", name, "/bundle", 1, "running", "")
    store.write_container(str(root), record)
    return directory


def test_a_sandbox_without_a_daemon_goes_with_all_it_owned(tmp_path: Path) -> None:
    directory = _make_sandbox(tmp_path, "dead")
    tree = tmp_path / "tree"
    tree.mkdir()
    process = subprocess.Popen(["sleep", "1000"])
    record_resource(directory, Kind.TREE, str(tree))
    record_process(directory, process.pid)
    lines = collect(str(tmp_path), dry_run=False)
    assert process.wait(10) == -9
    assert not tree.exists()
    assert not os.path.exists(directory)
    assert store.list_containers(str(tmp_path)) == []
    assert [line.partition(":")[0] for line in lines] == ["sandbox dead"] * 3 + ["container dead-c"]


def test_a_dry_run_tells_the_same_and_touches_nothing(tmp_path: Path) -> None:
    directory = _make_sandbox(tmp_path, "dead")
    record_resource(directory, Kind.TREE, str(tmp_path / "tree"))
    (tmp_path / "tree").mkdir()
    told = collect(str(tmp_path), dry_run=True)
    assert (tmp_path / "tree").exists()
    assert os.path.exists(directory)
    assert len(store.list_containers(str(tmp_path))) == 1
    assert collect(str(tmp_path), dry_run=False) == told


def test_a_sandbox_with_a_daemon_is_left_alone(tmp_path: Path) -> None:
    directory = _make_sandbox(tmp_path, "alive")
    lock = store.lock_sandbox(directory)
    try:
        assert collect(str(tmp_path), dry_run=False) == []
        assert os.path.exists(directory)
        assert len(store.list_containers(str(tmp_path))) == 1
    finally:
        os.close(lock)


def test_a_sandbox_whose_daemon_is_about_to_start_is_left_alone(tmp_path: Path) -> None:
    directory = store.find_sandbox_dir(str(tmp_path), "new")
    os.makedirs(directory)
    assert collect(str(tmp_path), dry_run=False) == []
    assert os.path.exists(directory)
    os.utime(directory, (0, 0))
    assert len(collect(str(tmp_path), dry_run=False)) == 1
    assert not os.path.exists(directory)


def test_a_record_whose_sandbox_has_no_directory_goes(tmp_path: Path) -> None:
    store.write_container(str(tmp_path), store.ContainerRecord("c", "vanished", "/bundle", 1, "running", ""))
    assert collect(str(tmp_path), dry_run=False) == ["container c: its sandbox vanished is gone"]
    assert store.list_containers(str(tmp_path)) == []


def test_nothing_is_found_under_a_root_that_does_not_exist(tmp_path: Path) -> None:
    assert collect(str(tmp_path / "absent"), dry_run=False) == []


def test_a_sandbox_that_a_daemon_serves_is_not_released(tmp_path: Path) -> None:
    directory = _make_sandbox(tmp_path, "alive")
    record_resource(directory, Kind.TREE, str(tmp_path / "tree"))
    (tmp_path / "tree").mkdir()
    lock = store.lock_sandbox(directory)
    try:
        assert release_sandbox(str(tmp_path), "alive") == ["sandbox alive: a daemon has come to serve it"]
    finally:
        os.close(lock)
    assert (tmp_path / "tree").exists()


@needs_root
def test_a_sandbox_keeps_its_directory_until_all_of_it_is_released(tmp_path: Path) -> None:
    directory = _make_sandbox(tmp_path, "stuck")
    (tmp_path / "tree" / "volume").mkdir(parents=True)
    record_resource(directory, Kind.TREE, str(tmp_path / "tree"))
    bind(str(tmp_path), str(tmp_path / "tree" / "volume"), recursive=False)
    try:
        lines = release_sandbox(str(tmp_path), "stuck")
        assert "could not be released" in lines[-1]
        assert os.path.exists(directory)
    finally:
        unmount(str(tmp_path / "tree" / "volume"), detach=True)
    release_sandbox(str(tmp_path), "stuck")
    assert not os.path.exists(directory)
