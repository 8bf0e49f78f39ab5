"""containerd chooses the hypervisor by the runtime's name, as it is installed and configured by a user: in the lab."""

import os
import platform
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import leaks
from containerd.daemon import Containerd
from lab.installed import Flavour, configure_installed, list_vmms, require_flavour
from peers import require_installed
from podman.engine import Terminal

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Containerd]:
    with configure_installed():
        program = require_installed("containerd")
        place = Path(tempfile.mkdtemp(prefix="kata-n-"))
        try:
            with Containerd(place, None, f"n{secrets.token_hex(4)}", Path(program).parent) as daemon:
                yield daemon
        finally:
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(params=["clh", "firecracker"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return require_flavour(request.param)


@pytest.fixture
def runtime(flavour: Flavour) -> str:
    return f"io.containerd.kata-{flavour.name}.v2"


def test_a_container_runs_by_the_name_of_its_runtime_on_a_plain_overlay(daemon: Containerd, runtime: str) -> None:
    flags = ("--snapshotter", "overlayfs")
    done = daemon.run_container(
        "sh", "-c", "uname -r; cat; echo wrong >&2; exit 3", flags=flags, stdin="from outside\n", runtime=runtime
    )
    assert done.code == 3, done
    kernel, text = done.out.splitlines()
    assert kernel != platform.release()
    assert text == "from outside"
    assert "wrong" in done.err


def test_it_has_volumes_execs_a_console_and_an_end_of_which_nothing_is_left(
    daemon: Containerd, flavour: Flavour, runtime: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("of the host\n")
    mount = f"type=bind,src={tmp_path},dst=/mnt,options=rbind:ro"
    with daemon.hold("sleep", "1000", flags=("--mount", mount), runtime=runtime) as held:
        assert [program for _, program in list_vmms()] == [flavour.vmm]
        assert daemon.execute(held, "cat", "/mnt/file").out == "of the host\n"
        assert daemon.execute(held, "sh", "-c", "cat; exit 5", stdin="hello\n").code == 5
        sandbox = next(path.name for path in Path("/run/kata/sandboxes").iterdir() if held in path.name)
        with Terminal(command=["kata-runtime", "--root", "/run/kata", "console", sandbox]) as console:
            console.expect("connected")
            console.type("echo in$((3)) $(cat /proc/1/comm)\n")
            console.expect("in3 kata-agent")
            console.type("\x1d")
            assert console.wait() == 0
        daemon.succeed("tasks", "kill", "-s", "SIGKILL", held)
    assert not daemon.wait_until_gone(held)
    assert list_vmms() == []


def test_what_a_killed_shim_leaves_is_removed(daemon: Containerd, runtime: str) -> None:
    before = leaks.list_taps()
    with daemon.hold("sleep", "1000", runtime=runtime) as held:
        shim = daemon.find_shim(held)
        daemon.kill()  # else it cleans up itself
        os.kill(shim, signal.SIGKILL)
        done = subprocess.run(["kata-runtime", "gc"], capture_output=True, text=True, timeout=60, check=True)
        assert held in done.stdout
        assert list_vmms() == []
        assert not [
            line for line in daemon.find_traces(held) if line.startswith(("process", "mount", "cgroup", "state"))
        ]
        daemon.start()
    assert not daemon.wait_until_gone(held)
    assert leaks.list_taps() <= before
