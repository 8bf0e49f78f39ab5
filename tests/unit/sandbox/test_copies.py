"""Copies of volumes in a guest without shared files: what is sent, for whom it stays, and what follows."""

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from kata.errors import UnsupportedError
from kata.observe.log import Log
from kata.protocol.messages import agent as wire
from kata.protocol.messages import files, oci
from kata.protocol.messages.types import Empty
from kata.protocol.protobuf import Message
from kata.sandbox.copiedfile import MOST_BYTES, CopiedFile, open_file
from kata.sandbox.copies import Copies
from kata.sandbox.guest import SERVICE, Guest
from kata.sandbox.translation import Shared, Translation
from kata.sys.dnotify import SIGNAL
from kata.transport.ttrpc import Method, ServerConnection
from peer import open_guest

_SHARE = "/run/kata-containers/shared/containers"


class Receiver:
    """Keeps what is copied and removed, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []
        self.heard = asyncio.Event()

    def note(self, path: str, data: bytes) -> Empty:
        self.calls.append((path.removeprefix(f"{_SHARE}/"), data))
        self.heard.set()
        return Empty()

    async def copy(self, request: wire.CopyFileRequest) -> Message:
        return self.note(request.path, b"" if stat.S_ISDIR(request.file_mode) else bytes(request.data))

    async def rewrite(self, request: files.RewriteRequest) -> Message:
        return self.note(request.path, b"again: " + bytes(request.data))

    async def remove(self, request: files.RemoveRequest) -> Message:
        return self.note(request.path, b"removed")

    async def wait_for(self, call: tuple[str, bytes]) -> None:
        async with asyncio.timeout(10):
            while call not in self.calls:
                self.heard.clear()
                await self.heard.wait()


@pytest.fixture
async def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def guest(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> AsyncIterator[Guest]:
    path = str(tmp_path_factory.mktemp("agent") / "sock")
    services = {
        SERVICE: {"CopyFile": Method(wire.CopyFileRequest, receiver.copy)},
        files.SERVICE: {
            "Remove": Method(files.RemoveRequest, receiver.remove),
            "Rewrite": Method(files.RewriteRequest, receiver.rewrite),
        },
    }
    server = await asyncio.get_running_loop().create_unix_server(lambda: ServerConnection(services), path)
    guest = await open_guest(path)
    yield guest
    guest.client.close()
    server.close()


def look(visit: Callable[[], Any], *, local: bool) -> Any:
    return visit()


def make_translation(*shared: Shared) -> Translation:
    mounts = [oci.Mount(destination=f"/{one.name}", source=f"{_SHARE}/{one.name}") for one in shared]
    return Translation(oci.Spec(Mounts=mounts), shared, (), sandbox_pidns=False)


async def test_what_two_containers_have_in_the_same_way_is_copied_once_and_goes_with_the_last(
    tmp_path: Path, guest: Guest, receiver: Receiver
) -> None:
    (tmp_path / "file").write_text("text")
    copies = Copies(guest, Log("test", "test"))
    translation = make_translation(Shared(str(tmp_path / "file"), "name-file", readonly=False))
    for container in ("one", "two"):
        await copies.put(translation, container, look)
    assert receiver.calls == [("name-file", b"text")]
    await copies.remove("one")
    assert len(receiver.calls) == 1
    await copies.remove("two")
    assert receiver.calls[1:] == [("name-file", b"removed")]
    copies.close()


async def test_a_big_file_goes_in_pieces(tmp_path: Path, guest: Guest, receiver: Receiver) -> None:
    (tmp_path / "file").write_bytes(b"a" * (1 << 20) + b"b")
    await Copies(guest, Log("test", "test")).put(
        make_translation(Shared(str(tmp_path / "file"), "name", readonly=True)), "one", look
    )
    assert [len(data) for _, data in receiver.calls] == [1 << 20, 1]


async def test_a_directory_follows_what_comes_and_goes_links_last(
    tmp_path: Path, guest: Guest, receiver: Receiver
) -> None:
    (tmp_path / "a-link").symlink_to("b-file")
    (tmp_path / "b-file").write_text("text")
    copies = Copies(guest, Log("test", "test"))
    await copies.put(make_translation(Shared(str(tmp_path), "name", readonly=True)), "one", look)
    assert receiver.calls == [("name", b""), ("name/b-file", b"text"), ("name/a-link", b"b-file")]
    (tmp_path / "new").mkdir()
    await receiver.wait_for(("name/new", b""))
    (tmp_path / "new/file").write_text("deep")
    (tmp_path / "b-file").unlink()
    await receiver.wait_for(("name/b-file", b"removed"))
    await receiver.wait_for(("name/new/file", b"deep"))
    copies.close()


async def test_a_single_file_follows_what_is_written_to_it_and_not_what_takes_its_name(
    tmp_path: Path, guest: Guest, receiver: Receiver
) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("one")
    other.write_text("other")
    copies = Copies(guest, Log("test", "test"))
    await copies.put(make_translation(Shared(str(file), "name", readonly=False)), "one", look)
    file.write_text("two")
    await receiver.wait_for(("name", b"again: two"))
    with file.open("a") as same:
        other.rename(file)
        same.write(" three")
    await receiver.wait_for(("name", b"again: two three"))
    assert receiver.calls == [("name", b"one"), ("name", b"again: two"), ("name", b"again: two three")]
    copies.close()


async def test_a_single_file_that_became_too_big_is_told_of_once_and_followed_on(tmp_path: Path) -> None:
    asyncio.get_running_loop().add_signal_handler(SIGNAL, lambda: None)
    (tmp_path / "file").write_text("one")
    file = CopiedFile(open_file(str(tmp_path / "file")))
    (tmp_path / "file").write_bytes(bytes(MOST_BYTES + 1))
    with pytest.raises(OSError, match="more than 1 MiB"):
        file.read_news()
    assert file.read_news() is None
    (tmp_path / "file").write_text("small")
    assert file.read_news() == b"small"
    file.close()


async def test_an_empty_dir_is_the_guests_own_and_another_directory_to_write_to_is_refused(
    tmp_path: Path, guest: Guest, receiver: Receiver
) -> None:
    scratch = tmp_path / "kubernetes.io~empty-dir/cache"
    scratch.mkdir(parents=True)
    copies = Copies(guest, Log("test", "test"))
    changed = await copies.put(make_translation(Shared(str(scratch), "name", readonly=False)), "one", look)
    [storage] = changed.storages
    assert (storage.driver, changed.spec.Mounts[0].source) == ("local", storage.mount_point)
    with pytest.raises(UnsupportedError, match="shares no files"):
        await copies.put(make_translation(Shared(str(tmp_path), "other", readonly=False)), "one", look)
    assert not receiver.calls
