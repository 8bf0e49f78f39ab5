"""create, start, state, kill, delete, run: as an engine calls them."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from unit.cli.runtime import Runtime


def test_a_container_goes_through_its_life(runtime: Runtime, tmp_path: Path) -> None:
    bundle = runtime.make_bundle(["sleep", "60"])
    pid_file = tmp_path / "pid"
    runtime.succeed("create", "--bundle", str(bundle), "--pid-file", str(pid_file), "c1")
    state = runtime.find_state("c1")
    assert state["status"] == "created"
    assert state["bundle"] == str(bundle)
    assert state["pid"] == int(pid_file.read_text())
    runtime.succeed("start", "c1")
    assert runtime.find_state("c1")["status"] == "running"
    runtime.succeed("kill", "c1", "KILL")
    runtime.wait_for_status("c1", "stopped")
    assert runtime.find_state("c1")["pid"] == 0
    runtime.succeed("delete", "c1")
    assert "does not exist" in runtime.run("state", "c1").stderr


def test_flags_may_have_one_dash_follow_the_id_and_hold_their_value(runtime: Runtime) -> None:
    bundle = runtime.make_bundle(["sleep", "60"])
    runtime.succeed("create", "c1", f"-bundle={bundle}")
    assert runtime.find_state("c1")["status"] == "created"
    runtime.succeed("delete", "c1", "-force")


@pytest.mark.parametrize("command", ["state", "start", "kill", "delete", "pause", "resume", "ps", "update", "events"])
def test_a_missing_container_is_reported_in_the_words_that_podman_looks_for(runtime: Runtime, command: str) -> None:
    done = runtime.run(command, "nobody")
    assert done.returncode == 1
    assert 'level=error msg="container does not exist"' in done.stderr


def test_forced_deletion_of_a_missing_container_succeeds(runtime: Runtime) -> None:
    assert runtime.run("delete", "--force", "nobody").returncode == 0


def test_a_wrong_status_is_reported_as_runc_does(runtime: Runtime) -> None:
    bundle = runtime.make_bundle(["true"])
    runtime.succeed("create", "-b", str(bundle), "c1")
    assert "container with given ID already exists" in runtime.run("create", "-b", str(bundle), "c1").stderr
    assert runtime.find_state("c1")["status"] == "created"
    assert "container not paused" in runtime.run("resume", "c1").stderr
    runtime.succeed("start", "c1")
    runtime.wait_for_status("c1", "stopped")
    assert "container not running" in runtime.run("kill", "c1").stderr
    assert "container not running" in runtime.run("pause", "c1").stderr
    assert "cannot start a container that" in runtime.run("start", "c1").stderr
    assert runtime.run("kill", "--all", "c1", "9").returncode == 0
    assert runtime.run("exec", "c1", "true").returncode == 255


def test_a_running_container_is_deleted_by_force_only(runtime: Runtime) -> None:
    bundle = runtime.make_bundle(["sleep", "60"])
    runtime.succeed("run", "-d", "-b", str(bundle), "c1")
    refused = runtime.run("delete", "c1")
    assert refused.returncode == 1
    assert "cannot delete container c1 that is not stopped" in refused.stderr
    runtime.succeed("delete", "-f", "c1")


def test_pause_and_resume_show_in_the_state(runtime: Runtime) -> None:
    runtime.succeed("run", "-d", "-b", str(runtime.make_bundle(["sleep", "60"])), "c1")
    runtime.succeed("pause", "c1")
    assert runtime.find_state("c1")["status"] == "paused"
    runtime.succeed("resume", "c1")
    assert runtime.find_state("c1")["status"] == "running"


def test_run_passes_streams_and_exit_code_and_leaves_nothing(runtime: Runtime) -> None:
    bundle = runtime.make_bundle(["sh", "-c", "cat; echo error >&2; exit 7"])
    done = subprocess.run(
        runtime.command("run", "-b", str(bundle), "c1"),
        input="words\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 7
    assert done.stdout == "words\n"
    assert done.stderr == "error\n"
    assert runtime.run("state", "c1").returncode == 1


def test_run_keeps_the_container_when_told(runtime: Runtime) -> None:
    runtime.succeed("run", "--keep", "-b", str(runtime.make_bundle(["true"])), "c1")
    assert runtime.find_state("c1")["status"] == "stopped"


def test_a_signal_to_run_reaches_the_process(runtime: Runtime, tmp_path: Path) -> None:
    bundle = runtime.make_bundle(["sh", "-c", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done"])
    with subprocess.Popen(
        runtime.command("run", "-b", str(bundle), "c1"), stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGUSR1)
        assert running.wait(10) == 9


def test_a_failed_creation_names_the_reason_and_leaves_nothing(runtime: Runtime) -> None:
    bundle = runtime.make_bundle(["true"], annotations={"refuse": "the guest did not start"})
    done = runtime.run("create", "-b", str(bundle), "--pid-file", str(bundle / "pid"), "c1")
    assert done.returncode == 1
    assert 'msg="create failed: the guest did not start"' in done.stderr
    assert not (bundle / "pid").exists()
    assert os.listdir(runtime.root / "sandboxes") == []


def test_a_creation_that_is_interrupted_is_undone(runtime: Runtime) -> None:
    bundle = runtime.make_bundle(["true"], annotations={"hang": "yes"})
    with subprocess.Popen(runtime.command("create", "-b", str(bundle), "c1"), stderr=subprocess.PIPE) as creating:
        deadline = time.monotonic() + 10
        while not (bundle / "seen").exists():
            assert time.monotonic() < deadline
        creating.send_signal(signal.SIGTERM)
        assert creating.wait(20) == 130
    assert os.listdir(runtime.root / "sandboxes") == []


def test_a_container_whose_daemon_was_killed_is_stopped_and_can_be_deleted(runtime: Runtime) -> None:
    runtime.succeed("run", "-d", "-b", str(runtime.make_bundle(["sleep", "60"])), "c1")
    pid = runtime.find_state("c1")["pid"]
    runtime.kill_daemon("c1")
    assert runtime.find_state("c1")["status"] == "stopped"
    runtime.wait_for_end(pid)
    assert "container not running" in runtime.run("kill", "c1").stderr
    runtime.succeed("delete", "c1")
    assert not (runtime.root / "sandboxes" / "c1").exists()


def test_a_container_joins_the_sandbox_that_its_annotations_name(runtime: Runtime) -> None:
    kind, owner = "io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"
    first = runtime.make_bundle(["sleep", "60"], annotations={kind: "sandbox", owner: "pod"})
    second = runtime.make_bundle(["sleep", "60"], annotations={kind: "container", owner: "pod"})
    runtime.succeed("create", "-b", str(first), "pod")
    runtime.succeed("create", "-b", str(second), "member")
    assert os.listdir(runtime.root / "sandboxes") == ["pod"]
    runtime.succeed("delete", "member")
    assert runtime.find_state("pod")["status"] == "created"


def test_a_container_of_an_unknown_sandbox_is_refused(runtime: Runtime) -> None:
    annotations = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "nobody"}
    done = runtime.run("create", "-b", str(runtime.make_bundle(["true"], annotations=annotations)), "c1")
    assert "sandbox nobody of container c1 does not exist" in done.stderr


def test_list_shows_containers_as_table_json_and_ids(runtime: Runtime) -> None:
    assert runtime.succeed("list").split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert runtime.succeed("list", "--format", "json") == "null\n"
    runtime.succeed("create", "-b", str(runtime.make_bundle(["sleep", "60"])), "c1")
    header, row = runtime.succeed("list").splitlines()
    assert row.split()[0] == "c1"
    assert row.index("created") == header.index("STATUS")
    assert json.loads(runtime.succeed("list", "-f", "json"))[0]["id"] == "c1"
    assert runtime.succeed("list", "-q") == "c1\n"


def test_ps_events_and_update_reach_the_service(runtime: Runtime) -> None:
    bundle = runtime.make_bundle(["sleep", "60"])
    runtime.succeed("run", "-d", "-b", str(bundle), "c1")
    assert runtime.succeed("ps", "c1").startswith("UID PID\n")
    assert len(json.loads(runtime.succeed("ps", "--format", "json", "c1"))) == 1
    stats = json.loads(runtime.succeed("events", "--stats", "c1"))
    assert stats == {"type": "stats", "id": "c1", "data": {"pids": {"current": 1}}}
    runtime.succeed("update", "--memory", "64M", "--cpu-quota", "5000", "--cpuset-cpus", "0-1", "c1")
    assert runtime.read_seen(bundle)[-1]["update"] == {
        "memory": {"limit": 64 << 20},
        "cpu": {"quota": 5000, "cpus": "0-1"},
    }
    runtime.succeed("update", "-r", "-", "c1", given='{"pids": {"limit": 9}}')
    assert runtime.read_seen(bundle)[-1]["update"] == {"pids": {"limit": 9}}


def test_a_state_directory_with_a_long_path_works(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 20) / ("path" * 20)
    directory.mkdir(parents=True)
    runtime = Runtime(directory)
    runtime.succeed("run", "-b", str(runtime.make_bundle(["true"])), "c" * 64)


def test_the_last_words_of_a_daemon_that_ended_early_are_in_the_error(runtime: Runtime) -> None:
    bundle = runtime.make_bundle(["true"])
    (bundle / "refused").touch()
    done = runtime.run("run", "-b", str(bundle), "c1")
    assert done.returncode == 1
    assert "its daemon said: " in done.stderr
    assert "this host serves nobody" in done.stderr
    assert not (runtime.root / "sandboxes" / "c1").exists()
