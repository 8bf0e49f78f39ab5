"""Roots of several mounts that refer to each other, as containerd's mount manager describes them."""

from pathlib import Path

import pytest

from kata.errors import UnsupportedError
from kata.protocol.messages.task import Mount
from kata.sandbox.diskroot import DiskRoot, Layer
from kata.shim.layers import find_references, fit_last, is_layered
from kata.shim.rootfs import find_disk_root

_EROFS = [Mount(type="erofs", source=f"/layers/{number}", options=["ro", "loop"]) for number in range(2)]
_EXT4 = Mount(type="ext4", source="/rw.img", options=["rw", "loop"])
_LAYERS = tuple(Layer(f"/layers/{number}", "erofs", ("ro",), readonly=True) for number in range(2))


def _make_overlay(*options: str) -> Mount:
    return Mount(type="format/mkdir/overlay", source="overlay", options=list(options))


def test_ranges_count_up_and_down() -> None:
    assert find_references("lowerdir={{ overlay 1 3 }}") == [1, 2, 3]
    assert find_references("{{overlay 3 2}}:{{ mount 0 }}/x") == [3, 2, 0]
    assert find_references("lowerdir=/a:/b") == []


def test_the_last_mount_is_made_fit_to_the_places_of_the_others(tmp_path: Path) -> None:
    made = "X-containerd.mkdir.path={{ mount 0 }}/upper:0755"
    last = _make_overlay(made, "upperdir={{ mount 0 }}/upper", "lowerdir={{ overlay 1 2 }}", "index=off")
    fitted = fit_last([_EXT4, *_EROFS, last], [str(tmp_path), "/b", "/c"])
    assert (fitted.type, fitted.source) == ("overlay", "overlay")
    assert fitted.options == [f"upperdir={tmp_path}/upper", "lowerdir=/b:/c", "index=off"]
    assert (tmp_path / "upper").is_dir()


@pytest.mark.parametrize("kind", ["mkfs/overlay", "format/mkdir/overlay"])
def test_what_is_not_known_is_refused(kind: str) -> None:
    last = Mount(type=kind, options=["lowerdir={{ mount 7 }}"])
    with pytest.raises(UnsupportedError, match=kind):
        fit_last([*_EROFS, last], ["/a", "/b"])


def test_layers_that_are_files_are_disks_of_the_guest() -> None:
    readonly = [*_EROFS, _make_overlay("lowerdir={{ overlay 0 1 }}", "ro")]
    assert is_layered(readonly)
    assert find_disk_root(readonly) == DiskRoot(_LAYERS, overlay=True, readonly=True)
    writable = [_EXT4, *_EROFS, _make_overlay("upperdir={{ mount 0 }}/upper", "lowerdir={{ overlay 1 2 }}")]
    upper = Layer("/rw.img", "ext4", ("rw",))
    assert find_disk_root(writable) == DiskRoot(_LAYERS, overlay=True, upper=upper)
    single = [_EROFS[0], Mount(type="format/bind", source="{{ mount 0 }}", options=["ro", "rbind"])]
    assert find_disk_root(single) == DiskRoot(_LAYERS[:1], readonly=True)


def test_layers_below_a_directory_of_the_host_are_disks_for_a_guest_that_shares_no_files() -> None:
    root = find_disk_root([*_EROFS, _make_overlay("upperdir=/host/upper", "lowerdir={{ overlay 0 1 }}")])
    assert root == DiskRoot(_LAYERS, overlay=True, directory="/host/upper")
    assert root is not None
    assert root.count_disks() == 0  # in a VM that shares files they are mounted on the host


@pytest.mark.parametrize(
    "mounts",
    [
        [],
        [Mount(type="overlay", source="overlay", options=["lowerdir=/a:/b"])],
        [*_EROFS, _make_overlay("upperdir={{ mount 7 }}/upper", "lowerdir={{ overlay 0 1 }}")],
        [*_EROFS, _make_overlay("lowerdir={{ overlay 0 5 }}")],
        [Mount(type="bind", source="/a"), _make_overlay("lowerdir={{ mount 0 }}")],
        [*_EROFS],
    ],
)
def test_what_needs_the_hosts_directories_is_mounted_there(mounts: list[Mount]) -> None:
    assert find_disk_root(mounts) is None
