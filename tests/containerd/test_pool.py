"""A containerd's pod gets a VM that waited."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd.daemon import Containerd
from kata.sandbox.keeper import list_members
from kata.sandbox.pool import find_pool
from kata.sandbox.store import DEFAULT_ROOT

_SOURCE = str(Path(__file__).parents[2] / "src")
_LAUNCHER = f"import sys; sys.path.insert(0, {_SOURCE!r}); from kata.cli.main import main; sys.exit(main())"


@pytest.fixture
def pooling(current: Containerd) -> Iterator[Containerd]:
    """A containerd beside a pool of two VMs of its configuration."""
    if os.path.exists(find_pool(DEFAULT_ROOT)):
        pytest.skip(f"somebody else's pool is at {find_pool(DEFAULT_ROOT)}")
    file = current.place / "kata.toml"
    before = file.read_text()
    factory = f'template_path = "{current.place}/templates"\nvm_cache_number = 2'
    file.write_text(before.replace("enable_template = false", factory))
    try:
        assert "2 of 2 VMs wait" in run_factory("init", file)
        yield current
    finally:
        run_factory("destroy", file)
        file.write_text(before)
    assert not os.path.exists(find_pool(DEFAULT_ROOT))


def run_factory(action: str, configuration: Path) -> str:
    """Run kata-runtime of this tree."""
    command = ["/usr/bin/python3", "-IS", "-c", _LAUNCHER, f"--config={configuration}", "factory", action]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=100).stdout


def test_a_container_takes_a_vm_that_waited_and_lives_in_it(pooling: Containerd) -> None:
    waited = {member.name for member in list_members(DEFAULT_ROOT)}
    with pooling.hold("sleep", "1000") as container:
        sandbox = Path(DEFAULT_ROOT, "sandboxes", f"{container}+{pooling.token}")
        assert "taken from the pool" in (sandbox / "timeline.json").read_text()
        assert "not from the pool" not in (sandbox / "timeline.json").read_text()
        taken = Path(os.readlink(sandbox / "qemu.log")).parent.name
        assert taken in waited
        assert pooling.execute(container, "echo", "by exec").out == "by exec\n"
        shim = pooling.find_shim(container)
        words = Path(f"/proc/{shim}/cmdline").read_text()
        assert container in words
        with pooling.hold("sleep", "1000") as other:
            second = Path(DEFAULT_ROOT, "sandboxes", f"{other}+{pooling.token}")
            assert Path(os.readlink(second / "qemu.log")).parent.name in waited - {taken}
        assert not pooling.wait_until_gone(other)
    assert not pooling.wait_until_gone(container)
    assert not Path(find_pool(DEFAULT_ROOT), taken).exists()
