"""Sandboxes are found by the names that operators have for them."""

from pathlib import Path

import pytest

from kata.cli.sandbox_id import find_sandbox
from kata.errors import NotFoundError, UsageError
from kata.sandbox import store


@pytest.fixture
def root(tmp_path: Path) -> str:
    for sandbox in ("web+k8s.io", "web2+k8s.io", "db+k8s.io", "db+moby", "plain"):
        (tmp_path / "sandboxes" / sandbox).mkdir(parents=True)
    record = store.ContainerRecord("app", "db+moby", "/b", 1, "running", "now", namespace="moby")
    store.write_container(str(tmp_path), record)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("name", "sandbox"),
    [
        ("plain", "plain"),
        ("pl", "plain"),
        ("web", "web+k8s.io"),
        ("web2", "web2+k8s.io"),
        ("db+moby", "db+moby"),
        ("db+m", "db+moby"),
        ("app", "db+moby"),
        ("app+moby", "db+moby"),
    ],
)
def test_a_sandbox_is_found_without_the_namespace_where_that_is_clear(root: str, name: str, sandbox: str) -> None:
    assert find_sandbox(root, name) == sandbox


def test_a_name_of_several_namespaces_is_not_guessed_at(root: str) -> None:
    with pytest.raises(UsageError, match=r"db\+k8s.io, db\+moby"):
        find_sandbox(root, "db")
    with pytest.raises(NotFoundError):
        find_sandbox(root, "absent")


def test_records_of_the_same_id_stand_side_by_side(root: str) -> None:
    store.write_container(
        root, store.ContainerRecord("app", "web+k8s.io", "/b", 1, "running", "now", namespace="k8s.io")
    )

    assert [record.sandbox for record in store.list_containers(root)] == ["web+k8s.io", "db+moby"]
    store.remove_container(root, "app+k8s.io")
    assert store.read_container(root, "app+moby").sandbox == "db+moby"
