"""What storage drivers say of direct-assigned volumes."""

import json
from pathlib import Path

import pytest

from kata.errors import ExistsError, KataError, NotFoundError, UnsupportedError, UsageError
from kata.storage.directvolume import (
    MountInfo,
    add_volume,
    forget_sandbox,
    list_sandboxes,
    note_sandbox,
    parse_mount_info,
    read_mount_info,
    remove_volume,
)

_INFO = {"volume-type": "block", "device": "/dev/vg/one", "fstype": "ext4", "options": ["ro"], "metadata": {"k": "v"}}


def test_what_upstreams_command_writes_is_at_upstreams_place(tmp_path: Path) -> None:
    add_volume("/var/lib/kubelet/pods/1/v", json.dumps(_INFO), str(tmp_path))
    # base64 of the path: `printf %s /var/lib/kubelet/pods/1/v | base64`
    file = tmp_path / "L3Zhci9saWIva3ViZWxldC9wb2RzLzEvdg==" / "mountInfo.json"
    assert json.loads(file.read_text()) == _INFO
    known = read_mount_info("/var/lib/kubelet/pods/1/v", str(tmp_path))
    assert known == MountInfo("/dev/vg/one", "ext4", ("ro",), {"k": "v"})
    with pytest.raises(ExistsError, match="direct-assigned already"):
        add_volume("/var/lib/kubelet/pods/1/v", json.dumps(_INFO), str(tmp_path))


def test_a_path_that_is_no_volume_has_no_information(tmp_path: Path) -> None:
    for path in ("/other", "relative", "/" + "long/" * 100):
        assert read_mount_info(path, str(tmp_path)) is None
    remove_volume("/other", str(tmp_path))


def test_the_sandboxes_of_a_volume_are_known_until_they_are_forgotten(tmp_path: Path) -> None:
    root = str(tmp_path)
    with pytest.raises(NotFoundError, match="no direct-assigned volume"):
        list_sandboxes("/v", root)
    add_volume("/v", json.dumps(_INFO), root)
    note_sandbox("/v", "one+k8s.io", root)
    note_sandbox("/v", "two", root)
    assert list_sandboxes("/v", root) == ["one+k8s.io", "two"]
    forget_sandbox("/v", "two", root)
    forget_sandbox("/v", "two", root)
    assert list_sandboxes("/v", root) == ["one+k8s.io"]
    remove_volume("/v", root)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "kind", "why"),
    [
        ({"volume-type": "spdkvol"}, UnsupportedError, "is of type 'spdkvol'"),
        ({"device": "relative"}, UsageError, "an absolute `device`"),
        ({"device": 5}, UsageError, "the `device` of volume /v is no text"),
        ({"fstype": ""}, UsageError, "`fstype`"),
        ({"options": "ro"}, UsageError, "no list of texts"),
        ({"options": [1]}, UsageError, "no list of texts"),
        ({"metadata": {"fsGroup": 1}}, UsageError, "no object of texts"),
    ],
)
def test_malformed_information_says_what_is_wrong(change: dict[str, object], kind: type[KataError], why: str) -> None:
    with pytest.raises(kind, match=why):
        parse_mount_info(json.dumps(_INFO | change), "/v")


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="volume /v is n"):
        parse_mount_info(text, "/v")
