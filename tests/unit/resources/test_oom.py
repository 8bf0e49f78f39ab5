import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.resources.oom import OomWatch, set_oom_score

_GREEDY = "import os; block = bytearray(96 << 20); block[::4096] = b'x' * (len(block) // 4096)"
_V1 = Path("/sys/fs/cgroup/memory")
_V2_MEMORY = Path("/sys/fs/cgroup/cgroup.controllers")


def _find_controlled() -> Path | None:
    """Return where a cgroup with the memory controller can be made here: version 1's or version 2's."""
    if (_V1 / "memory.limit_in_bytes").exists():
        return _V1
    if _V2_MEMORY.exists() and "memory" in Path("/sys/fs/cgroup/cgroup.subtree_control").read_text().split():
        return Path("/sys/fs/cgroup")
    return None


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup of this host, with a limit of 32 MiB, and one in it."""
    base = _find_controlled()
    if base is None or os.geteuid() != 0:
        pytest.skip("needs root and a memory controller")
    outer = base / f"kata-test-{os.getpid()}"
    inner = outer / "inner"
    inner.mkdir(parents=True)
    name = "memory.limit_in_bytes" if base is _V1 else "memory.max"
    (outer / name).write_text(str(32 << 20))
    if base is not _V1:
        (outer / "cgroup.subtree_control").write_text("+memory")
    yield inner
    inner.rmdir()
    outer.rmdir()


def _enter_and_run(cgroup: Path, program: str) -> "subprocess.Popen[bytes]":
    """Start a program that waits for a line in the cgroup before it does anything."""
    text = f"import sys; open({str(cgroup / 'cgroup.procs')!r}, 'w').write('0'); print(flush=True); input(); {program}"
    child = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_a_process_that_the_host_kills_for_want_of_memory_is_told_with_the_cgroup_whose_limit_it_was(
    cgroup: Path,
) -> None:
    child = _enter_and_run(cgroup, _GREEDY)
    watch = OomWatch(child.pid)
    assert watch.explain() == ""
    child.communicate(b"\n", timeout=60)
    assert child.returncode == -9
    name = f"/{cgroup.parent.name}"
    assert watch.explain() == (
        f"the host killed the VM, because the cgroup {name} has reached its memory limit of {32 << 20} bytes"
    )


def test_a_process_that_somebody_else_kills_is_not_put_down_to_memory(cgroup: Path) -> None:
    child = _enter_and_run(cgroup, "pass")
    watch = OomWatch(child.pid)
    child.kill()
    child.communicate(timeout=60)
    assert watch.explain() == ""


def _make_unified(root: Path, kills: int, *, limit: str, hits: int) -> None:
    """Write what version 2 of cgroups shows of the cgroup of this process, which is the root's own here."""
    path = next(
        line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:2] == "0:"
    )
    directory = root / path.lstrip("/") if path != "/" else root
    directory.mkdir(parents=True, exist_ok=True)
    (root / "cgroup.controllers").write_text("memory\n")
    (directory / "memory.events").write_text(f"low 0\noom {hits}\noom_kill {kills}\n")
    (directory / "memory.events.local").write_text(f"low 0\noom {hits}\noom_kill {kills}\n")
    (directory / "memory.max").write_text(f"{limit}\n")


def test_a_kill_without_a_limit_is_put_down_to_the_hosts_memory(tmp_path: Path) -> None:
    _make_unified(tmp_path, 1, limit="max", hits=0)
    watch = OomWatch(hierarchies=[str(tmp_path)])
    assert watch.explain() == ""
    _make_unified(tmp_path, 2, limit="max", hits=0)
    assert watch.explain() == "the host killed the VM, because its memory is used up"


def test_a_host_without_a_memory_controller_is_silent(tmp_path: Path) -> None:
    assert OomWatch(hierarchies=[str(tmp_path)]).explain() == ""
    assert OomWatch(1 << 30).explain() == ""


def test_a_process_can_be_made_more_expendable_and_one_that_has_ended_is_no_error() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        set_oom_score(child.pid, 300)
        assert Path(f"/proc/{child.pid}/oom_score_adj").read_text() == "300\n"
    finally:
        child.kill()
        child.wait()
    set_oom_score(child.pid, 300)
