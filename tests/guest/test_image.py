"""The artefacts that `kata-image` builds: the same bytes every time, and every pair of kernel and root boots."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from kata.errors import KataError
from kata.image.artefact import find_artefacts, verify
from kata.protocol.messages import health
from kata.transport.ttrpc import Client, connect_unix

pytestmark = pytest.mark.timeout(300)

_TREE = Path(__file__).parents[2]
_ARTEFACTS = Path(os.environ.get("KATA_ARTEFACTS", "/usr/local/share/kata-containers"))
_BOOT_TIMEOUT = 150.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A kernel and a root that belong together."""

    kernel: str
    root: str

    @property
    def is_initrd(self) -> bool:
        return "initrd" in self.root


_PAIRS = (
    Pair("vmlinux.container", "kata-containers.img"),
    Pair("vmlinux.container", "kata-containers-initrd.img"),
    Pair("vmlinuz-debian.container", "kata-containers-initrd-debian.img"),
)


def _run_builder(*arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(_TREE / "src")}
    subprocess.run([sys.executable, "-m", "kata.image.main", *arguments], check=True, env=environment, timeout=250)


def test_images_built_twice_from_nothing_are_the_same_bytes(tmp_path: Path) -> None:
    if shutil.which("mkfs.erofs") is None:
        pytest.skip("LOUD: mkfs.erofs is not installed (apt-get install erofs-utils)")
    for name in ("one", "two"):
        _run_builder("rootfs", "--output", str(tmp_path / name), "--cache", str(tmp_path / f"cache-{name}"))

    first, second = (find_artefacts(tmp_path / name) for name in ("one", "two"))

    assert {path.name: made for path, made in first.items()} == {path.name: made for path, made in second.items()}
    for path, made in first.items():
        verify(path, made)


def _make_arguments(pair: Pair, directory: Path) -> list[str]:
    image = str(_ARTEFACTS / pair.root)
    if pair.is_initrd:
        devices, root = ["-initrd", image], "rdinit=/usr/sbin/kata-agent"
    else:
        devices = [
            "-drive",
            f"file={image},format=raw,if=none,id=root,readonly=on",
            "-device",
            "virtio-blk-pci,drive=root",
        ]
        root = "root=/dev/vda rootfstype=erofs ro init=/usr/sbin/kata-agent"
    return [
        *("qemu-system-x86_64", "-accel", "tcg", "-M", "q35", "-cpu", "max", "-m", "512"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-serial", f"file:{directory}/console.log", "-kernel", str(_ARTEFACTS / pair.kernel)),
        *("-append", f"console=ttyS0 quiet panic=-1 reboot=k {root} agent.server_addr=vport://1024"),
        *devices,
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=agent,path={directory}/agent.sock,server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=kata.vport.1024"),
    ]


def _start(argv: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(argv)


async def _connect(path: str, machine: "subprocess.Popen[bytes]") -> Client:
    deadline = time.monotonic() + _BOOT_TIMEOUT
    while True:
        try:
            return await connect_unix(path, "the agent", timeout=1)
        except KataError:
            if machine.poll() is not None or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("pair", _PAIRS, ids=lambda pair: f"{pair.kernel}+{pair.root}")
async def test_the_agent_answers_in_a_guest_of(pair: Pair, tmp_path: Path) -> None:
    missing = [name for name in (pair.kernel, pair.root) if not (_ARTEFACTS / name).exists()]
    if missing or shutil.which("qemu-system-x86_64") is None:
        pytest.skip(f"LOUD: no guest of {pair} can be booted here: missing {missing or 'qemu-system-x86_64'}")
    machine = _start(_make_arguments(pair, tmp_path))
    try:
        client = await _connect(f"{tmp_path}/agent.sock", machine)
        try:
            reply = await client.call(
                "grpc.Health", "Check", health.CheckRequest(), health.HealthCheckResponse, timeout=_BOOT_TIMEOUT
            )
        except KataError as error:
            console = (tmp_path / "console.log").read_text(errors="replace")
            raise AssertionError(f"the agent did not answer; end of the console:\n{console[-3000:]}") from error
        finally:
            client.close()
    finally:
        machine.kill()
        machine.wait(10)

    assert reply.status == health.ServingStatus.SERVING
