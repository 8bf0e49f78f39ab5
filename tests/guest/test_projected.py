"""Volumes of Kubernetes whose content changes while the container runs: a ConfigMap, a Secret, a projected volume."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cprogram import compile_program
from engine import Container, Engine, add_mount, combine
from kata.sys import linux, mount

MakeVolume = Callable[[str], Path]
_PATIENCE = 60
"""Seconds in which a guest on a slow machine sees a change."""


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(tmp_path_factory.mktemp("watch"), "watch")


@pytest.fixture
def make_volume(tmp_path: Path) -> Iterator[MakeVolume]:
    """Return a function that makes a volume of a kind, as the kubelet does; secrets are in memory."""
    made: list[Path] = []

    def make(kind: str) -> Path:
        volume = tmp_path / f"kubernetes.io~{kind}/name"
        volume.mkdir(parents=True)
        made.append(volume)
        if kind == "secret":
            linux.mount("none", str(volume), "tmpfs")
        return volume

    yield make
    for volume in made:
        mount.unmount_below(str(volume))


def publish(volume: Path, version: str, content: str = "") -> None:
    """Change the volume as the kubelet does: a new directory, a link that is renamed to it, and the old one goes."""
    directory = volume / f"..{version}"
    directory.mkdir()
    (directory / "key").write_text(content or version)
    old = (volume / "..data").resolve() if (volume / "..data").exists() else None
    link = volume / "..data_tmp"
    link.symlink_to(directory.name)
    link.rename(volume / "..data")
    if not (volume / "key").is_symlink():
        (volume / "key").symlink_to("..data/key")
    if old is not None:
        (old / "key").unlink()
        old.rmdir()


@contextmanager
def _watch(engine: Engine, pod: Container, volume: Path, watch: Path) -> Iterator[Container]:
    """Have a container that has the volume as /config, and writes what inotify says of it into a file."""
    mounts = (
        add_mount("/config", "bind", str(volume), "rbind", "ro"),
        add_mount("/watch", "bind", str(watch), "bind", "ro"),
    )
    with engine.hold("sh", "-c", "/watch /config >/events", pod=pod.id, change=combine(*mounts)) as held:
        _wait(held, "grep -q ready /events")
        yield held


def _wait(held: Container, condition: str) -> None:
    script = f"until {condition} 2>/dev/null; do sleep 0.1; done"
    result = held.execute("timeout", str(_PATIENCE), "sh", "-c", script)
    assert result.code == 0, (condition, held.ask("sh", "-c", "ls -lA /config; cat /config/key /events"))


@pytest.mark.parametrize("kind", ["configmap", "secret"])
def test_inotify_in_the_container_tells_of_a_new_version_as_on_the_host(
    engine: Engine, pod: Container, make_volume: MakeVolume, watch: Path, kind: str
) -> None:
    volume = make_volume(kind)
    publish(volume, "one")
    (volume / "..one/key").chmod(0o440)
    with _watch(engine, pod, volume, watch) as held:
        assert held.ask("stat", "-Lc", "%a", "/config/key") == "440\n"
        publish(volume, "two")
        _wait(held, "grep -q 'gone ..one' /events")
        events = held.ask("cat", "/events").splitlines()
        assert events[-4:] == ["made ..two", "made ..data_tmp", "moved ..data", "gone ..one"]
        assert held.ask("cat", "/config/key") == "two"
        assert held.ask("ls", "-A", "/config").split() == ["..data", "..two", "key"]
        assert "Read-only" in held.execute("touch", "/config/new").err


def test_a_volume_that_is_too_big_for_a_copy_shows_its_new_version_without_events(
    engine: Engine, pod: Container, make_volume: MakeVolume, watch: Path
) -> None:
    volume = make_volume("projected")
    publish(volume, "one", "1" * (1 << 20))
    (volume / "other").write_text("beyond a MiB")
    with _watch(engine, pod, volume, watch) as held:
        publish(volume, "two", "2" * (1 << 20))
        _wait(held, '[ "$(head -c 1 /config/key)" = 2 ]')
        assert "moved" not in held.ask("cat", "/events")


def test_nothing_of_a_copy_is_left_when_its_container_is_gone(
    engine: Engine, pod: Container, make_volume: MakeVolume, watch: Path
) -> None:
    volume, other = make_volume("downward-api"), make_volume("projected")
    publish(volume, "one")
    publish(other, "one")
    used = "df -k /config | tail -n 1 | awk '{ print $3 }'"
    with _watch(engine, pod, volume, watch) as first:
        before = first.ask("sh", "-c", used)
        with _watch(engine, pod, volume, watch), _watch(engine, pod, other, watch) as second:
            assert int(second.ask("sh", "-c", used)) > int(before)
        assert first.ask("sh", "-c", used) == before
