import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from isolation import needs_root, run_with_own_mounts
from kata.errors import ExistsError, HostError, NotFoundError, UsageError
from kata.storage.share import Share, remove_mount_points
from kata.sys import linux
from kata.sys.mount import clone_tree, list_mounts

pytestmark = needs_root


def with_share(folder: Path, body: Callable[[Share], None]) -> None:
    """Run `body` with an open share in a namespace of its own, then check that nothing is left."""

    def run() -> None:
        share = Share(str(folder / "base"), "web")
        share.open()
        try:
            body(share)
        finally:
            share.release()
        assert list_mounts(str(folder / "base")) == []
        assert os.listdir(folder / "base") == []

    run_with_own_mounts(run)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "file").write_text("content")
    return folder


def test_what_is_bound_is_exported_and_what_is_unbound_is_gone(tmp_path: Path, source: Path) -> None:
    def body(share: Share) -> None:
        share.bind(str(source), "c1/rootfs")
        exported = Path(share.export, "c1/rootfs/file")
        assert exported.read_text() == "content"
        share.unbind("c1/rootfs")
        assert not exported.exists()
        assert os.listdir(share.mounts) == []

    with_share(tmp_path, body)
    assert (source / "file").read_text() == "content"


def test_a_bind_made_later_reaches_a_namespace_that_was_copied_earlier(tmp_path: Path, source: Path) -> None:
    def body(share: Share) -> None:
        # What virtiofsd does: a namespace of its own, all of it a slave, the export bound onto itself.
        script = 'mount --rbind "$1" "$1" && echo ready && read _ && cat "$1/c1/rootfs/file" && read _ && ls "$1"'
        argv = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh", share.export]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            share.bind(str(source), "c1/rootfs")
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.read(7) == "content"
            share.unbind("c1/rootfs")
            assert process.communicate("\n")[0] == ""

    with_share(tmp_path, body)


def test_the_directories_between_are_read_only_on_the_exported_side(tmp_path: Path, source: Path) -> None:
    def body(share: Share) -> None:
        share.bind(str(source), "c1/rootfs")
        with pytest.raises(OSError, match="Read-only file system"):
            Path(share.export, "c1/evil").symlink_to("/etc")
        Path(share.export, "c1/rootfs/written").write_text("by the guest")
        assert (source / "written").read_text() == "by the guest"

    with_share(tmp_path, body)


def test_read_only_reaches_the_mounts_below_too(tmp_path: Path, source: Path) -> None:
    def body(share: Share) -> None:
        (source / "below").mkdir()
        linux.mount("tmpfs", str(source / "below"), "tmpfs")
        share.bind(str(source), "volume", readonly=True)
        for path in ("volume/file", "volume/below/file"):
            with pytest.raises(OSError, match="Read-only file system"):
                Path(share.export, path).write_text("x")
        (source / "below/file").write_text("the host may")

    with_share(tmp_path, body)


def test_what_is_mounted_below_a_volume_stays_writable_when_only_the_volume_is_to_be_read_only(
    tmp_path: Path, source: Path
) -> None:
    def body(share: Share) -> None:
        (source / "below").mkdir()
        linux.mount("tmpfs", str(source / "below"), "tmpfs")
        tree = clone_tree(str(source))
        share.attach(tree, "volume", readonly=True, top_only=True)
        os.close(tree)
        Path(share.export, "volume/below/file").write_text("x")
        with pytest.raises(OSError, match="Read-only file system"):
            Path(share.export, "volume/file").write_text("x")

    with_share(tmp_path, body)


def test_a_mount_made_below_the_source_later_is_not_shown(tmp_path: Path, source: Path) -> None:
    def body(share: Share) -> None:
        (source / "below").mkdir()
        linux.mount(str(source), str(source), flags=linux.MS_BIND)
        linux.mount("none", str(source), flags=linux.MS_SHARED)
        share.bind(str(source), "still")
        linux.mount("tmpfs", str(source / "below"), "tmpfs")
        (source / "below/new").touch()
        assert os.listdir(f"{share.export}/still/below") == []

    with_share(tmp_path, body)


def test_a_single_file_can_be_shared(tmp_path: Path, source: Path) -> None:
    def body(share: Share) -> None:
        share.bind(str(source / "file"), "c1-0123-hosts", readonly=True)
        assert Path(share.export, "c1-0123-hosts").read_text() == "content"

    with_share(tmp_path, body)
    assert (source / "file").read_text() == "content"


@pytest.mark.parametrize("name", ["", "/etc", "..", "a/../b", "a//b", "a/", "./a", "a\0b"])
def test_a_name_that_leaves_the_share_is_refused(tmp_path: Path, source: Path, name: str) -> None:
    def body(share: Share) -> None:
        with pytest.raises(UsageError, match="is no name in a share"):
            share.bind(str(source), name)

    with_share(tmp_path, body)


def test_nothing_is_shared_inside_of_what_the_guest_can_change(tmp_path: Path, source: Path) -> None:
    def body(share: Share) -> None:
        share.bind(str(source), "c1/rootfs")
        for name in ("c1/rootfs/inside", "c1"):
            with pytest.raises(UsageError, match="inside or around c1/rootfs"):
                share.bind(str(source), name)
        with pytest.raises(ExistsError):
            share.bind(str(source), "c1/rootfs")
        share.bind(str(source), "c1/rootfs2")

    with_share(tmp_path, body)


def test_a_source_that_is_not_there_leaves_no_trace(tmp_path: Path) -> None:
    def body(share: Share) -> None:
        with pytest.raises(NotFoundError, match="/none cannot be shared as c1/rootfs"):
            share.bind(f"{tmp_path}/none", "c1/rootfs")
        with pytest.raises(NotFoundError, match="c1/rootfs is not in the share"):
            share.unbind("c1/rootfs")
        assert os.listdir(share.mounts) == []

    with_share(tmp_path, body)


def test_releasing_never_deletes_data(tmp_path: Path, source: Path) -> None:
    def body() -> None:
        share = Share(str(tmp_path / "base"), "web")
        share.open()
        share.bind(str(source), "c1/rootfs")
        Path(share.make_directory("c2"), "kept").write_text("data")
        share.release()
        share.release()
        assert Path(share.mounts, "c2/kept").read_text() == "data"
        assert not Path(share.mounts, "c1").exists()

    run_with_own_mounts(body)
    assert (source / "file").read_text() == "content"


def test_nothing_is_removed_under_a_mount(tmp_path: Path, source: Path) -> None:
    def body() -> None:
        share = Share(str(tmp_path / "base"), "web")
        share.open()
        share.bind(str(source), "c1")
        with pytest.raises(HostError, match="still has mounts"):
            remove_mount_points(share.directory)
        share.release()

    run_with_own_mounts(body)


def test_a_bind_of_several_owners_goes_with_the_last_of_them(tmp_path: Path, source: Path) -> None:
    def body(share: Share) -> None:
        tree = clone_tree(str(source))
        share.attach(tree, "volume", owner="a")
        os.close(tree)
        assert share.hold("volume", "b")
        assert share.hold("volume", "b")
        assert not share.hold("other", "b")
        share.unbind("volume", "a")
        with pytest.raises(NotFoundError):
            share.unbind("volume", "a")
        assert os.listdir(f"{share.export}/volume")
        share.unbind("volume", "b")
        assert not os.path.exists(f"{share.export}/volume")

    with_share(tmp_path, body)


def test_a_user_with_open_files_does_not_hold_up_an_unbind(tmp_path: Path, source: Path) -> None:
    def body(share: Share) -> None:
        share.bind(str(source), "c1")
        with open(f"{share.export}/c1/file", encoding="ascii") as file:
            share.unbind("c1")
            assert file.read() == "content"

    with_share(tmp_path, body)
