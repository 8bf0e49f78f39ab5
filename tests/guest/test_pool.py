"""VMs that wait: taken by one sandbox each, as confined and as much of their own as any other, and made anew."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine import ALL_CAPABILITIES, Container, Engine, combine, grant, kill_process
from guest.facts import allow_facts, check_facts, collect_facts
from kata.hypervisor.vmmuser import FIRST_ID, derive_user_id
from kata.sandbox.keeper import find_keeper, list_members
from kata.sys.process import read_stat
from podnet import make_pod_network
from polling import wait_until

pytestmark = pytest.mark.timeout(400)
_SHARES = Path("/run/kata-containers/shared/sandboxes")


@pytest.fixture(scope="module")
def pooling(engine: Engine) -> Iterator[Engine]:
    """An engine with a template, and no pool yet."""
    engine.use_templates()
    engine.succeed("factory", "init")
    yield engine
    engine.succeed("factory", "destroy")
    assert not os.path.exists(engine.root / "pool")


@contextmanager
def have_pool(engine: Engine, number: int, more: str = "") -> Iterator[None]:
    """Have so many VMs wait during the block."""
    engine.use_templates(more, pool=number)
    names: set[str] = set()
    try:
        assert f"{number} of {number} VMs wait" in engine.succeed("factory", "init")
        names = set(list_names(engine))
        yield
    finally:
        engine.use_templates()
        engine.succeed("factory", "init")
        assert not os.path.exists(engine.root / "pool")
        assert not [name for name in names if (_SHARES / name).exists()]


def list_names(engine: Engine) -> list[str]:
    return [member.name for member in list_members(str(engine.root))]


def wait_for_pool(engine: Engine, number: int, *, without: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Wait until so many VMs wait that are not among those named."""
    wait_until(lambda: len(set(list_names(engine)) - without) >= number, timeout=200)


def is_taken(engine: Engine, container: Container) -> bool:
    phases = engine.succeed("timeline", container.id)
    assert ("guest restore" in phases) != ("taken from the pool" in phases)
    return "taken from the pool" in phases


def list_vm_processes(engine: Engine, sandbox: str) -> dict[str, int]:
    """Return QEMU and virtiofsd of a sandbox by its ledger."""
    rows = [json.loads(line) for line in (engine.find_sandbox(sandbox) / "ledger").read_text().splitlines()]
    pids = [int(value.split()[0]) for kind, value in rows if kind == "process"]
    return {Path(os.readlink(f"/proc/{pid}/exe")).name.partition("-")[0]: pid for pid in pids}


def read_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_a_taken_vm_serves_a_pod_like_any_other_and_the_pool_fills_again(pooling: Engine, tmp_path: Path) -> None:
    with have_pool(pooling, 1), make_pod_network(f"{pooling.token}-pool") as net:
        [name] = list_names(pooling)
        status = pooling.succeed("factory", "status")
        assert name in status
        assert "1 of 1 VMs wait" in status
        with pooling.hold("sleep", "1000", change=combine(net.join, grant(*ALL_CAPABILITIES))) as held:
            assert is_taken(pooling, held)
            assert name not in pooling.succeed("factory", "status")
            link = subprocess.run(["ip", "-n", net.pod, "-j", "link", "show", "eth0"], check=True, capture_output=True)
            assert held.ask("cat", "/sys/class/net/eth0/address").strip() == json.loads(link.stdout)[0]["address"]
            held.ask("ping", "-c", "1", "-W", "5", "10.5.0.1")
            assert held.execute("cat", stdin=b"by stdin").out == b"by stdin"
            again = pooling.run_container("sh", "-c", "echo other", pod=held.id)
            assert again.out == b"other\n"
            assert (
                "Linux version" in pooling.succeed("logs", "--source", "console", held.id)
                or (pooling.find_sandbox(held.id) / "console.log").exists()
            )
            wait_for_pool(pooling, 1, without={name})
            held.kill("KILL")
            assert held.wait() == 137
        assert not (pooling.root / "pool" / name).exists()


def test_a_taken_vm_is_as_confined_as_any_other_and_in_its_pods_cgroup(pooling: Engine) -> None:
    with have_pool(pooling, 1):
        [name] = list_names(pooling)
        with pooling.hold("sleep", "1000") as held:
            assert is_taken(pooling, held)
            pids = list_vm_processes(pooling, held.id)
            status = read_status(pids["qemu"])
            user = derive_user_id(name)
            assert user >= FIRST_ID
            assert status["Uid"].split() == status["Gid"].split() == [str(user)] * 4
            assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
            assert {status[kind] for kind in ("CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
            assert os.readlink(f"/proc/{pids['qemu']}/ns/net") != os.readlink("/proc/self/ns/net")
            words = Path(f"/proc/{pids['qemu']}/cmdline").read_text().split("\0")
            assert not [word for word in words if str(pooling.root) in word], "QEMU was given a path"
            daemon = pooling.find_process("serve", held.id)
            for pid in (daemon, *pids.values()):
                assert f"/{pooling.token}/{held.id}" in Path(f"/proc/{pid}/cgroup").read_text()
                assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() != "1000"
                assert os.getpriority(os.PRIO_PROCESS, pid) == 0


def test_two_vms_of_the_pool_have_nothing_in_common_that_is_to_be_ones_own(pooling: Engine) -> None:
    with have_pool(pooling, 2), ExitStack() as stack:
        found = []
        for name in ("one", "two"):
            held = stack.enter_context(pooling.hold("sleep", "1000", change=allow_facts(name)))
            assert is_taken(pooling, held)
            found.append(collect_facts(held))
        check_facts(*found)


def test_sandboxes_that_start_at_once_share_no_vm(pooling: Engine) -> None:
    with have_pool(pooling, 2):
        waited = set(list_names(pooling))
        names = [pooling.name("many") for _ in range(4)]
        bundles = [pooling.make_bundle(name, ["sleep", "1000"]) for name in names]
        started = [
            pooling.start("create", "--bundle", str(bundle), name, stdin=subprocess.DEVNULL, stdout=None, stderr=None)
            for name, bundle in zip(names, bundles, strict=True)
        ]
        try:
            assert [process.wait(timeout=120) for process in started] == [0] * 4
            taken = ["taken from the pool" in pooling.succeed("timeline", name) for name in names]
            assert sum(taken) >= 2, "those that waited were not taken"
            directories = [
                os.readlink(pooling.find_sandbox(name) / "qemu.log")
                for name, is_so in zip(names, taken, strict=True)
                if is_so
            ]
            assert len(set(directories)) == len(directories)
            assert waited <= {Path(path).parent.name for path in directories}
        finally:
            for name in names:
                pooling.run("delete", "--force", name)


def test_what_was_taken_outlives_the_keeper_and_what_waits_does_not(pooling: Engine) -> None:
    with have_pool(pooling, 2), pooling.hold("sleep", "1000") as held:
        assert is_taken(pooling, held)
        left = list_members(str(pooling.root))[0]
        kill_process(find_keeper(str(pooling.root)))
        wait_for_ends(left.pids)
        assert held.ask("echo", "alive") == "alive\n"
        assert left.name in pooling.succeed("gc")
        assert "nobody fills the pool" in pooling.succeed("factory", "status")
        with pooling.hold("sleep", "1000") as other:
            phases = pooling.succeed("timeline", other.id)
            assert "not from the pool: all that waited are taken" in phases
            assert "guest restore" in phases
        assert held.ask("echo", "alive") == "alive\n"


def test_a_taken_vm_ends_with_its_daemon_and_leaves_nothing(pooling: Engine) -> None:
    with have_pool(pooling, 1):
        [name] = list_names(pooling)
        with pooling.hold("sleep", "1000") as held:
            assert is_taken(pooling, held)
            pids = list_vm_processes(pooling, held.id)
            kill_process(pooling.find_process("serve", held.id))
            wait_for_ends(tuple(pids.values()))
        pooling.succeed("gc")
        assert not pooling.find_sandbox(held.id).exists()
        assert not (pooling.root / "pool" / name).exists()
        assert not (_SHARES / name).exists()


def wait_for_ends(pids: tuple[int, ...]) -> None:
    """Wait until none of these processes runs: whose parent was killed may stay unreaped."""
    wait_until(lambda: all(stat is None or stat.state in "ZX" for stat in map(read_stat, pids)), timeout=10)


def test_a_pod_that_wants_another_vm_is_told_so_and_the_pool_keeps_its_own(pooling: Engine) -> None:
    with have_pool(pooling, 1):
        before = list_names(pooling)
        with pooling.hold("sleep", "1000", change=limit_memory) as held:
            phases = pooling.succeed("timeline", held.id)
            assert re.search(r"not from the pool: it is to have 1 vCPUs and \d+ MiB, and those that wait have", phases)
        assert list_names(pooling) == before


def limit_memory(spec: dict[str, Any]) -> None:
    spec["linux"]["resources"]["memory"] = {"limit": 200 << 20}


def test_vms_that_are_outdated_are_given_to_nobody_and_made_anew(pooling: Engine) -> None:
    with have_pool(pooling, 1):
        before = set(list_names(pooling))
        image = Path(re.search('^image = "(.*)"', pooling.config.read_text(), re.MULTILINE)[1])  # type: ignore[index]
        other = pooling.directory / "other.img"
        shutil.copyfile(image, other)
        pooling.config.write_text(pooling.config.read_text().replace(str(image), str(other)))
        with pooling.hold("sleep", "1000") as held:
            phases = pooling.succeed("timeline", held.id)
            assert "not from the pool: those that wait are outdated" in phases
        wait_for_pool(pooling, 1, without=before)
        with pooling.hold("sleep", "1000") as held:
            assert is_taken(pooling, held)
