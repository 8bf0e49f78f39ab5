"""Storages that several containers ask for at once."""

import asyncio
from pathlib import Path

from kata.agent.reaper import Reaper
from kata.agent.storage import Storages
from kata.agent.uevent import Uevents
from kata.errors import DeadlineError, HostError
from kata.protocol.messages.agent import Storage


async def test_a_container_does_not_go_on_without_what_another_waits_for(tmp_path: Path) -> None:
    uevents = Uevents()
    storages = Storages(str(tmp_path), uevents, Reaper(), timeout=0.2)
    absent = Storage(driver="blk", source="/dev/absent", fstype="ext4", mount_point=str(tmp_path / "volume"))
    adding = (storages.add([absent], container) for container in ("one", "two"))
    first, second = await asyncio.gather(*adding, return_exceptions=True)
    uevents.close()
    assert isinstance(first, DeadlineError)
    assert isinstance(second, HostError)
    assert "could not be mounted for another container" in second.message
    assert not (tmp_path / "volume").exists()
