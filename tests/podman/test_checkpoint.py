"""Podman saves and restores containers in VMs that share no files."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from howto import find_block, follow
from podman.engine import IS_VM, find_runtime, podman

pytestmark = pytest.mark.skipif(not IS_VM, reason="says something about VMs, and KATA_TEST_RUNTIME is none of ours")


@pytest.fixture
def unshared(tmp_path: Path) -> Path:
    """The runtime under test, with a configuration in which VMs share no files."""
    missing = [name for name in ("criu", "mkfs.erofs") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"MISSING {', '.join(missing)}: Podman asks for CRIU; run tools/install-host-packages test")
    (tmp_path / "configuration.toml").write_text('[hypervisor.qemu]\nshared_fs = "none"\n')
    launcher = tmp_path / "kata-runtime-unshared"
    launcher.write_text(f'#!/bin/sh\nexec {find_runtime()} --config {tmp_path}/configuration.toml "$@"\n')
    launcher.chmod(0o755)
    return launcher


@pytest.fixture
def name() -> Iterator[str]:
    name = f"kata-test-{uuid.uuid4().hex[:12]}"
    yield name
    podman("rm", "-f", "-t", "1", name, check=False)


def test_the_words_of_the_page_save_restore_export_and_import_a_container(
    busybox: str, unshared: Path, name: str, tmp_path: Path
) -> None:
    counting = "sh -c 'n=0; while true; do n=$((n+1)); echo $n > /m; mv /m /n; done'"
    look = f"{find_block('checkpoint', 'container checkpoint').splitlines()[2]}\npodman exec web cat /n\n"
    commands = find_block("checkpoint", "container checkpoint").replace("sleep 1000", counting)
    commands = commands.replace(look.partition("\n")[0], look.rstrip("\n"))
    commands = commands.replace("--import web.tar\n", "--import web.tar\npodman exec web cat /n\n")
    commands = commands.replace("--runtime kata ", f"--runtime {unshared} ").replace(
        "docker.io/library/busybox", busybox
    )
    commands = commands.replace(" web\n", f" {name}\n").replace("--name web ", f"--name {name} ")
    shown = follow(commands.replace("exec web ", f"exec {name} "), tmp_path, {})
    numbers = [int(line) for line in shown.splitlines() if line.isdigit()]
    assert len(numbers) == 2
    assert numbers[1] > numbers[0] > 0
