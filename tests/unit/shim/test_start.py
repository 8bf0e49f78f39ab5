"""`start`: the command line of containerd, the address, the files in the bundle, and what it costs."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kata.errors import ExistsError, UsageError
from kata.shim.address import find_path, is_answered, make_address
from kata.shim.flags import parse_flags
from kata.shim.start import bind_address

_SOURCE = str(Path(__file__).parents[3] / "src")
_ALLOWED = {
    "kata",
    "kata.errors",
    "kata.protocol",
    "kata.protocol.oci",
    "kata.protocol.oci.pod",
    "kata.shim",
    "kata.shim.address",
    "kata.shim.bootstrap",
    "kata.shim.bundle",
    "kata.shim.flags",
    "kata.shim.main",
    "kata.shim.start",
    "kata.sys",
    "kata.sys.digest",
}
_FORBIDDEN = {"asyncio", "typing", "dataclasses", "inspect", "logging", "argparse", "subprocess", "ctypes", "tempfile"}
_FORBIDDEN |= {"collections", "enum", "functools", "socket", "hashlib", "json", "re", "signal"}
_PROGRAM = """
import sys
sys.path.insert(0, {source!r})
from kata.shim import start
start.POOL = {pool!r}
from kata.shim.main import main
code = main()
print("\\n".join(sorted(sys.modules)), file=sys.stderr)
sys.exit(code)
"""
_BUDGET = 0.025


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"ociVersion": "1.0.2"}))
    return tmp_path


def _run_start(
    bundle: Path, name: str, program: str = _PROGRAM, *, stdin: str = "", **environment: str
) -> "subprocess.CompletedProcess[str]":
    words = ["-namespace", "unit", "-address", str(bundle / "c.sock"), "-id", name, "start"]
    return subprocess.run(
        [sys.executable, "-IS", "-c", program.format(source=_SOURCE, pool=str(bundle / "no-pool")), *words],
        cwd=bundle,
        env={**os.environ, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )


def _end_daemon(bundle: Path) -> None:
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((bundle / "shim.pid").read_text()), signal.SIGKILL)
    with suppress(FileNotFoundError):
        Path(find_path((bundle / "address").read_text())).unlink()


@pytest.fixture
def started(bundle: Path) -> Iterator["subprocess.CompletedProcess[str]"]:
    if os.geteuid():
        pytest.skip("the socket is in a directory of root")
    try:
        yield _run_start(bundle, f"unit-{os.getpid()}")
    finally:
        _end_daemon(bundle)


def test_start_prints_the_address_of_a_listening_socket_and_writes_it_in_the_bundle(
    bundle: Path, started: "subprocess.CompletedProcess[str]"
) -> None:
    address = make_address(str(bundle / "c.sock"), "unit", f"unit-{os.getpid()}")

    assert started.stdout == (bundle / "address").read_text() == address
    assert int((bundle / "shim.pid").read_text()) > 1
    assert is_answered(address)


# Waits for no writer when it opens, so that it can tell when it is there; ends at the first end of its input.
_READER = """
import os, select, sys
log = os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)
print(flush=True)
poll = select.poll()
poll.register(log, select.POLLIN)
while poll.poll() and os.read(log, 4096):
    pass
"""


def test_a_reader_of_the_log_sees_no_end_before_the_daemon_has_it(bundle: Path) -> None:
    os.mkfifo(bundle / "log")
    # As CRI-O reads: the first end of the input is the last, and then nobody is there for who opens it again.
    reader = subprocess.Popen([sys.executable, "-c", _READER, bundle / "log"], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    try:
        reader.stdout.readline()
        _run_start(bundle, f"unit-{os.getpid()}")
        [log] = {os.readlink(f"/proc/{(bundle / 'shim.pid').read_text()}/fd/{number}") for number in (1, 2)}
    finally:
        _end_daemon(bundle)
        reader.kill()
        reader.communicate()

    assert log == str(bundle / "log")


def test_start_imports_nothing_but_what_is_on_the_list(started: "subprocess.CompletedProcess[str]") -> None:
    modules = set(started.stderr.split())

    assert {name for name in modules if name.partition(".")[0] == "kata"} == _ALLOWED
    assert not modules & _FORBIDDEN


def test_a_second_start_for_the_same_sandbox_is_refused(
    bundle: Path, started: "subprocess.CompletedProcess[str]"
) -> None:
    with pytest.raises(ExistsError, match="listens at"):
        bind_address(started.stdout)


def test_a_member_of_a_pod_gets_the_address_of_the_pods_shim_and_no_daemon_of_its_own(bundle: Path) -> None:
    annotations = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "the-pod"}
    (bundle / "config.json").write_text(json.dumps({"annotations": annotations}))
    done = _run_start(bundle, "member")

    assert done.stdout == make_address(str(bundle / "c.sock"), "unit", "the-pod")
    assert not (bundle / "shim.pid").exists()
    assert not set(done.stderr.split()) & _FORBIDDEN


def test_start_takes_no_more_cpu_than_its_budget_over_an_empty_interpreter(bundle: Path) -> None:
    annotations = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "the-pod"}
    (bundle / "config.json").write_text(json.dumps({"annotations": annotations}))

    def measure(program: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _run_start(bundle, "member", program)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    empty = min(measure("# {source} {pool}") for _ in range(7))
    full = min(measure(_PROGRAM) for _ in range(7))
    assert full - empty <= _BUDGET


def test_the_address_is_the_hash_of_daemon_namespace_and_id() -> None:
    digest = hashlib.sha256(b"/run/containerd/containerd.sock/k8s.io/abc").hexdigest()

    assert make_address("/run/containerd/containerd.sock", "k8s.io", "abc") == f"unix:///run/containerd/s/{digest}"


def test_flags_are_read_in_gos_forms() -> None:
    words = ["-namespace", "n", "--address=/a", "-id", "x", "-debug", "-publish-binary", "", "delete", "-bundle", "b"]
    invocation = parse_flags("containerd-shim-kata-v2", words)

    assert invocation.texts["namespace"] == "n"
    assert invocation.texts["address"] == "/a"
    assert invocation.action == "delete"
    assert "debug" in invocation.switches
    assert not invocation.texts["bundle"]


@pytest.mark.parametrize("words", [["-nonsense"], ["-id"]])
def test_an_unknown_flag_or_one_without_its_value_is_an_error(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_flags("containerd-shim-kata-v2", words)
