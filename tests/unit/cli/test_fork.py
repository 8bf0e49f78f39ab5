"""What a copy of a running container gets for itself, by its config.json, and folders that were left."""

import os
from pathlib import Path
from typing import Any

import pytest

from kata.cli.fork import change_spec
from kata.errors import ExistsError
from kata.sandbox import copyfolder, store
from kata.sandbox.copyfolder import collect_folders, find_folder, make_folder
from kata.sys.file import replace_file


def make_spec(cgroup: str) -> dict[str, Any]:
    return {
        "hostname": "old",
        "root": {"path": "rootfs"},
        "process": {"terminal": True, "args": ["true"]},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/a", "type": "bind", "source": "files/a"},
            {"destination": "/b", "source": "/abs/b", "options": ["rbind"]},
        ],
        "linux": {"cgroupsPath": cgroup, "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}]},
    }


@pytest.mark.parametrize(
    ("cgroup", "copied"),
    [("/machine/web", "/machine/copy"), ("machine.slice:runtime:web", "machine.slice:runtime:copy"), ("/a", "/a-copy")],
)
def test_a_copy_has_the_originals_files_and_a_name_a_network_and_a_cgroup_of_its_own(cgroup: str, copied: str) -> None:
    spec = make_spec(cgroup)
    changed = change_spec(spec, {"id": "web", "bundle": "/bundle"}, "copy", "")
    assert (changed["hostname"], changed["root"]["path"]) == ("copy", "/bundle/rootfs")
    assert changed["process"] == {"terminal": False, "args": ["true"]}
    assert [mount["source"] for mount in changed["mounts"]] == ["proc", "/bundle/files/a", "/abs/b"]
    assert changed["linux"] == {"cgroupsPath": copied, "namespaces": [{"type": "pid"}, {"type": "network"}]}
    assert spec == make_spec(cgroup)
    joined = change_spec(spec, {"id": "web", "bundle": "/bundle"}, "copy", "/run/netns/y")
    assert joined["linux"]["namespaces"][1] == {"type": "network", "path": "/run/netns/y"}


def test_only_folders_that_nobody_makes_or_has_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copyfolder, "BASE", str(tmp_path / "copies"))
    root = str(tmp_path / "root")
    made = [make_folder(root, name) for name in ("made", "left", "used")]
    other = make_folder(str(tmp_path / "other"), "other")
    with pytest.raises(ExistsError, match="a copy made exists already"):
        make_folder(root, "made")
    for folder in (*made[1:], other):  # by a process that has ended
        text = Path(f"{folder}/owner.json").read_text().replace(str(os.getpid()), str(1 << 22))
        replace_file(f"{folder}/owner.json", text)
    os.makedirs(store.find_sandbox_dir(root, "used"))
    assert collect_folders(root, dry_run=True) == [f"copy {find_folder('left')}"]
    assert os.path.isdir(find_folder("left"))
    assert collect_folders(root, dry_run=False) == [f"copy {find_folder('left')}"]
    assert sorted(os.listdir(tmp_path / "copies")) == ["made", "other", "used"]
