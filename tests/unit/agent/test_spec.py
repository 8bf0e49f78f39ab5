"""The wire's specification as the JSON that an OCI runtime reads."""

import json

from hypothesis import given
from hypothesis import strategies as st

from kata.agent.spec import convert_spec
from kata.protocol.messages import oci

SECCOMP = oci.LinuxSeccomp(
    DefaultAction="SCMP_ACT_ALLOW",
    Syscalls=[
        oci.LinuxSyscall(
            Names=["clone"], Action="SCMP_ACT_ERRNO", Args=[oci.LinuxSeccompArg(Index=0, Value=0, Op="SCMP_CMP_EQ")]
        )
    ],
)
RESOURCES = oci.LinuxResources(
    Devices=[oci.LinuxDeviceCgroup(Access="rwm")],
    Memory=oci.LinuxMemory(Limit=1, KernelTCP=2, DisableOOMKiller=True),
    CPU=oci.LinuxCPU(Shares=2, RealtimeRuntime=1, Cpus="0"),
    Pids=oci.LinuxPids(Limit=5),
    BlockIO=oci.LinuxBlockIO(Weight=10, ThrottleReadIOPSDevice=[oci.LinuxThrottleDevice(Major=8, Minor=0, Rate=0)]),
    HugepageLimits=[oci.LinuxHugepageLimit(Pagesize="2MB", Limit=0)],
    Network=oci.LinuxNetwork(ClassID=1, Priorities=[oci.LinuxInterfacePriority(Name="e", Priority=0)]),
)
SPEC = oci.Spec(
    Version="1.0.2",
    Process=oci.Process(
        Terminal=True,
        ConsoleSize=oci.Box(Height=24, Width=80),
        User=oci.User(UID=1, GID=2, AdditionalGids=[3]),
        Args=["sh"],
        Env=["A=b"],
        Cwd="/",
        Capabilities=oci.LinuxCapabilities(Bounding=["CAP_KILL"]),
        Rlimits=[oci.POSIXRlimit(Type="RLIMIT_CORE")],
        NoNewPrivileges=True,
        OOMScoreAdj=-5,
    ),
    Root=oci.Root(Path="/r", Readonly=True),
    Hostname="h",
    Mounts=[oci.Mount(destination="/d", source="s", type="tmpfs", options=["ro"])],
    Hooks=oci.Hooks(StartContainer=[oci.Hook(Path="/h", Args=["h"], Timeout=3)]),
    Annotations={"k": "v"},
    Linux=oci.Linux(
        UIDMappings=[oci.LinuxIDMapping(HostID=1000, ContainerID=0, Size=1)],
        GIDMappings=[oci.LinuxIDMapping(HostID=1000, ContainerID=0, Size=1)],
        Sysctl={"kernel.shmmni": "1"},
        Resources=RESOURCES,
        CgroupsPath="/p",
        Namespaces=[oci.LinuxNamespace(Type="pid")],
        Devices=[oci.LinuxDevice(Path="/dev/x", Type="c", Major=0, Minor=3, FileMode=0o600)],
        Seccomp=SECCOMP,
        MaskedPaths=["/proc/kcore"],
        ReadonlyPaths=["/proc/sys"],
        IntelRdt=oci.LinuxIntelRdt(L3CacheSchema="x"),
    ),
)
EXPECTED = {
    "ociVersion": "1.0.2",
    "process": {
        "terminal": True,
        "consoleSize": {"height": 24, "width": 80},
        "user": {"uid": 1, "gid": 2, "additionalGids": [3]},
        "args": ["sh"],
        "env": ["A=b"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_CORE", "hard": 0, "soft": 0}],
        "noNewPrivileges": True,
        "oomScoreAdj": -5,
    },
    "root": {"path": "/r", "readonly": True},
    "hostname": "h",
    "mounts": [{"destination": "/d", "source": "s", "type": "tmpfs", "options": ["ro"]}],
    "hooks": {"startContainer": [{"path": "/h", "args": ["h"], "timeout": 3}]},
    "annotations": {"k": "v"},
    "linux": {
        "uidMappings": [{"hostID": 1000, "containerID": 0, "size": 1}],
        "gidMappings": [{"hostID": 1000, "containerID": 0, "size": 1}],
        "sysctl": {"kernel.shmmni": "1"},
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}],
            "memory": {"limit": 1, "kernelTCP": 2, "disableOOMKiller": True},
            "cpu": {"shares": 2, "realtimeRuntime": 1, "cpus": "0"},
            "pids": {"limit": 5},
            "blockIO": {"weight": 10, "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            "network": {"classID": 1, "priorities": [{"name": "e", "priority": 0}]},
        },
        "cgroupsPath": "/p",
        "namespaces": [{"type": "pid"}],
        "devices": [{"path": "/dev/x", "type": "c", "major": 0, "minor": 3, "fileMode": 0o600, "uid": 0, "gid": 0}],
        "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {
                    "names": ["clone"],
                    "action": "SCMP_ACT_ERRNO",
                    "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}],
                }
            ],
        },
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "intelRdt": {"l3CacheSchema": "x"},
    },
}


def test_every_name_is_the_specifications() -> None:
    assert convert_spec(SPEC) == EXPECTED


def test_what_travelled_over_the_wire_converts_to_the_same() -> None:
    assert convert_spec(oci.Spec.decode(SPEC.encode())) == EXPECTED


def test_root_keeps_its_numbers_and_an_empty_list_of_mounts_stays() -> None:
    spec = oci.Spec(Version="1.0.0", Process=oci.Process(User=oci.User()))

    assert convert_spec(spec) == {
        "ociVersion": "1.0.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": [], "cwd": ""},
        "mounts": [],
    }


def test_device_rules_without_numbers_mean_all_of_the_type() -> None:
    every = oci.LinuxDeviceCgroup(Allow=True, Type="c", Access="m")
    terminals = oci.LinuxDeviceCgroup(Allow=True, Type="c", Major=136, Minor=-1, Access="rwm")
    one = oci.LinuxDeviceCgroup(Allow=True, Type="c", Major=5, Minor=0, Access="rwm")

    assert convert_spec(every) == {"allow": True, "type": "c", "access": "m"}
    assert convert_spec(terminals) == {"allow": True, "type": "c", "major": 136, "access": "rwm"}
    assert convert_spec(one) == {"allow": True, "type": "c", "major": 5, "minor": 0, "access": "rwm"}


words = st.lists(st.text(max_size=8), max_size=3)
ids = st.integers(0, 2**32 - 1)
processes = st.builds(
    oci.Process,
    Terminal=st.booleans(),
    Args=words,
    Env=words,
    Cwd=st.text(max_size=8),
    OOMScoreAdj=st.integers(-1000, 1000),
    User=st.builds(oci.User, UID=ids, AdditionalGids=st.lists(ids, max_size=3)),
)


@given(process=processes)
def test_no_word_of_a_process_is_lost(process: oci.Process) -> None:
    converted = json.loads(json.dumps(convert_spec(process)))

    assert converted["args"] == process.Args
    assert converted.get("env", []) == process.Env
    assert converted.get("oomScoreAdj", 0) == process.OOMScoreAdj
    assert process.User is not None
    assert converted["user"]["uid"] == process.User.UID
    assert converted["user"].get("additionalGids", []) == process.User.AdditionalGids
