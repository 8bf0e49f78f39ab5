"""What an operator's own guest has beside ours: hooks in its image, and modules of its kernel."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import ARTEFACTS, Engine

_TREE = Path(__file__).parents[2]
_HOOK = """#!/usr/bin/python3 -IS
import json, sys
state = json.load(sys.stdin)
with open("/dev/kmsg", "w") as log:
    log.write(f"<0>hook {sys.argv[1]} {state['id']} {state['status']}\\n")
"""
_KINDS = ("prestart", "poststart", "poststop")


@pytest.fixture
def guest(engine: Engine) -> Iterator[Engine]:
    yield engine
    engine.configure("")


def _set_root(engine: Engine, kernel: Path, root: str, more: str) -> None:
    """Have VMs boot a kernel with a root, which is a line of the configuration."""
    engine.configure(more)
    lines = engine.config.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("kernel =", "image ="))]
    at = next(number for number, line in enumerate(kept) if line.startswith("default_memory"))
    engine.config.write_text("\n".join([*kept[:at], f'kernel = "{kernel}"', root, *kept[at:]]) + "\n")


def _add_hooks(image: Path, directory: Path) -> Path:
    """Make an image that has ours and a program for each kind of hook; one beside them is no program."""
    tree, extended = directory / "tree", directory / "extended.img"
    subprocess.run(["fsck.erofs", f"--extract={tree}", str(image)], check=True, capture_output=True, timeout=120)
    for kind in _KINDS:
        place = tree / "opt/hooks" / kind
        place.mkdir(parents=True)
        (place / "10-note").write_text(_HOOK)
        (place / "10-note").chmod(0o755)
        (place / "README").write_text("no program\n")
    subprocess.run(["mkfs.erofs", str(extended), str(tree)], check=True, capture_output=True, timeout=120)
    return extended


def test_hooks_of_the_guests_image_run_round_each_container(guest: Engine, guest_image: Path, tmp_path: Path) -> None:
    image = _add_hooks(guest_image, tmp_path)
    _set_root(guest, ARTEFACTS / "vmlinux.container", f'image = "{image}"', 'guest_hook_path = "/opt/hooks"\n')
    with guest.hold("true") as first:
        first.wait()
        with guest.hold("sleep", "1000", pod=first.id) as second:
            guest.succeed("delete", "--force", first.id)
            console = (guest.find_sandbox(first.sandbox) / "console.log").read_text(errors="replace")
    noted = [line.partition("hook ")[2].split() for line in console.splitlines() if "hook " in line]
    assert [(kind, name) for kind, name, _ in noted] == [
        ("prestart", first.id),
        ("poststart", first.id),
        ("prestart", second.id),
        ("poststart", second.id),
        ("poststop", first.id),
    ]


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The distribution's kernel, which has modules, and the line for its root."""
    if os.environ.get("KATA_LAB"):
        pytest.skip("THE LAB HAS NO NETWORK for apt to fetch Debian's kernel: run make test-guest")
    place = tmp_path_factory.mktemp("debian")
    argv = [sys.executable, "-m", "kata.image.main", "kernel", "--debian", "--output", str(place)]
    environment = {**os.environ, "PYTHONPATH": str(_TREE / "src")}
    subprocess.run(argv, check=True, env=environment, timeout=250, capture_output=True)
    return place / "vmlinuz-debian.container", f'initrd = "{place}/kata-containers-initrd-debian.img"'


def test_modules_are_loaded_with_their_parameters_before_the_first_container(
    guest: Engine, debian: tuple[Path, str]
) -> None:
    _set_root(guest, *debian, '[agent.kata]\nkernel_modules = ["nf_conntrack hashsize=2048", "dummy numdummies=0"]\n')
    script = "cat /sys/module/nf_conntrack/parameters/hashsize; ls -d /sys/module/dummy"
    result = guest.run_container("sh", "-c", script)
    assert (result.code, result.text.split()) == (0, ["2048", "/sys/module/dummy"]), result


def test_a_module_that_the_guests_kernel_lacks_keeps_the_container_from_starting_and_is_named(guest: Engine) -> None:
    guest.configure('[agent.kata]\nkernel_modules = ["nonsuch"]\n')
    result = guest.run_container("true")
    assert result.code
    assert "the guest's kernel has no module nonsuch" in result.err
