"""The agent as PID 1 of a real VM, driven as a host drives it."""

import asyncio
import hashlib
import json
import signal
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from guest.agentvm import (
    BASE,
    AgentVm,
    boot_vm,
    build_disk,
    build_image,
    make_container,
    make_process,
    require_tools,
)
from kata.errors import Code, DeadlineError, GuestError
from kata.protocol.messages import agent, csi, health, oci, types
from kata.sandbox.clock import GuestClock
from kata.sandbox.guest import Guest
from kata.transport.ttrpc import connect_unix

SECOND = 1_000_000_000
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]
SHARE = f"{BASE}/shared/containers"


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_tools()
    directory = tmp_path_factory.mktemp("artefacts")
    build_image(directory)
    build_disk(directory / "busybox.img")
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vm(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AgentVm]:
    async with boot_vm(tmp_path_factory.mktemp("vm"), artefacts) as running:
        yield running


@asynccontextmanager
async def running(vm: AgentVm, container_id: str, *args: str) -> AsyncIterator[None]:
    """A container that runs `args` (or sleeps) during the block."""
    await vm.create(container_id, *(args or ("sleep", "1000")))
    try:
        yield
    finally:
        await vm.remove(container_id)


async def read_metrics(vm: AgentVm) -> dict[str, float]:
    text = (await vm.call("GetMetrics", agent.GetMetricsRequest(), agent.Metrics)).metrics
    rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in rows}


async def check_refusal(vm: AgentVm, code: Code, method: str, request: object) -> str:
    with pytest.raises(GuestError) as caught:
        await vm.do(method, request)  # type: ignore[arg-type]
    assert caught.value.status is code, caught.value
    return str(caught.value)


# Life of a container


async def test_output_error_output_and_status_come_back(vm: AgentVm) -> None:
    assert await vm.run("life", "sh", "-c", "echo out; echo err >&2; exit 7") == (b"out\n", b"err\n", 7)


async def test_a_signal_is_reported_as_128_and_its_number(vm: AgentVm) -> None:
    async with running(vm, "dead"):
        await vm.execute("dead", "e", "sh", "-c", "kill -KILL $$")
        assert await vm.wait("dead", "e") == 128 + signal.SIGKILL


async def test_output_is_still_there_after_the_status_was_taken(vm: AgentVm) -> None:
    await vm.create("late", "echo", "late words")
    assert await vm.wait("late") == 0
    assert await vm.read("late") == b"late words\n"
    await vm.remove("late")


async def test_a_program_that_does_not_exist_is_named_and_leaves_nothing(vm: AgentVm) -> None:
    before = await read_metrics(vm)
    message = await check_refusal(vm, Code.INTERNAL, "CreateContainer", make_container("none", "/bin/nothing"))
    assert "/bin/nothing" in message
    await check_refusal(vm, Code.NOT_FOUND, "RemoveContainer", agent.RemoveContainerRequest(container_id="none"))
    after = await read_metrics(vm)
    assert after["kata_agent_process_open_fds"] == before["kata_agent_process_open_fds"]
    assert (await vm.run("none", "true"))[2] == 0


async def test_a_container_that_never_started_can_be_removed(vm: AgentVm) -> None:
    await vm.create("created", "sleep", "9", start=False)
    await vm.remove("created")


async def test_ids_are_checked(vm: AgentVm) -> None:
    async with running(vm, "twice"):
        await check_refusal(vm, Code.ALREADY_EXISTS, "CreateContainer", make_container("twice", "true"))
    await check_refusal(vm, Code.INVALID_ARGUMENT, "CreateContainer", make_container("../up", "true"))
    await check_refusal(vm, Code.NOT_FOUND, "StartContainer", agent.StartContainerRequest(container_id="nobody"))


async def test_an_orphan_that_keeps_stdout_open_does_not_hold_the_end_back(vm: AgentVm) -> None:
    await vm.create("parent", "sleep", "1000")
    await vm.execute("parent", "leaver", "sh", "-c", "sleep 500 & echo gone")
    assert await vm.read("parent", "leaver") == b"gone\n"
    assert await vm.wait("parent", "leaver") == 0
    await vm.remove("parent")


# What a container sees


async def test_namespaces_are_the_sandboxs_or_its_own(vm: AgentVm) -> None:
    show = "readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts; echo $$; hostname"
    first = (await vm.run("ns1", "sh", "-c", show))[0].split()
    second = (await vm.run("ns2", "sh", "-c", show))[0].split()
    assert first == second
    assert first[2:] == [b"1", b"pod"]


async def test_containers_can_share_the_first_ones_processes(artefacts: Path, tmp_path: Path) -> None:
    async with boot_vm(tmp_path, artefacts) as fresh:
        await fresh.create("pause", "sleep", "1000")
        await _start_sharing(fresh, "peer", "ps")
        assert b"sleep 1000" in await fresh.read("peer")
        assert await fresh.wait("peer") == 0


async def test_containers_of_a_pod_without_a_pause_container_share_processes_and_outlive_each_other(
    artefacts: Path, tmp_path: Path
) -> None:
    member = {"io.katacontainers.pkg.oci.container_type": "pod_container"}
    async with boot_vm(tmp_path, artefacts) as fresh:
        await _start_sharing(fresh, "first", "sleep", "1111", annotations=member)
        await _start_sharing(fresh, "second", "sleep", "2222", annotations=member)
        await fresh.do("SignalProcess", agent.SignalProcessRequest(container_id="first", signal=9))
        assert await fresh.wait("first") == 137
        await _start_sharing(fresh, "third", "ps", annotations=member)
        shown = await fresh.read("third")

    assert b"sleep 2222" in shown
    assert b"sleep 1111" not in shown


async def _start_sharing(vm: AgentVm, container_id: str, *args: str, annotations: dict[str, str] | None = None) -> None:
    request = make_container(container_id, *args)
    request.sandbox_pidns = True
    assert request.OCI is not None
    request.OCI.Annotations = annotations or {}
    await vm.do("CreateContainer", request)
    await vm.do("StartContainer", agent.StartContainerRequest(container_id=container_id))


async def test_limits_of_the_specification_hold(vm: AgentVm) -> None:
    request = make_container(
        "limits",
        *(
            "sh",
            "-c",
            "ulimit -n; ulimit -c; cat /sys/kernel/secret /proc/kcore 2>&1; touch /x; grep Cap /proc/self/status",
        ),
        Rlimits=[oci.POSIXRlimit(Type="RLIMIT_CORE", Soft=0, Hard=0)],
        User=oci.User(UID=1000, GID=100),
        NoNewPrivileges=True,
        Capabilities=oci.LinuxCapabilities(Bounding=["CAP_KILL"]),
    )
    assert request.OCI is not None
    assert request.OCI.Linux is not None
    assert request.OCI.Root is not None
    request.OCI.Root.Readonly = True
    request.OCI.Linux.MaskedPaths = ["/proc/kcore"]
    request.OCI.Linux.ReadonlyPaths = ["/proc/sys"]
    await vm.do("CreateContainer", request)
    await vm.do("StartContainer", agent.StartContainerRequest(container_id="limits"))
    output, errors = await vm.read("limits"), await vm.read("limits", error=True)
    assert output.splitlines()[:2] == [b"1024", b"0"]
    assert b"Read-only file system" in errors
    assert b"CapBnd:\t0000000000000020" in output
    assert b"CapEff:\t0000000000000000" in output
    await vm.remove("limits")


async def test_a_seccomp_profile_is_applied(vm: AgentVm) -> None:
    request = make_container("seccomp", "mkdir", "/tmp/x")
    assert request.OCI is not None
    assert request.OCI.Linux is not None
    syscall = oci.LinuxSyscall(Names=["mkdir", "mkdirat"], Action="SCMP_ACT_ERRNO")
    request.OCI.Linux.Seccomp = oci.LinuxSeccomp(DefaultAction="SCMP_ACT_ALLOW", Syscalls=[syscall])
    await vm.do("CreateContainer", request)
    await vm.do("StartContainer", agent.StartContainerRequest(container_id="seccomp"))
    assert b"Operation not permitted" in await vm.read("seccomp", error=True)
    await vm.remove("seccomp")


async def test_sysctls_of_the_network_and_of_ipc_are_set(vm: AgentVm) -> None:
    request = make_container("sysctl", "cat", "/proc/sys/net/core/somaxconn", "/proc/sys/kernel/shmmni")
    assert request.OCI is not None
    assert request.OCI.Linux is not None
    request.OCI.Linux.Sysctl = {"net.core.somaxconn": "321", "kernel.shmmni": "123"}
    await vm.do("CreateContainer", request)
    await vm.do("StartContainer", agent.StartContainerRequest(container_id="sysctl"))
    assert await vm.read("sysctl") == b"321\n123\n"
    await vm.remove("sysctl")


async def test_only_the_usual_devices_can_be_opened(vm: AgentVm) -> None:
    script = "mknod /tmp/kmsg c 1 11 && head -c1 /tmp/kmsg; head -c1 /dev/zero | wc -c"
    output, errors, _ = await vm.run("devices", "sh", "-c", script)
    assert b"Operation not permitted" in errors
    assert output == b"1\n"


# Executing


async def test_a_process_is_executed_as_another_user_elsewhere(vm: AgentVm) -> None:
    async with running(vm, "host"):
        user = oci.User(UID=1000, GID=100, AdditionalGids=[10])
        await vm.execute(
            "host", "e1", "sh", "-c", "id -u; id -g; grep Groups /proc/self/status; pwd", User=user, Cwd="/tmp"
        )
        assert (await vm.read("host", "e1")).split() == [b"1000", b"100", b"Groups:", b"10", b"/tmp"]
        assert await vm.wait("host", "e1") == 0


async def test_names_of_users_are_looked_up_in_the_container(vm: AgentVm) -> None:
    async with running(vm, "names"):
        process = make_process("id", "-u")
        user = agent.StringUser(uid="alice", gid="wheel")
        request = agent.ExecProcessRequest(container_id="names", exec_id="e", process=process, string_user=user)
        await vm.do("ExecProcess", request)
        assert await vm.read("names", "e") == b"1000\n"
        bad = agent.ExecProcessRequest(
            container_id="names", exec_id="f", process=make_process("id"), string_user=agent.StringUser(uid="mallory")
        )
        await check_refusal(vm, Code.INVALID_ARGUMENT, "ExecProcess", bad)


async def test_a_status_is_not_lost_however_short_the_process(vm: AgentVm) -> None:
    async with running(vm, "short"):
        for number in range(8):
            await vm.execute("short", f"e{number}", "sh", "-c", f"exit {number}")
        assert [await vm.wait("short", f"e{number}") for number in range(8)] == list(range(8))


async def test_nothing_is_left_of_many_executed_processes(vm: AgentVm) -> None:
    async with running(vm, "many"):

        async def run_one(number: int) -> None:
            await vm.execute("many", f"e{number}", "true")
            assert not await vm.read("many", f"e{number}")
            assert not await vm.read("many", f"e{number}", error=True)
            assert await vm.wait("many", f"e{number}") == 0

        await run_one(0)
        before = await read_metrics(vm)
        for number in range(1, 40):
            await run_one(number)
        after = await read_metrics(vm)
    assert after["kata_agent_process_open_fds"] == before["kata_agent_process_open_fds"]
    assert after["kata_agent_total_rss"] - before["kata_agent_total_rss"] < 1 << 20


# Streams


async def test_input_goes_through_and_ends(vm: AgentVm) -> None:
    async with running(vm, "cat", "cat"):
        data = bytes(range(256)) * 4096
        writing = asyncio.create_task(write_all(vm, "cat", data))
        assert await vm.read("cat") == data
        await writing
        assert await vm.wait("cat") == 0


async def write_all(vm: AgentVm, container_id: str, data: bytes) -> None:
    for start in range(0, len(data), 100_000):
        part = data[start : start + 100_000]
        request = agent.WriteStreamRequest(container_id=container_id, data=part)
        assert (await vm.call("WriteStdin", request, agent.WriteStreamResponse)).len == len(part)
    await vm.do("CloseStdin", agent.CloseStdinRequest(container_id=container_id))


async def test_a_full_stdin_blocks_its_writer_and_nobody_else(vm: AgentVm) -> None:
    async with running(vm, "full", "sh", "-c", "read go < /tmp/go; wc -c"):
        await vm.execute("full", "fifo", "mkfifo", "/tmp/go")
    async with running(vm, "full", "sh", "-c", "mkfifo /tmp/go; read x < /tmp/go; md5sum"):
        first = agent.WriteStreamRequest(container_id="full", data=b"a" * (3 << 20))
        second = agent.WriteStreamRequest(container_id="full", data=b"b" * 1000)
        writes = [
            asyncio.create_task(vm.call("WriteStdin", request, agent.WriteStreamResponse))
            for request in (first, second)
        ]
        await vm.execute("full", "peek", "echo", "free")
        assert await vm.read("full", "peek") == b"free\n"
        assert not writes[0].done()
        close = asyncio.create_task(vm.do("CloseStdin", agent.CloseStdinRequest(container_id="full")))
        await vm.execute("full", "go", "sh", "-c", "echo > /tmp/go")
        await asyncio.gather(*writes, close)
        expected = hashlib.md5(b"a" * (3 << 20) + b"b" * 1000).hexdigest()
        assert (await vm.read("full")).split()[0].decode() == expected


async def test_a_flood_of_output_stops_at_the_pipe(vm: AgentVm) -> None:
    before = await read_metrics(vm)
    async with running(vm, "flood", "sh", "-c", "yes | head -c 8000000"):
        request = agent.ReadStreamRequest(container_id="flood", len=10)
        assert (await vm.call("ReadStdout", request, agent.ReadStreamResponse)).data == b"y\n" * 5
        await vm.execute("flood", "other", "true")
        assert await vm.wait("flood", "other") == 0
        after = await read_metrics(vm)
        assert after["kata_agent_total_rss"] - before["kata_agent_total_rss"] < 1 << 20
        began = time.monotonic()
        rest = await vm.read("flood")
        print(f"ReadStdout: {len(rest) / (time.monotonic() - began) / 1e6:.1f} MB/s")
        assert rest == b"y\n" * (4_000_000 - 5)


async def test_a_terminal_has_a_size_and_echoes(vm: AgentVm) -> None:
    await vm.create("tty", "sh", "-c", "read x; stty size; echo $x; tty", Terminal=True)
    await vm.do("TtyWinResize", agent.TtyWinResizeRequest(container_id="tty", row=33, column=77))
    typed = agent.WriteStreamRequest(container_id="tty", data=b"hello\n")
    await vm.call("WriteStdin", typed, agent.WriteStreamResponse)
    assert await vm.read("tty") == b"hello\r\n33 77\r\nhello\r\n/dev/pts/0\r\n"
    assert await vm.read("tty", error=True) == b""
    assert await vm.wait("tty") == 0
    await vm.remove("tty")


async def test_a_process_without_terminal_has_no_size(vm: AgentVm) -> None:
    async with running(vm, "flat"):
        resize = agent.TtyWinResizeRequest(container_id="flat", row=1, column=1)
        await check_refusal(vm, Code.FAILED_PRECONDITION, "TtyWinResize", resize)


async def test_writing_to_a_closed_stdin_is_refused(vm: AgentVm) -> None:
    async with running(vm, "closed"):
        await vm.do("CloseStdin", agent.CloseStdinRequest(container_id="closed"))
        request = agent.WriteStreamRequest(container_id="closed", data=b"x")
        await check_refusal(vm, Code.FAILED_PRECONDITION, "WriteStdin", request)


# Signals


async def test_sigterm_kills_a_first_process_without_handler(vm: AgentVm) -> None:
    async with running(vm, "stubborn"):
        await vm.signal("stubborn", signal.SIGTERM, "stubborn")
        assert await vm.wait("stubborn") == 128 + signal.SIGKILL


async def test_sigterm_reaches_a_handler(vm: AgentVm) -> None:
    async with running(vm, "polite", "sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done"):
        request = agent.ReadStreamRequest(container_id="polite", len=100)
        assert (await vm.call("ReadStdout", request, agent.ReadStreamResponse)).data == b"ready\n"
        await vm.signal("polite", signal.SIGTERM)
        assert await vm.wait("polite") == 3


async def test_sigkill_without_exec_id_kills_everything_even_frozen(vm: AgentVm) -> None:
    async with running(vm, "all"):
        await vm.execute("all", "e", "sleep", "1000")
        await vm.do("PauseContainer", agent.PauseContainerRequest(container_id="all"))
        await vm.signal("all", signal.SIGKILL)
        assert await vm.wait("all", "e") == 128 + signal.SIGKILL
        assert await vm.wait("all") == 128 + signal.SIGKILL


async def test_a_signal_reaches_one_executed_process_only(vm: AgentVm) -> None:
    async with running(vm, "one"):
        await vm.execute("one", "e", "sleep", "1000")
        await vm.signal("one", signal.SIGTERM, "e")
        assert await vm.wait("one", "e") == 128 + signal.SIGTERM
        await vm.signal("one", 0)


async def test_pause_stops_and_resume_goes_on(vm: AgentVm) -> None:
    async with running(vm, "paused", "cat"):
        await vm.do("PauseContainer", agent.PauseContainerRequest(container_id="paused"))
        request = agent.WriteStreamRequest(container_id="paused", data=b"x")
        await vm.call("WriteStdin", request, agent.WriteStreamResponse)
        read = agent.ReadStreamRequest(container_id="paused", len=1)
        with pytest.raises(DeadlineError):
            await vm.call("ReadStdout", read, agent.ReadStreamResponse, timeout=0.5)
        await vm.do("ResumeContainer", agent.ResumeContainerRequest(container_id="paused"))
        assert (await vm.call("ReadStdout", read, agent.ReadStreamResponse)).data == b"x"


# Resources


async def test_limits_can_be_set_and_changed_and_are_reported(vm: AgentVm) -> None:
    request = make_container("sized", "sleep", "1000")
    assert request.OCI is not None
    assert request.OCI.Linux is not None
    request.OCI.Linux.Resources = oci.LinuxResources(
        Memory=oci.LinuxMemory(Limit=64 << 20),
        Pids=oci.LinuxPids(Limit=20),
        CPU=oci.LinuxCPU(Quota=50000, Period=100000),
    )
    await vm.do("CreateContainer", request)
    await vm.do("StartContainer", agent.StartContainerRequest(container_id="sized"))
    ask = agent.StatsContainerRequest(container_id="sized")
    stats = (await vm.call("StatsContainer", ask, agent.StatsContainerResponse)).cgroup_stats
    assert stats is not None
    assert stats.memory_stats is not None
    assert stats.memory_stats.usage is not None
    assert stats.memory_stats.usage.limit == 64 << 20
    assert stats.memory_stats.usage.usage > 0
    assert stats.pids_stats == agent.PidsStats(current=1, limit=20)
    assert stats.cpu_stats is not None
    assert stats.cpu_stats.cpu_usage is not None
    assert stats.cpu_stats.cpu_usage.total_usage > 0
    changed = oci.LinuxResources(Memory=oci.LinuxMemory(Limit=96 << 20))
    await vm.do("UpdateContainer", agent.UpdateContainerRequest(container_id="sized", resources=changed))
    stats = (await vm.call("StatsContainer", ask, agent.StatsContainerResponse)).cgroup_stats
    assert stats is not None
    assert stats.memory_stats is not None
    assert stats.memory_stats.usage is not None
    assert stats.memory_stats.usage.limit == 96 << 20
    await vm.remove("sized")


async def test_running_out_of_memory_is_told_before_the_status(vm: AgentVm) -> None:
    event = asyncio.create_task(vm.call("GetOOMEvent", agent.GetOOMEventRequest(), agent.OOMEvent, timeout=60))
    request = make_container("hungry", "sh", "-c", "x=a; while :; do x=$x$x; done")
    assert request.OCI is not None
    assert request.OCI.Linux is not None
    request.OCI.Linux.Resources = oci.LinuxResources(Memory=oci.LinuxMemory(Limit=16 << 20))
    await vm.do("CreateContainer", request)
    await vm.do("StartContainer", agent.StartContainerRequest(container_id="hungry"))
    assert await vm.wait("hungry") == 128 + signal.SIGKILL
    assert (await event).container_id == "hungry"
    await vm.remove("hungry")


async def test_removal_frees_mounts_and_cgroups(vm: AgentVm) -> None:
    await vm.run("gone", "true")
    metrics = await read_metrics(vm)
    assert not [name for name in metrics if 'mount="/run/kata-containers/gone' in name]
    details = agent.VolumeStatsRequest(volume_guest_path=f"{BASE}/gone")
    await check_refusal(vm, Code.NOT_FOUND, "GetVolumeStats", details)


# The guest


async def test_the_agent_says_what_it_is(vm: AgentVm) -> None:
    version = await vm.client.call(
        "grpc.Health", "Version", health.CheckRequest(), health.VersionCheckResponse, timeout=10
    )
    assert version.grpc_version == "0.0.1"
    request = agent.GuestDetailsRequest(mem_block_size=True)
    details = await vm.call("GetGuestDetails", request, agent.GuestDetailsResponse)
    assert details.agent_details is not None
    assert details.agent_details.init_daemon
    assert {"virtio-fs", "blk", "overlayfs", "ephemeral", "local"} <= set(details.agent_details.storage_handlers)


async def test_the_agent_stays_small(vm: AgentVm) -> None:
    metrics = await read_metrics(vm)
    print(
        f"agent: {metrics['kata_agent_total_rss'] / 1e6:.1f} MB resident; answered {vm.booted:.2f} s after QEMU's start"
    )
    assert metrics["kata_agent_total_rss"] < 24e6


async def test_a_file_is_copied_into_the_share_in_pieces(vm: AgentVm) -> None:
    path = f"{SHARE}/conf/file"
    for offset, data in ((0, b"first "), (6, b"second")):
        request = agent.CopyFileRequest(
            path=path,
            data=data,
            offset=offset,
            file_size=12,
            file_mode=stat.S_IFREG | 0o640,
            dir_mode=0o755,
            uid=5,
            gid=6,
        )
        await vm.do("CopyFile", request)
    request_mount = make_container("reader", "sh", "-c", "cat /c/file; stat -c %a:%u:%g /c/file")
    assert request_mount.OCI is not None
    request_mount.OCI.Mounts.append(oci.Mount(destination="/c", source=f"{SHARE}/conf", type="bind", options=["rbind"]))
    await vm.do("CreateContainer", request_mount)
    await vm.do("StartContainer", agent.StartContainerRequest(container_id="reader"))
    assert await vm.read("reader") == b"first second640:5:6\n"
    await vm.remove("reader")


async def test_a_file_is_not_copied_outside_the_share(vm: AgentVm) -> None:
    for path in ("/etc/passwd", f"{SHARE}/../../x", f"{SHARE}/", SHARE):
        request = agent.CopyFileRequest(path=path, file_mode=stat.S_IFREG | 0o600)
        await check_refusal(vm, Code.INVALID_ARGUMENT, "CopyFile", request)


async def test_a_copy_of_a_volume_follows_it_without_a_word_of_the_host(vm: AgentVm) -> None:
    async def write(content: bytes) -> None:
        request = agent.CopyFileRequest(
            path=f"{SHARE}/volume/key",
            data=content,
            file_size=len(content),
            file_mode=stat.S_IFREG | 0o640,
            dir_mode=0o755,
        )
        await vm.do("CopyFile", request)

    await write(b"one\n")
    request = make_container("copied", "sleep", "1000")
    point = f"{SHARE}/watchable/volume"
    request.storages.append(
        agent.Storage(driver="watchable-bind", source=f"{SHARE}/volume", fstype="bind", mount_point=point)
    )
    assert request.OCI is not None
    request.OCI.Mounts.append(oci.Mount(destination="/c", source=point, type="bind", options=["bind", "ro"]))
    await vm.do("CreateContainer", request)
    await vm.do("StartContainer", agent.StartContainerRequest(container_id="copied"))
    await vm.execute("copied", "first", "sh", "-c", "stat -fc %T /c; cat /c/key")
    assert await vm.read("copied", "first") == b"tmpfs\none\n"
    await write(b"two\n")
    script = "until grep -q two /c/key; do sleep 0.1; done; stat -c %a /c/key"
    await vm.execute("copied", "second", "timeout", "60", "sh", "-c", script)
    assert await vm.read("copied", "second") == b"640\n"
    await vm.remove("copied")


async def test_the_clock_is_set(vm: AgentVm) -> None:
    await vm.do("SetGuestDateTime", agent.SetGuestDateTimeRequest(Sec=1_900_000_000, Usec=5))
    assert (await vm.run("clock", "date", "+%Y"))[0] == b"2030\n"
    await vm.do("SetGuestDateTime", agent.SetGuestDateTimeRequest(Sec=int(time.time())))


async def test_randomness_is_taken(vm: AgentVm) -> None:
    await vm.do("ReseedRandomDev", agent.ReseedRandomDevRequest(data=b"x" * 512))
    await check_refusal(vm, Code.INVALID_ARGUMENT, "ReseedRandomDev", agent.ReseedRandomDevRequest())


async def test_the_loopback_interface_is_up(vm: AgentVm) -> None:
    interfaces = await vm.call("ListInterfaces", agent.ListInterfacesRequest(), agent.Interfaces)
    assert [one.IPAddresses[0].address for one in interfaces.Interfaces if one.name == "lo"] == ["127.0.0.1"]
    await vm.do("OnlineCPUMem", agent.OnlineCPUMemRequest(nb_cpus=1))


async def test_a_missing_disk_is_waited_for_and_named(vm: AgentVm) -> None:
    request = make_container("nodisk", "true")
    request.storages = [agent.Storage(driver="blk", source="1f", fstype="ext4", mount_point=f"{BASE}/nodisk/rootfs")]
    message = await check_refusal(vm, Code.DEADLINE_EXCEEDED, "CreateContainer", request)
    assert "1f" in message


async def test_storages_of_memory_have_their_size_and_group(vm: AgentVm) -> None:
    point = f"{BASE}/sandbox/ephemeral/x"
    request = make_container("tmpfs", "sh", "-c", "stat -c %g:%a /t; df -k /t | tail -1")
    request.storages.append(
        agent.Storage(
            driver="ephemeral", source="tmpfs", fstype="tmpfs", options=["fsgid=77", "size=1m"], mount_point=point
        )
    )
    assert request.OCI is not None
    request.OCI.Mounts.append(oci.Mount(destination="/t", source=point, type="bind", options=["rbind", "rw"]))
    await vm.do("CreateContainer", request)
    await vm.do("StartContainer", agent.StartContainerRequest(container_id="tmpfs"))
    lines = (await vm.read("tmpfs")).splitlines()
    assert lines[0] == b"77:3777"
    assert b" 1024 " in lines[1]
    resize = agent.Storage(driver="ephemeral", source="tmpfs", fstype="tmpfs", options=["size=2m"], mount_point=point)
    await vm.do("UpdateEphemeralMounts", agent.UpdateEphemeralMountsRequest(storages=[resize]))
    ask = agent.VolumeStatsRequest(volume_guest_path=point)
    stats = await vm.call("GetVolumeStats", ask, csi.VolumeStatsResponse)
    assert stats.usage[0].total == 2 << 20
    await vm.remove("tmpfs")


async def test_unknown_and_refused_calls_are_unimplemented(vm: AgentVm) -> None:
    for method in ("SetPolicy", "AddSwap", "GetIPTables", "MemAgentMemcgSet", "NoSuchThing"):
        await check_refusal(vm, Code.UNIMPLEMENTED, method, types.Empty())


async def test_a_second_sandbox_is_refused(vm: AgentVm) -> None:
    await check_refusal(vm, Code.ALREADY_EXISTS, "CreateSandbox", agent.CreateSandboxRequest())


async def test_the_log_arrives_as_json_lines(vm: AgentVm) -> None:
    reader, writer = await asyncio.open_unix_connection(str(vm.directory / "vport-1025.sock"))
    async with asyncio.timeout(10):
        line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    entry = json.loads(line)
    assert entry["source"] == "agent"
    assert entry["level"] == "INFO"


async def test_a_host_that_comes_back_finds_its_containers(vm: AgentVm) -> None:
    async with running(vm, "survivor", "cat"):
        for _ in range(3):
            vm.client.close()
            await vm.client.lost.wait()
            vm.client = await connect_unix(str(vm.directory / "vport-1024.sock"), "the agent", timeout=5)
            write = agent.WriteStreamRequest(container_id="survivor", data=b"again")
            await vm.call("WriteStdin", write, agent.WriteStreamResponse)
            read = agent.ReadStreamRequest(container_id="survivor", len=10)
            assert (await vm.call("ReadStdout", read, agent.ReadStreamResponse)).data == b"again"


async def test_the_debug_console_is_a_shell_and_another_one_after_it(artefacts: Path, tmp_path: Path) -> None:
    build_image(artefacts, debug=True)
    async with boot_vm(tmp_path, artefacts, debug=True):
        for _ in range(2):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "vport-1026.sock"))
            writer.write(b"test -t 0 && echo $((40 + 2)) terminals; exit\n")
            async with asyncio.timeout(30):
                await reader.readuntil(b"42 terminals\r\nexit\r\n")
                await reader.readuntil(b"# ")  # the next shell's prompt
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("initrd", [False, True], ids=["image", "initrd"])
async def test_the_guest_powers_off_when_the_sandbox_is_destroyed(
    artefacts: Path, tmp_path: Path, initrd: bool
) -> None:
    async with boot_vm(tmp_path, artefacts, initrd=initrd) as fresh:
        await fresh.create("still", "sleep", "1000")
        assert (await fresh.run("first", "echo", "hello"))[0] == b"hello\n"
        await fresh.do("DestroySandbox", agent.DestroySandboxRequest())
        assert await asyncio.to_thread(fresh.process.wait, 30) == 0
        assert "fatal" not in fresh.read_console()


async def test_a_clock_that_is_wrong_jumps_to_the_hosts_time(vm: AgentVm) -> None:
    guest = Guest(vm.client)
    clock = GuestClock(guest)
    for error in (10 * SECOND, -3600 * SECOND):
        await guest.set_time(time.time_ns() + error)
        assert abs(await clock.correct() - error) < SECOND
        assert abs(await clock.correct()) < SECOND // 10


async def test_a_clock_that_is_a_little_wrong_does_not_jump(vm: AgentVm) -> None:
    guest = Guest(vm.client)
    await GuestClock(guest).set()
    before = (await guest.read_clock()).nanoseconds
    await guest.correct_clock(-SECOND // 20)
    assert (await guest.read_clock()).nanoseconds > before


async def test_a_time_that_no_clock_can_show_is_refused(vm: AgentVm) -> None:
    guest = Guest(vm.client)
    for gain in (-1 << 62, (1 << 63) - 1):
        with pytest.raises(GuestError, match="no time that a clock can show"):
            await guest.correct_clock(gain)
