"""A directory of the host whose mounts come and go while a guest has it."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from isolation import needs_root, run_with_own_mounts
from kata.storage.share import Share
from kata.sys import linux
from kata.sys.mount import clone_tree, list_mounts, unmount

pytestmark = needs_root

_TIMEOUT = 30.0


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "below").mkdir(parents=True)
    return folder


def _follow(
    source: Path, body: Callable[[Share, Path], Awaitable[None]], *, readonly: bool = False, before: bool = False
) -> None:
    """Run `body` with a share that follows `source`, and where that is in it, in a namespace of its own.

    `before` has a file system mounted below it from the start.
    """

    async def run() -> None:
        share = Share(str(source.parent / "base"), "web")
        share.open()
        linux.mount(str(source), str(source), flags=linux.MS_BIND)
        linux.mount("none", str(source), flags=linux.MS_PRIVATE)
        linux.mount("none", str(source), flags=linux.MS_SHARED)
        if before:
            _mount(source / "below", "before")
        tree = clone_tree(str(source))
        share.follow(tree, "volume", readonly=readonly)
        os.close(tree)
        try:
            await body(share, Path(share.export, "volume"))
        finally:
            share.release()
        assert list_mounts(str(source.parent / "base")) == []
        assert os.listdir(source.parent / "base") == []

    run_with_own_mounts(lambda: asyncio.run(run()))


def _mount(place: Path, name: str) -> None:
    """Mount a file system there with a file of this name in it."""
    linux.mount("tmpfs", str(place), "tmpfs")
    (place / name).touch()


async def _wait_for(folder: Path, names: list[str]) -> None:
    """Wait until a directory holds these names, letting the event loop see the mounts that changed."""
    async with asyncio.timeout(_TIMEOUT):
        while sorted(os.listdir(folder)) != names:  # noqa: ASYNC110 - the share tells nobody; its loop must turn
            await asyncio.sleep(0)


def test_a_mount_made_later_is_shown_and_goes_when_it_is_unmounted(source: Path) -> None:
    async def body(_: Share, shown: Path) -> None:
        _mount(source / "below", "new")
        await _wait_for(shown / "below", ["new"])
        unmount(str(source / "below"))
        await _wait_for(shown / "below", [])

    _follow(source, body)


def test_what_was_mounted_before_goes_when_it_is_unmounted(source: Path) -> None:
    async def body(_: Share, shown: Path) -> None:
        assert os.listdir(shown / "below") == ["before"]
        unmount(str(source / "below"))
        await _wait_for(shown / "below", [])

    _follow(source, body, before=True)


def test_a_mount_below_one_that_came_is_shown_too(source: Path) -> None:
    async def body(_: Share, shown: Path) -> None:
        _mount(source / "below", "new")
        (source / "below/deeper").mkdir()
        _mount(source / "below/deeper", "newest")
        await _wait_for(shown / "below", ["deeper", "new"])
        await _wait_for(shown / "below/deeper", ["newest"])
        unmount(str(source / "below/deeper"))
        await _wait_for(shown / "below/deeper", [])

    _follow(source, body)


def test_the_host_can_unmount_what_a_guest_has_open(source: Path) -> None:
    async def body(_: Share, shown: Path) -> None:
        _mount(source / "below", "new")
        await _wait_for(shown / "below", ["new"])
        held = os.open(shown / "below/new", os.O_PATH)
        unmount(str(source / "below"))
        await _wait_for(shown / "below", [])
        os.close(held)

    _follow(source, body)


def test_a_mount_that_comes_is_read_only_where_the_volume_is(source: Path) -> None:
    async def body(_: Share, shown: Path) -> None:
        _mount(source / "below", "new")
        await _wait_for(shown / "below", ["new"])
        with pytest.raises(OSError, match="Read-only file system"):
            (shown / "below/mine").touch()

    _follow(source, body, readonly=True)


def test_a_link_that_a_guest_put_in_the_way_is_not_followed(source: Path) -> None:
    async def body(share: Share, shown: Path) -> None:
        outside = source.parent / "outside"
        outside.mkdir()
        (source / "real").mkdir()
        os.rename(Path(share.mounts, "volume/below"), Path(share.mounts, "volume/was"))
        os.symlink(outside, Path(share.mounts, "volume/below"))
        (source / "other").mkdir()
        _mount(source / "below", "elsewhere")
        _mount(source / "other", "new")
        await _wait_for(shown / "other", ["new"])
        assert os.listdir(outside) == ["elsewhere"]
        assert [point.path for point in list_mounts(f"{share.mounts}/volume")][1:] == [f"{share.mounts}/volume/other"]

    _follow(source, body)


def test_nothing_is_shown_of_a_volume_that_was_taken_away(source: Path) -> None:
    async def body(share: Share, shown: Path) -> None:
        _mount(source / "below", "new")
        await _wait_for(shown / "below", ["new"])
        share.unbind("volume")
        assert not shown.exists()
        assert list_mounts(f"{share.directory}/watched") == []
        unmount(str(source / "below"))

    _follow(source, body)
