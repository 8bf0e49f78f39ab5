"""VMs that share no files with the host: a directory as root is packed, and volumes are copied."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Change, Container, Engine, add_mount, combine
from guest.test_projected import publish


@pytest.fixture(scope="module")
def unshared(engine: Engine) -> Engine:
    engine.configure('shared_fs = "none"\n')
    return engine


@pytest.fixture(scope="module")
def bare(unshared: Engine) -> Iterator[Container]:
    """A sandbox without a share, for the module's containers."""
    with unshared.hold("sleep", "100000", name="bare") as held:
        yield held


def bind(source: Path, destination: str, *options: str) -> Change:
    return add_mount(destination, "bind", str(source), "rbind", *options)


def test_a_directory_is_the_root_of_a_container_without_any_shared_file_system(
    unshared: Engine, bare: Container
) -> None:
    with pytest.raises(LookupError):
        unshared.find_process("virtiofsd", bare.sandbox)
    script = "grep -c virtiofs /proc/mounts; grep ' / ' /proc/mounts | cut -d ' ' -f 3; echo new > /file; cat /file"
    result = unshared.run_container("sh", "-c", script, pod=bare.id)
    assert (result.code, result.text) == (0, "0\noverlay\nnew\n"), result


def test_files_and_read_only_directories_are_copied_with_their_owners_and_links(
    unshared: Engine, bare: Container, tmp_path: Path
) -> None:
    hosts, volume = tmp_path / "hosts", tmp_path / "volume"
    hosts.write_text("127.0.0.1 here\n")
    (volume / "deep").mkdir(parents=True)
    (volume / "deep/file").write_bytes(b"x" * (3 << 20))
    (volume / "deep/file").chmod(0o4751)
    (volume / "link").symlink_to("deep/file")
    change = combine(bind(hosts, "/etc/hosts", "rw"), bind(volume, "/volume", "ro"))
    script = (
        "cat /etc/hosts; echo more >> /etc/hosts && stat -c '%a %s' /volume/deep/file; readlink /volume/link; "
        "! touch /volume/new"
    )
    result = unshared.run_container("sh", "-c", script, pod=bare.id, change=change)
    assert (result.code, result.text) == (0, "127.0.0.1 here\n4751 3145728\ndeep/file\n"), result
    assert hosts.read_text() == "127.0.0.1 here\n"


def test_what_the_host_writes_to_a_single_file_is_in_the_copy_while_its_container_runs(
    unshared: Engine, bare: Container, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 here\n")
    with unshared.hold("sleep", "1000", pod=bare.id, change=bind(hosts, "/etc/hosts", "rw")) as held:
        held.ask("sh", "-c", "echo of the guest >> /etc/hosts")
        hosts.write_text("127.0.0.1 here\n127.0.0.2 there\n")
        script = "until grep there /etc/hosts; do sleep 0.1; done; wc -l < /etc/hosts"
        assert held.ask("timeout", "60", "sh", "-c", script) == "127.0.0.2 there\n2\n"


def test_the_termination_message_of_a_container_is_on_the_host_when_it_has_ended(
    unshared: Engine, bare: Container, tmp_path: Path
) -> None:
    message = tmp_path / "pods/uid/containers/main/0a1b2c3d"
    message.parent.mkdir(parents=True)
    message.touch()
    script = "echo last words > /dev/termination-log; head -c 8000 /dev/zero | tr '\\0' x >> /dev/termination-log"
    change = bind(message, "/dev/termination-log", "rw")
    result = unshared.run_container("sh", "-c", f"{script}; exit 3", pod=bare.id, change=change)
    assert result.code == 3
    assert message.read_text() == "last words\n".ljust(4096, "x")


def test_the_copy_of_a_projected_volume_follows_its_versions(unshared: Engine, bare: Container, tmp_path: Path) -> None:
    volume = tmp_path / "kubernetes.io~configmap/config"
    volume.mkdir(parents=True)
    publish(volume, "one")
    with unshared.hold("sleep", "1000", pod=bare.id, change=bind(volume, "/config", "ro")) as held:
        assert held.ask("cat", "/config/key") == "one"
        publish(volume, "two")
        script = 'until [ "$(cat /config/key)" = two ] && [ ! -e /config/..one ]; do sleep 0.1; done; ls -A /config'
        shutil.rmtree(volume / "..one", ignore_errors=True)
        assert held.ask("timeout", "60", "sh", "-c", script).split() == ["..data", "..two", "key"]


def test_a_disk_empty_dir_is_a_directory_that_the_pods_containers_share_in_the_guest(
    unshared: Engine, bare: Container, tmp_path: Path
) -> None:
    volume = tmp_path / "volumes/kubernetes.io~empty-dir/cache"
    volume.mkdir(parents=True)
    volume.chmod(0o777)
    change = bind(volume, "/cache", "rw")
    with unshared.hold("sleep", "1000", pod=bare.id, change=change) as held:
        held.ask("sh", "-c", "echo of the first > /cache/file")
        second = unshared.run_container("cat", "/cache/file", pod=bare.id, change=change)
        assert second.text == "of the first\n", second
    assert not list(volume.iterdir())


@pytest.mark.parametrize(
    ("make", "options", "why"),
    [
        ("directory", ("rw",), "is a directory to write to"),
        ("big", ("ro",), "more than 16 MiB"),
    ],
)
def test_what_cannot_be_copied_is_refused_with_what_to_do(
    unshared: Engine, bare: Container, tmp_path: Path, make: str, options: tuple[str, ...], why: str
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    if make == "big":
        with (volume / "file").open("wb") as file:
            file.truncate(17 << 20)
    result = unshared.run_container("true", pod=bare.id, change=bind(volume, "/volume", *options))
    assert result.code
    assert why in result.err
    assert str(volume) in result.err
    assert "block device or a direct-assigned volume" in result.err
