"""Versions of a volume on their way to a guest: an agent of the test's makes its copy of them."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kata.errors import UnsupportedError
from kata.observe.log import Log
from kata.protocol.messages.types import Empty
from kata.protocol.messages.volumes import SERVICE, Version
from kata.sandbox.guest import Guest
from kata.sandbox.publisher import Place, Publisher
from kata.sys.filetree import Entry, publish_entries
from kata.transport.ttrpc import Method, ServerConnection, connect_unix

_PATIENCE = 20


class _Agent:
    """Keeps copies below `directory` at the paths that it is told of."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.published = asyncio.Event()
        self.calls = 0

    async def publish(self, version: Version) -> Empty:
        copy = self.directory / version.mount_point
        copy.mkdir(exist_ok=True)
        files = [Entry(file.path, file.mode, file.uid, file.gid, bytes(file.data)) for file in version.files]
        publish_entries(str(copy), files)
        self.calls += 1
        self.published.set()
        return Empty()

    async def refuse(self, _: Version) -> Empty:
        self.calls += 1
        self.published.set()
        raise UnsupportedError("there is no such method")

    async def wait(self) -> None:
        async with asyncio.timeout(_PATIENCE):
            await self.published.wait()
        self.published.clear()


@asynccontextmanager
async def _publisher(directory: Path, agent: _Agent, *, able: bool = True) -> AsyncIterator[Publisher]:
    services = {SERVICE: {"Publish": Method(Version, agent.publish if able else agent.refuse)}}
    path = str(directory / "agent.sock")
    server = await asyncio.get_running_loop().create_unix_server(lambda: ServerConnection(services), path)
    client = await connect_unix(path, "the agent", timeout=5)
    publisher = Publisher(Guest(client), Log("s", "test"))
    try:
        yield publisher
    finally:
        publisher.close()
        client.close()
        server.close()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def _change(volume: Path, version: str) -> None:
    folder = volume / f"..{version}"
    folder.mkdir()
    (folder / "key").write_text(version)
    (volume / "..data_tmp").symlink_to(folder.name)
    (volume / "..data_tmp").rename(volume / "..data")


async def test_a_volume_is_published_at_once_and_whenever_it_changes(tmp_path: Path, volume: Path) -> None:
    agent = _Agent(tmp_path)
    _change(volume, "one")
    async with _publisher(tmp_path, agent) as publisher:
        publisher.follow("c", [Place(str(volume), "copy")])
        await agent.wait()
        assert (tmp_path / "copy/..data/key").read_text() == "one"
        _change(volume, "two")
        await agent.wait()
        while (tmp_path / "copy/..data/key").read_text() != "two":
            await agent.wait()


async def test_a_volume_of_a_container_that_is_gone_is_followed_no_more(tmp_path: Path, volume: Path) -> None:
    agent = _Agent(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    async with _publisher(tmp_path, agent) as publisher:
        opened = set(os.listdir("/proc/self/fd"))
        publisher.follow("c", [Place(str(volume), "copy")])
        await agent.wait()
        publisher.forget("c")
        assert set(os.listdir("/proc/self/fd")) <= opened | before


async def test_an_agent_that_has_no_copies_is_asked_once(tmp_path: Path, volume: Path) -> None:
    agent = _Agent(tmp_path)
    (tmp_path / "other").mkdir()
    async with _publisher(tmp_path, agent, able=False) as publisher:
        publisher.follow("c", [Place(str(volume), "copy"), Place(str(tmp_path / "other"), "other")])
        await agent.wait()
        assert publisher._task is not None
        await publisher._task
        assert (agent.calls, publisher._volumes) == (1, {})


async def test_a_volume_that_grew_beyond_a_message_keeps_its_version_and_others_go_on(
    tmp_path: Path, volume: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    agent = _Agent(tmp_path)
    (tmp_path / "big").mkdir()
    with (tmp_path / "big/key").open("wb") as file:
        file.truncate(4 << 20)
    async with _publisher(tmp_path, agent) as publisher:
        publisher.follow("c", [Place(str(tmp_path / "big"), "big-copy"), Place(str(volume), "copy")])
        await agent.wait()
    assert not (tmp_path / "big-copy").exists()
    assert f"keeps an older version of {tmp_path}/big" in capfd.readouterr().err
