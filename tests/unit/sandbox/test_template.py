"""Templates as files: whole or not there, bounded, and nobody else's."""

import os
import threading
import time
from pathlib import Path

import pytest

from kata.config.model import AgentConfig, Configuration, FactoryConfig, HypervisorConfig
from kata.errors import HostError
from kata.resources.size import VmSize
from kata.sandbox import template as store
from kata.sandbox.recipe import Recipe, read_recipe, write_recipe
from polling import wait_until


@pytest.fixture
def place(tmp_path: Path) -> str:
    with store.lock_place(str(tmp_path / "templates")) as is_ours:
        assert is_ours
    return str(tmp_path / "templates")


def make(place: str, key: str, *, size: int = 0, files: tuple[str, ...] = (), used: float = 0) -> None:
    directory = store.begin_template(place, key)
    Path(directory, "memory").write_bytes(b"x" * size)
    store.finish_template(place, key, f"the VM {key}", files)
    if used and os.path.exists(f"{place}/{key}"):
        os.utime(f"{place}/{key}", (used, used))


def read_locks() -> list[str]:
    """Return who has locks on files, and who waits for one: proc_locks(5)."""
    return Path("/proc/locks").read_text().splitlines()


def list_keys(place: str) -> list[str]:
    return [template.key for template in store.list_templates(place)]


def test_a_template_is_found_by_its_key_once_it_is_finished(place: str) -> None:
    directory = store.begin_template(place, "a")
    Path(directory, "memory").write_bytes(b"memory")
    assert store.find_template(place, "a") is None
    assert list_keys(place) == []
    store.finish_template(place, "a", "a VM", ())
    assert store.find_template(place, "a") == f"{place}/a"
    [found] = store.list_templates(place)
    assert (found.summary, found.is_current) == ("a VM", True)
    assert found.size >= 4096


def test_a_key_tells_the_machine_and_the_very_files_apart(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_text("one")
    files = (str(image),)
    key = store.make_key("-m 512M", files)
    assert key == store.make_key("-m 512M", files)
    assert key != store.make_key("-m 513M", files)
    (tmp_path / "new").write_text("two")
    os.replace(tmp_path / "new", image)
    assert key != store.make_key("-m 512M", files)


def test_what_a_maker_left_that_died_is_removed_by_the_next(place: str) -> None:
    store.begin_template(place, "dead")
    store.begin_template(place, "a")
    assert sorted(name for name in os.listdir(place) if name.startswith("making-")) == ["making-a"]
    [line] = store.collect_unfinished(place, dry_run=True)
    assert "making-a: nobody makes it any more" in line
    with store.lock_place(place):
        assert store.collect_unfinished(place, dry_run=False) == []
    assert store.collect_unfinished(place, dry_run=False) == [line]
    assert os.listdir(place) == ["lock"]


def test_one_process_at_a_time_makes_templates(place: str) -> None:
    with store.lock_place(place) as first, store.lock_place(place) as second:
        assert (first, second) == (True, False)
    with store.lock_place(place) as again:
        assert again


def test_an_open_template_stays_whole_when_it_is_removed(place: str) -> None:
    make(place, "a", size=10)
    with open(f"{place}/a/memory", "rb") as memory:
        store.drop_template(f"{place}/a")
        assert memory.read() == b"x" * 10
    assert store.find_template(place, "a") is None
    assert os.listdir(place) == ["lock"]


def test_templates_of_files_that_have_changed_go_when_another_is_made(place: str, tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_text("old")
    make(place, "a", files=(store.describe_file(str(kernel)),))
    kernel.write_text("newer")
    assert [template.is_current for template in store.list_templates(place)] == [False]
    make(place, "b", files=(store.describe_file(str(kernel)),))
    assert list_keys(place) == ["b"]


def test_those_used_the_longest_ago_go_when_there_are_too_many(place: str) -> None:
    now = time.time()
    for number in range(store.MOST_TEMPLATES + 2):
        make(place, f"t{number}", used=now - 100 + number)
    store.find_template(place, "t2")
    make(place, "new")
    keys = list_keys(place)
    assert len(keys) == store.MOST_TEMPLATES
    assert {"new", "t2"} < set(keys)
    assert "t3" not in keys


def test_those_used_the_longest_ago_go_when_they_are_too_big(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_BYTES", 300_000)
    now = time.time()
    make(place, "old", size=100_000, used=now - 20)
    make(place, "young", size=100_000, used=now - 10)
    make(place, "new", size=150_000)
    assert sorted(list_keys(place)) == ["new", "young"]


def test_a_failure_is_remembered_for_a_while_and_forgotten_by_success(place: str) -> None:
    store.note_failure(place, "a", "no space left")
    assert store.find_failure(place, "a") == "no space left"
    assert store.list_failures(place) == [("a", "no space left")]
    long_ago = time.time() - store.PATIENCE - 1
    os.utime(f"{place}/a.failed", (long_ago, long_ago))
    assert store.find_failure(place, "a") == ""
    make(place, "a")
    assert store.list_failures(place) == []


def test_a_place_where_others_can_write_is_not_used(place: str) -> None:
    make(place, "a")
    os.chmod(place, 0o777)
    with pytest.raises(HostError, match="others can write there"):
        store.find_template(place, "a")


def test_destroying_leaves_nothing_and_says_how_many_there_were(place: str) -> None:
    make(place, "a")
    make(place, "b")
    store.note_failure(place, "c", "why")
    store.begin_template(place, "d")
    assert store.destroy_templates(place) == 2
    assert not os.path.exists(place)
    assert store.destroy_templates(place) == 0


def test_who_waits_for_a_place_that_is_destroyed_has_a_new_one(place: str) -> None:
    def make_late() -> None:
        with store.lock_place(place, wait=True):
            make(place, "late")

    with store.lock_place(place):
        maker = threading.Thread(target=make_late)
        maker.start()
        inode = os.stat(f"{place}/lock").st_ino
        wait_until(lambda: any("-> FLOCK" in line and f":{inode} " in line for line in read_locks()))
        os.unlink(f"{place}/lock")
        os.rmdir(place)
    maker.join(10)
    assert list_keys(place) == ["late"]
    assert sorted(os.listdir(place)) == ["late", "lock"]


def test_a_recipe_survives_its_way_to_the_maker() -> None:
    config = Configuration(
        hypervisor=HypervisorConfig(default_memory=512, enable_annotations=("default_vcpus",), overhead_vcpus=0.5),
        agent=AgentConfig(kernel_modules=("veth", "nf_conntrack hashsize=4096")),
        factory=FactoryConfig(template_path="/somewhere"),
    )
    recipe = Recipe("/run/kata", config, VmSize(2, 512))
    assert read_recipe(write_recipe(recipe)) == recipe
