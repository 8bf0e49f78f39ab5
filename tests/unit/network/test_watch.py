"""Changes of a namespace are told, in a namespace of the test's own."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.network.watch import NamespaceWatch
from netns import enter_network_namespace, run_ip


@pytest.fixture
def watch() -> Iterator[NamespaceWatch]:
    """A watch in a namespace in which nothing changes by itself: its link is down."""
    with enter_network_namespace():
        run_ip("link", "add", "eth0", "type", "veth", "peer", "name", "peer")
        run_ip("link", "set", "lo", "up")
        watch = NamespaceWatch()
        yield watch
        watch.close()


@pytest.mark.parametrize(
    "change",
    [
        ("link", "add", "net1", "type", "veth"),
        ("link", "delete", "eth0"),
        ("addr", "add", "10.5.0.2/24", "dev", "lo"),
        ("-6", "addr", "add", "fd05::2/64", "dev", "lo", "nodad"),
        ("route", "add", "10.9.0.0/16", "dev", "lo"),
        ("-6", "route", "add", "fd09::/64", "dev", "lo"),
        ("rule", "add", "from", "10.5.0.2", "lookup", "100"),
        ("-6", "rule", "add", "from", "fd05::2", "lookup", "100"),
    ],
)
async def test_a_change_is_told(watch: NamespaceWatch, change: tuple[str, ...]) -> None:
    waiting = asyncio.create_task(watch.wait_change())
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    run_ip(*change)
    await asyncio.wait_for(waiting, 10)


async def test_so_many_changes_that_some_are_lost_are_told_too(watch: NamespaceWatch, tmp_path: Path) -> None:
    rows = [f"addr add 10.{row // 200}.{row % 200}.1/32 dev eth0\n" for row in range(500)]
    (tmp_path / "batch").write_text("".join(rows))
    run_ip("-batch", str(tmp_path / "batch"))

    await asyncio.wait_for(watch.wait_change(), 10)


async def test_what_was_forgotten_is_not_told(watch: NamespaceWatch) -> None:
    run_ip("link", "delete", "eth0")
    watch.drain()
    waiting = asyncio.create_task(watch.wait_change())
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done
    waiting.cancel()


async def test_where_nothing_changes_the_wait_ends_in_time(watch: NamespaceWatch) -> None:
    await asyncio.wait_for(watch.wait_change(timeout=0.01), 10)
