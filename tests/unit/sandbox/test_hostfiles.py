"""Where the host's files are looked up: in the engine's mounts, but for what the daemon mounted itself."""

import os
import subprocess
from pathlib import Path

import pytest

from isolation import needs_root, run_with_own_mounts
from kata.errors import NotFoundError
from kata.sandbox.hostfiles import HostFiles
from kata.sandbox.translation import Shared
from kata.storage.share import Share
from kata.sys import linux
from kata.sys.mount import visit_namespace
from kata.sys.namespace import enter_private_mount_namespace

pytestmark = needs_root


def _leave_engine() -> int:
    """Go on in a mount namespace of our own, and return a descriptor of the one before, the engine's."""
    engine = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    enter_private_mount_namespace()
    return engine


def _mount(path: Path, content: str) -> None:
    linux.mount("none", str(path), "tmpfs")
    (path / "file").write_text(content)


def test_a_volume_is_shared_as_the_engine_mounted_it_later_and_a_local_directory_as_the_daemon_did(
    tmp_path: Path,
) -> None:
    for name in ("volume", "local"):
        (tmp_path / name).mkdir()

    def body() -> None:
        engine = _leave_engine()
        visit_namespace(engine, lambda: _mount(tmp_path / "volume", "the engine's"))
        _mount(tmp_path / "local", "the daemon's")
        share = Share(str(tmp_path), "share")
        share.open()
        wanted = [
            Shared(str(tmp_path / name), name, readonly=False, local=name == "local") for name in ("volume", "local")
        ]
        HostFiles(engine).put_into(share, wanted, os.getpid())

        assert Path(share.mounts, "volume/file").read_text() == "the engine's"
        assert Path(share.mounts, "local/file").read_text() == "the daemon's"

    run_with_own_mounts(body)


def test_a_source_that_the_engine_does_not_have_is_named(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()

    def body() -> None:
        engine = _leave_engine()
        linux.mount("none", str(tmp_path / "volume"), "tmpfs")
        (tmp_path / "volume/only-here").touch()
        share = Share(str(tmp_path), "share")
        share.open()
        wanted = [Shared(str(tmp_path / "volume/only-here"), "volume", readonly=False)]
        with pytest.raises(NotFoundError, match="volume/only-here cannot be shared"):
            HostFiles(engine).put_into(share, wanted, os.getpid())

    run_with_own_mounts(body)


def test_the_mounts_of_a_stand_in_are_told_though_it_shows_another_proc() -> None:
    argv = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /proc && echo ready && read end"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stand_in:
        assert stand_in.stdout is not None
        assert stand_in.stdout.readline() == b"ready\n"
        found = HostFiles().list_mounts(stand_in.pid)
        stand_in.communicate(b"\n", timeout=10)
    assert ("/proc", "tmpfs") in {(point.path, point.fstype) for point in found}
