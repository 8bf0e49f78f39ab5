"""What a container's process finds around it: identity, limits, environment, file systems, kernel interfaces."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine import Change, Container, Engine, add_mount, combine, grant
from mounts import PrivateFolder, private_folder

__all__ = ["private_folder"]

STATUS = ("cat", "/proc/self/status")


def read_status(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def alter(**fields: Any) -> Change:
    """Change fields of the process."""
    return lambda spec: spec["process"].update(fields)


@pytest.mark.parametrize("code", [0, 1, 42, 127, 128, 255])
def test_the_exit_code_of_a_process_is_that_of_the_command(pod: Container, code: int) -> None:
    assert pod.execute("sh", "-c", f"exit {code}").code == code


@pytest.mark.parametrize("number", [15, 9, 10])
def test_a_process_that_dies_of_a_signal_exits_with_128_and_its_number(pod: Container, number: int) -> None:
    assert pod.execute("sh", "-c", f"kill -{number} $$; sleep 10").code == 128 + number


def test_environment_directory_user_and_groups_are_those_of_the_spec(engine: Engine, pod: Container) -> None:
    user = {"uid": 1000, "gid": 100, "additionalGids": [10, 4711]}
    change = alter(user=user, env=["PATH=/bin", "GREETING=guten Tag", "EMPTY="], cwd="/mnt")
    script = 'echo "$GREETING|${EMPTY-unset}|$PWD|$(id -u)|$(id -g)|$(id -G)"'
    result = engine.run_container("sh", "-c", script, pod=pod.id, change=change)
    assert (result.code, result.text) == (0, "guten Tag||/mnt|1000|100|100 10 4711\n"), result


def test_flags_of_exec_change_user_groups_directory_and_environment(pod: Container) -> None:
    flags = ("--user", "1000:100", "--additional-gids", "10", "--cwd", "/tmp", "--env", "COLOUR=red")
    result = pod.execute("sh", "-c", 'echo "$(id -u):$(id -g):$(id -G):$PWD:$COLOUR"', flags=flags)
    assert result.text == "1000:100:100 10:/tmp:red\n"


def test_limits_capabilities_and_no_new_privileges_reach_the_process(engine: Engine, pod: Container) -> None:
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    change = combine(grant("CAP_KILL", "CAP_CHOWN"), alter(rlimits=limits, noNewPrivileges=True))
    command = "ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/status"
    soft, hard, core, *lines = engine.run_container("sh", "-c", command, pod=pod.id, change=change).text.splitlines()
    status = read_status("\n".join(lines))
    assert (soft, hard, core) == ("123", "456", "0")
    # CAP_CHOWN is bit 0, CAP_KILL bit 5: capabilities(7).
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0b100001
    assert status["NoNewPrivs"] == "1"


def test_a_syscall_that_seccomp_denies_fails_with_the_errno_of_the_profile(engine: Engine, pod: Container) -> None:
    def change(spec: dict[str, Any]) -> None:
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
        spec["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [rule],
        }

    command = "grep Seccomp: /proc/self/status; touch /tmp/a && mkdir /tmp/b"
    result = engine.run_container("sh", "-c", command, pod=pod.id, change=change)
    assert result.text.split() == ["Seccomp:", "2"]
    assert result.code == 1
    assert "No space left on device" in result.err


def test_sysctls_are_set_for_the_container(engine: Engine, pod: Container) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["sysctl"] = {"kernel.msgmax": "12345", "kernel.domainname": "example.org"}
        spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "ipc"]
        spec["linux"]["namespaces"].append({"type": "ipc"})

    result = engine.run_container(
        "cat", "/proc/sys/kernel/msgmax", "/proc/sys/kernel/domainname", pod=pod.id, change=change
    )
    assert result.text.split() == ["12345", "example.org"], result


def test_masked_paths_are_empty_and_readonly_paths_refuse_root(engine: Engine, pod: Container) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["maskedPaths"] = ["/proc/keys", "/proc/scsi", "/root"]
        spec["linux"]["readonlyPaths"] = ["/proc/sys", "/mnt"]

    script = (
        "wc -c < /proc/keys; ls -A /root | wc -l; echo 1 > /proc/sys/vm/swappiness || echo ro; touch /mnt/x || echo ro"
    )
    result = engine.run_container("sh", "-c", script, pod=pod.id, change=combine(grant("CAP_DAC_OVERRIDE"), change))
    assert result.text.split() == ["0", "0", "ro", "ro"], result


def test_a_read_only_root_refuses_root_and_tmpfs_beside_it_does_not(engine: Engine, pod: Container) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["root"]["readonly"] = True

    mount = add_mount("/tmp", "tmpfs", "tmpfs", "nosuid", "nodev", "size=1m", "mode=1777")
    script = (
        "touch /x; echo $?; touch /tmp/x; echo $?; dd if=/dev/zero of=/tmp/big bs=1k count=2000 2>/dev/null; echo $?"
    )
    result = engine.run_container("sh", "-c", script, pod=pod.id, change=combine(change, mount))
    assert result.text.split() == ["1", "0", "1"]
    assert "Read-only file system" in result.err


def test_directories_of_the_host_are_bound_writable_or_read_only(
    engine: Engine, pod: Container, tmp_path: Path
) -> None:
    for name in ("rw", "ro"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "here").write_text(f"{name} of the host\n")
    change = combine(
        grant("CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"),
        add_mount("/data/rw", "bind", str(tmp_path / "rw"), "rbind", "rw"),
        add_mount("/data/ro", "bind", str(tmp_path / "ro"), "rbind", "ro"),
    )
    # A container that may mount can undo the flag of its own mount; the host's side has to refuse all the same.
    script = "cat /data/*/here; echo new > /data/rw/there; mount -o remount,rw,bind /data/ro; touch /data/ro/x; echo $?"
    result = engine.run_container("sh", "-c", script, pod=pod.id, change=change)
    assert result.text == "ro of the host\nrw of the host\n1\n", result
    assert (tmp_path / "rw/there").read_text() == "new\n"
    assert [path.name for path in (tmp_path / "ro").iterdir()] == ["here"]


def test_a_single_file_of_the_host_is_bound(engine: Engine, pod: Container, tmp_path: Path) -> None:
    (tmp_path / "rw").write_text("one\n")
    (tmp_path / "ro").write_text("two\n")
    change = combine(
        add_mount("/etc/rw", "bind", str(tmp_path / "rw"), "bind"),
        add_mount("/etc/ro", "bind", str(tmp_path / "ro"), "bind", "ro"),
    )
    script = "cat /etc/rw /etc/ro; echo more >> /etc/rw; echo more >> /etc/ro"
    result = engine.run_container("sh", "-c", script, pod=pod.id, change=change)
    assert result.text == "one\ntwo\n"
    assert "Read-only file system" in result.err
    assert (tmp_path / "rw").read_text() == "one\nmore\n"
    assert (tmp_path / "ro").read_text() == "two\n"


def test_what_is_mounted_on_the_host_after_the_pods_start_is_in_a_later_container_and_goes_with_it(
    engine: Engine, pod: Container, private_folder: PrivateFolder
) -> None:
    volume = private_folder.mount_volume("late")
    (volume / "in").write_text("from the volume\n")
    change = add_mount("/data", "bind", str(volume), "rbind", "rw")
    done = engine.run_container("sh", "-c", "cat /data/in; cp /data/in /data/out", pod=pod.id, change=change)

    assert done.text == "from the volume\n"
    assert (volume / "out").read_text() == "from the volume\n"
    private_folder.unmount_volume(volume)
    assert private_folder.wait_until_free(volume) == set()


def test_what_the_host_writes_into_a_bind_later_is_seen_in_the_guest(
    engine: Engine, pod: Container, tmp_path: Path
) -> None:
    with engine.hold("sleep", "1000", pod=pod.id, change=add_mount("/data", "bind", str(tmp_path), "rbind")) as held:
        (tmp_path / "late").write_text("late\n")
        assert held.ask("cat", "/data/late") == "late\n"
        held.ask("sh", "-c", "echo back > '/data/new\nline'")
        assert (tmp_path / "new\nline").read_text() == "back\n"


def test_hooks_run_on_the_host_in_order_with_the_state(engine: Engine, pod: Container, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f'#!/bin/sh\ncat > {tmp_path}/$1; printf "%s " "$1:$COLOUR" >> {tmp_path}/order\n')
    hook.chmod(0o755)
    points = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")

    def change(spec: dict[str, Any]) -> None:
        spec["hooks"] = {
            point: [{"path": str(hook), "args": ["hook", point], "env": ["COLOUR=blue", "PATH=/bin"]}]
            for point in points
        }

    with engine.hold("sleep", "1000", pod=pod.id, change=change) as held:
        state = json.loads((tmp_path / "createRuntime").read_text())
        assert (state["id"], state["pid"], state["bundle"]) == (held.id, held.pid, str(held.bundle))
        assert state["status"] in ("creating", "created")
        assert json.loads((tmp_path / "poststart").read_text())["status"] == "running"
    assert (tmp_path / "order").read_text().split() == [f"{point}:blue" for point in points]
    assert json.loads((tmp_path / "poststop").read_text())["status"] == "stopped"


def test_a_hook_that_fails_before_the_start_fails_the_creation(engine: Engine, pod: Container, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\necho no luck today >&2\nexit 3\n")
    hook.chmod(0o755)
    result = engine.run_container(
        "true", pod=pod.id, change=lambda spec: spec.update(hooks={"createRuntime": [{"path": str(hook)}]})
    )
    assert result.code == 1
    assert "createRuntime" in result.err
    assert "no luck today" in result.err


def test_a_start_container_hook_runs_inside_the_guest(engine: Engine, pod: Container) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "uname -n > /tmp/hooked; cat > /tmp/state"]}
    change = combine(lambda spec: spec.update(hooks={"startContainer": [hook]}))
    result = engine.run_container("cat", "/tmp/hooked", pod=pod.id, change=change)
    assert (result.code, result.text) == (0, "kata\n"), result


def test_each_container_has_the_hostname_of_its_sandbox(engine: Engine, pod: Container) -> None:
    assert pod.ask("hostname") == "kata\n"
    assert engine.run_container("uname", "-n", pod=pod.id).text == "kata\n"


def test_containers_that_share_the_pods_pid_namespace_see_each_other(engine: Engine, pod: Container) -> None:
    def change(spec: dict[str, Any]) -> None:
        namespaces = [one for one in spec["linux"]["namespaces"] if one["type"] != "pid"]
        spec["linux"]["namespaces"] = [*namespaces, {"type": "pid", "path": f"/proc/{pod.pid}/ns/pid"}]

    assert "sleep 100000" in engine.run_container("ps", pod=pod.id, change=change).text
    assert "sleep 100000" not in engine.run_container("ps", pod=pod.id).text


def test_a_program_that_does_not_exist_is_named(engine: Engine, pod: Container) -> None:
    result = engine.run_container("/no/such/program", pod=pod.id)
    assert result.code == 1
    assert "/no/such/program" in result.err
    assert "/no/such/program" in pod.execute("/no/such/program").err


def test_a_device_of_the_spec_is_the_guests_own_with_the_modes_and_rules_of_the_spec(
    engine: Engine, pod: Container
) -> None:
    def change(spec: dict[str, Any]) -> None:
        fuse, closed = ({"type": "c", "major": 10, "minor": minor} for minor in (229, 183))
        owner = {"fileMode": 0o640, "uid": 1000, "gid": 100}
        spec["linux"]["devices"] = [{"path": "/dev/mine", **fuse, **owner}, {"path": "/dev/closed", **closed}]
        rules = [{"allow": False, "access": "rwm"}, {"allow": True, "access": "r", **fuse}]
        spec["linux"]["resources"]["devices"] = rules

    tries = "(: < /dev/mine) && echo read; (: > /dev/mine) || (: < /dev/closed) || echo refused"
    script = f"stat -c '%F %a %u %g' /dev/mine; {tries}"
    result = engine.run_container("sh", "-c", script, pod=pod.id, change=combine(change, grant("CAP_DAC_OVERRIDE")))
    assert result.text == "character special file 640 1000 100\nread\nrefused\n", result
    assert result.err.count("Operation not permitted") == 2, result


def test_a_cpuset_of_the_host_does_not_keep_a_container_from_the_guests_processors(
    engine: Engine, pod: Container
) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"]["cpu"] = {"cpus": "5-7", "mems": "3"}

    result = engine.run_container("grep", "Cpus_allowed_list", "/proc/self/status", pod=pod.id, change=change)
    assert (result.code, result.text.split()[-1]) == (0, "0"), result
