"""VMMs that limit what disks and network cards move by themselves, in the lab: never more than the limit."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from hypervisor.conftest import open_driver
from hypervisor.machine import Running, boot, let_go, listen_at_tap, name_tap
from hypervisor.test_conformance import find_disk
from kata.config.artifacts import Artifacts
from kata.hypervisor.driver import Hypervisor
from kata.hypervisor.spec import BlockDevice

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
    pytest.mark.parametrize("flavour", ["clh", "firecracker"], scope="module"),
]
_MIB = 1 << 20
_PACKETS_A_SECOND = 20
_PACKET = 1042
"""Bytes of a packet with 1000, and the headers of UDP, IPv4 and Ethernet."""

_PORT = 9


@pytest.fixture(scope="module")
def driver(flavour: str, tmp_path_factory: pytest.TempPathFactory) -> Hypervisor:
    return open_driver(
        flavour,
        str(tmp_path_factory.mktemp("state")),
        disk_rate_limiter_bw_max_rate=8 * _MIB,
        net_rate_limiter_bw_max_rate=8 * _PACKETS_A_SECOND * _PACKET,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited(
    driver: Hypervisor, artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    async with boot(driver, artifacts, tmp_path_factory.mktemp("vm") / f"{driver.name}-limited", full=True) as running:
        yield running
        await let_go(running)


async def time_reading(running: Running, node: str) -> float:
    """Return the seconds that the guest takes to read 5 MiB of a disk, past its cache."""
    began = time.monotonic()
    await running.shell.run(f"busybox dd if={node} of=/dev/null bs=64k count=80 iflag=direct")
    return time.monotonic() - began


async def test_a_disk_is_no_faster_than_its_limit_and_the_image_has_none(limited: Running, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 * _MIB))
    address = await limited.vm.plug_block(BlockDevice("slow", str(disk)))
    found = await limited.shell.run_until(find_disk(address), lambda text: "/block/" in text)
    slow = await time_reading(limited, f"/dev/{found.rpartition('/')[2]}")
    quick = await time_reading(limited, "/dev/vda")
    await limited.vm.unplug("slow", timeout=60)
    # A second's worth may come at once, the other four MiB in a second each; Firecracker was seen to need 3.2 for them.
    assert slow > 2.5
    assert quick < slow


async def test_a_card_sends_no_more_than_its_limit(limited: Running) -> None:
    setup = (
        "ip link set eth0 up; ip addr add 10.9.9.1/24 dev eth0; ip neigh add 10.9.9.2 lladdr 02:00:00:00:00:99 dev eth0"
    )
    loop = asyncio.get_running_loop()
    times: list[float] = []
    with listen_at_tap(name_tap(Path(limited.spec.directory))) as listener:
        await limited.shell.run(setup)
        packet = f"printf '%01000d' $i > /dev/udp/10.9.9.2/{_PORT}"
        sending = asyncio.create_task(limited.shell.run(f"for i in $(busybox seq 110); do {packet}; done"))
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                while len(times) < 100:
                    frame = await loop.sock_recv(listener, 2048)
                    # The destination's port, after Ethernet's 14 bytes, IPv4's 20, and 2 of UDP.
                    if frame[23:24] == b"\x11" and frame[36:38] == _PORT.to_bytes(2):
                        times.append(time.monotonic())
        assert len(times) == 100
        await sending
    # A second's worth may come at once, and the other four seconds' not in much less.
    assert times[-1] - times[0] > 2.5
