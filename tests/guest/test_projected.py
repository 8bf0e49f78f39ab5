"""A volume of Kubernetes that changes while the container runs: a ConfigMap, a Secret, a projected volume."""

from pathlib import Path

from engine import Container, Engine, add_mount

_PATIENCE = 60
"""Seconds in which the guest sees a change: its cache of names may be as old as virtiofsd allows."""


def publish(volume: Path, version: str) -> None:
    """Change the volume as the kubelet does: a new directory, and a link that is renamed to it."""
    directory = volume / f"..{version}"
    directory.mkdir()
    (directory / "key").write_text(version)
    link = volume / "..data_tmp"
    link.symlink_to(directory.name)
    link.rename(volume / "..data")


def test_a_projected_volume_shows_its_new_version_while_the_container_runs(
    engine: Engine, pod: Container, tmp_path: Path
) -> None:
    publish(tmp_path, "one")
    (tmp_path / "key").symlink_to("..data/key")
    change = add_mount("/config", "bind", str(tmp_path), "rbind", "ro")
    with engine.hold("sleep", "1000", pod=pod.id, change=change) as held:
        assert held.ask("cat", "/config/key") == "one"
        publish(tmp_path, "two")
        script = 'until [ "$(cat /config/key)" = two ]; do :; done; cat /config/key'
        assert held.ask("timeout", str(_PATIENCE), "sh", "-c", script) == "two"
