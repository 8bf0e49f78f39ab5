import os
import subprocess
import sys
from pathlib import Path

import pytest

from kata.errors import NotFoundError, StateError
from kata.sandbox import store
from kata.sandbox.states import Status

_RECORD = store.ContainerRecord(
    "c1", "s1", "/bundle", 42, "running", "2026-01-01T00:00:00Z", "/bundle/rootfs", {"k": "v"}
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    store.write_container(str(tmp_path), _RECORD)
    assert store.read_container(str(tmp_path), "c1") == _RECORD


def test_a_record_is_for_its_owner_only(tmp_path: Path) -> None:
    store.write_container(str(tmp_path), _RECORD)
    assert os.stat(tmp_path / "containers").st_mode & 0o777 == 0o700
    assert os.stat(tmp_path / "containers" / "c1.json").st_mode & 0o777 == 0o600


def test_an_unknown_container_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="container nobody does not exist"):
        store.read_container(str(tmp_path), "nobody")


def test_a_list_has_all_records_by_id_and_no_other_file(tmp_path: Path) -> None:
    assert store.list_containers(str(tmp_path)) == []
    for name in ("b", "a"):
        store.write_container(str(tmp_path), store.ContainerRecord(name, "s", "/b", 1, "created", ""))
    (tmp_path / "containers" / "a.json.77.new").write_text("{")
    assert [record.id for record in store.list_containers(str(tmp_path))] == ["a", "b"]


def test_a_container_can_be_removed_twice(tmp_path: Path) -> None:
    store.write_container(str(tmp_path), _RECORD)
    store.remove_container(str(tmp_path), "c1")
    store.remove_container(str(tmp_path), "c1")
    assert store.list_containers(str(tmp_path)) == []


def test_sandboxes_are_listed_by_name(tmp_path: Path) -> None:
    assert store.list_sandboxes(str(tmp_path)) == []
    for name in ("b", "a"):
        (tmp_path / "sandboxes" / name).mkdir(parents=True)
    assert store.list_sandboxes(str(tmp_path)) == ["a", "b"]


def test_a_lock_is_seen_by_other_processes_until_its_holder_ends(tmp_path: Path) -> None:
    code = f"from kata.sandbox.store import *; lock_sandbox({str(tmp_path)!r}); print('held', flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(Path(store.__file__).parents[2])}
    holder = subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=-1, stdout=-1)
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        assert store.is_served(str(tmp_path))
        with pytest.raises(StateError, match="in use"):
            store.lock_sandbox(str(tmp_path))
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    assert not store.is_served(str(tmp_path))


def test_asking_whether_a_sandbox_is_served_does_not_take_its_lock(tmp_path: Path) -> None:
    os.close(store.lock_sandbox(str(tmp_path)))
    watcher = os.open(tmp_path / "lock", os.O_RDWR)
    try:
        for _ in range(100):
            assert not store.is_served(str(tmp_path))
            os.close(store.lock_sandbox(str(tmp_path)))
    finally:
        os.close(watcher)


def test_a_directory_without_a_lock_is_being_made_while_it_is_new(tmp_path: Path) -> None:
    assert store.is_being_made(str(tmp_path))
    os.utime(tmp_path, (0, 0))
    assert not store.is_being_made(str(tmp_path))
    assert not store.is_being_made(str(tmp_path / "absent"))


def test_a_new_directory_whose_daemon_took_the_lock_once_is_not_being_made(tmp_path: Path) -> None:
    os.close(store.lock_sandbox(str(tmp_path)))
    assert not store.is_being_made(str(tmp_path))


@pytest.mark.parametrize("status", list(Status))
def test_the_state_document_has_what_the_specification_requires(status: Status) -> None:
    document = store.describe_state(_RECORD, status)
    assert document["ociVersion"].startswith("1.")
    assert (document["id"], document["bundle"]) == ("c1", "/bundle")
    assert document["status"] == status
    assert document["annotations"] == {"k": "v"}
    assert document["pid"] == (0 if status == Status.STOPPED else 42)
