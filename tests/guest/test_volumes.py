"""Volumes that are more than a directory of the host's disk: memory, huge pages, sockets."""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cprogram import compile_program
from engine import HYPERVISOR, Container, Engine, add_mount, combine
from guest.facts import SHARES
from kata.sys import linux, mount

MakeVolume = Callable[..., Path]
_PAGE = 2 << 20


@pytest.fixture
def make_empty_dir(tmp_path: Path) -> Iterator[MakeVolume]:
    """Return a function that makes an emptyDir whose medium is memory, as the kubelet does."""
    made: list[Path] = []

    def make(name: str, options: str, *, kind: str = "tmpfs") -> Path:
        volume = tmp_path / f"pods/uid/volumes/kubernetes.io~empty-dir/{name}"
        volume.mkdir(parents=True)
        linux.mount(kind, str(volume), kind, data=options)
        made.append(volume)
        volume.chmod(0o777)
        return volume

    yield make
    for volume in made:
        mount.unmount_below(str(volume))


def test_an_empty_directory_in_memory_is_the_guests_own_and_the_containers_share_it(
    engine: Engine, pod: Container, make_empty_dir: MakeVolume
) -> None:
    volume = make_empty_dir("cache", "size=3m")
    change = add_mount("/cache", "bind", str(volume), "rbind", "rprivate", "rw")
    with engine.hold("sleep", "1000", pod=pod.id, change=change) as first:
        first.ask("sh", "-c", "id -u; echo here >/cache/file")
        found = engine.run_container(
            "sh", "-c", "cat /cache/file; df -k /cache; stat -c %a /cache", pod=pod.id, change=change
        )
        assert found.text.startswith("here\n")
        filesystem, size, *_ = found.text.splitlines()[-2].split()
        assert (filesystem, size, found.text.splitlines()[-1]) == ("tmpfs", "3072", "777")
        assert list(volume.iterdir()) == []
        full = first.execute("dd", "if=/dev/zero", "of=/cache/big", "bs=1M", "count=4")
        assert "No space left" in full.err


def test_a_path_in_an_empty_directory_in_memory_is_the_guests_too_and_no_link_leads_out_of_it(
    engine: Engine, pod: Container, make_empty_dir: MakeVolume
) -> None:
    volume = make_empty_dir("parts", "size=3m")
    places = []
    for name in ("one", "link"):
        (volume / name).mkdir(mode=0o750)
        os.chown(volume / name, 0, 1000)
        place = volume.parents[2] / f"volume-subpaths/parts/main/{name}"
        place.mkdir(parents=True)
        mount.bind(str(volume / name), str(place))
        places.append(place)
    try:
        whole = add_mount("/all", "bind", str(volume), "rbind")
        with engine.hold("sleep", "1000", pod=pod.id, change=whole) as first:
            first.ask("sh", "-c", "mkdir /all/deep; ln -s / /all/link")
            part = add_mount("/part", "bind", str(places[0]), "rbind")
            script = "stat -c '%a %g' /part; echo here >/part/file"
            assert engine.run_container("sh", "-c", script, pod=pod.id, change=part).text == "750 1000\n"
            assert first.ask("cat", "/all/one/file") == "here\n"
            refused = engine.run_container(
                "true", pod=pod.id, change=add_mount("/part", "bind", str(places[1]), "rbind")
            )
            assert refused.code != 0
            assert "Too many levels of symbolic links" in refused.err
    finally:
        for place in places:
            mount.unmount(str(place))


def test_an_empty_directory_without_a_limit_leaves_memory_to_the_guest(
    engine: Engine, pod: Container, make_empty_dir: MakeVolume
) -> None:
    volume = make_empty_dir("unlimited", "size=1000g")
    script = "df -k /cache | tail -n 1; grep MemTotal /proc/meminfo"
    found = engine.run_container(
        "sh", "-c", script, pod=pod.id, change=add_mount("/cache", "bind", str(volume), "rbind")
    )
    (_, size, *_), (_, memory, _) = (line.split() for line in found.text.splitlines())
    assert int(size) <= int(memory) // 2


@pytest.fixture(scope="module")
def touch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that makes a file of two huge pages."""
    return compile_program(tmp_path_factory.mktemp("touch"), "touch")


def _limit_huge_pages(size: int) -> Callable[[dict[str, Any]], None]:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"].setdefault("resources", {})["hugepageLimits"] = [{"pageSize": "2MB", "limit": size}]

    return change


def test_huge_pages_are_set_aside_in_the_guest_as_long_as_a_container_may_have_them(
    engine: Engine, pod: Container, make_empty_dir: MakeVolume, touch: Path
) -> None:
    try:
        volume = make_empty_dir("huge", f"pagesize={_PAGE}", kind="hugetlbfs")
    except OSError as error:
        pytest.skip(f"this host has no hugetlbfs of 2 MiB pages: {error}")
    mounts = (add_mount("/huge", "bind", str(volume), "rbind"), add_mount("/touch", "bind", str(touch), "bind", "ro"))
    with engine.hold("sleep", "1000", pod=pod.id, change=combine(*mounts, _limit_huge_pages(2 * _PAGE))) as held:
        assert held.ask("/touch", "/huge/file") == "touched\n"
        assert held.ask("awk", "/HugePages_Total/ { print $2 }", "/proc/meminfo") == "2\n"
        again = held.execute("/touch", "/huge/other")
        assert again.code != 0, again
        held.ask("rm", "/huge/file")
    assert pod.ask("awk", "/HugePages_Total/ { print $2 }", "/proc/meminfo") == "0\n"


def test_more_huge_pages_than_the_vm_has_memory_are_refused_by_number(engine: Engine, pod: Container) -> None:
    result = engine.run_container("true", pod=pod.id, change=_limit_huge_pages(100 << 30))
    assert result.code != 0
    assert "cannot have 102400 MiB of huge pages in a VM of 512 MiB (the VM needs at least 102528 MiB" in result.err
    assert pod.ask("awk", "/HugePages_Total/ { print $2 }", "/proc/meminfo") == "0\n"


def test_a_vm_is_bigger_by_the_huge_pages_that_its_first_container_may_have(engine: Engine) -> None:
    script = "awk '/MemTotal|HugePages_Total/ { print $2 }' /proc/meminfo"
    result = engine.run_container("sh", "-c", script, change=_limit_huge_pages(400 << 20))
    total, pages = map(int, result.text.split())
    assert pages == 200
    assert total > (512 + 400 - 96) << 10


@pytest.mark.parametrize(
    ("kind", "access", "lock"),
    [("disk", "rw", "Resource temporarily unavailable"), ("kubernetes.io~empty-dir", "ro", "Bad file descriptor")],
)
def test_containers_of_a_pod_meet_in_a_volume_at_sockets_locks_mappings_and_fifos(
    engine: Engine, pod: Container, tmp_path: Path, kind: str, access: str, lock: str
) -> None:
    if kind == "disk" and not SHARES:
        pytest.skip(f"{HYPERVISOR.upper()} SHARES NO FILES: it has no directory of the host to write to")
    volume = tmp_path / kind / "name"
    volume.mkdir(parents=True)
    program = add_mount("/meet", "bind", str(compile_program(tmp_path, "meet")), "bind", "ro")
    first, second = (
        combine(program, add_mount("/volume", "bind", str(volume), "rbind", word)) for word in ("rw", access)
    )
    with engine.hold("sh", "-c", "/meet first >/tmp/word", pod=pod.id, change=first) as held:
        held.ask("timeout", "60", "sh", "-c", "until grep -q ready /tmp/word; do sleep 0.1; done")
        found = engine.run_container("/meet", "second", pod=pod.id, change=second)
    assert found.text.splitlines() == [
        "connect: done",
        "flock: Resource temporarily unavailable",
        f"lock: {lock}",
        "map: mapped",
        "fifo: piped",
    ]


def test_a_socket_of_the_host_as_a_volume_is_refused_and_the_reason_said(
    engine: Engine, pod: Container, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "docker.sock"))
        change = add_mount("/run/docker.sock", "bind", str(tmp_path / "docker.sock"), "rbind")
        result = engine.run_container("true", pod=pod.id, change=change)
    assert result.code != 0
    assert f"{tmp_path}/docker.sock" in result.err
    assert "is a socket, and the VM's kernel is another" in result.err


def test_a_block_device_as_a_volume_is_refused_and_the_right_way_told(
    engine: Engine, pod: Container, tmp_path: Path
) -> None:
    os.mknod(tmp_path / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    change = add_mount("/dev/disk", "bind", str(tmp_path / "disk"), "rbind")
    result = engine.run_container("true", pod=pod.id, change=change)
    assert result.code != 0
    assert "is a block device" in result.err
    assert "--device" in result.err
