"""A host's specification made to fit the guest."""

from typing import Any

import pytest

from kata.agent.bundle import fit_spec
from kata.errors import UsageError
from kata.protocol.messages import oci

SHARED = {"ipc": "/ns/ipc", "uts": "/ns/uts"}


def make_spec(*namespaces: str, **linux: Any) -> oci.Spec:
    kinds = [oci.LinuxNamespace(Type=kind, Path=f"/host/{kind}") for kind in namespaces]
    process, root = oci.Process(Args=["sh"]), oci.Root(Path="/r")
    return oci.Spec(Process=process, Root=root, Hostname="h", Linux=oci.Linux(Namespaces=kinds, **linux))


def fit(spec: oci.Spec, namespaces: dict[str, str] = SHARED) -> oci.Linux:
    fit_spec(spec, "c1", namespaces)
    assert spec.Linux is not None
    return spec.Linux


def test_paths_of_the_host_give_way_to_the_sandboxs_or_to_new_namespaces() -> None:
    linux = fit(make_spec("ipc", "uts", "mount", "pid", "network", "time", "cgroup", "user"))

    assert {kind.Type: kind.Path for kind in linux.Namespaces} == {
        "ipc": "/ns/ipc",
        "uts": "/ns/uts",
        "mount": "",
        "cgroup": "",
        "user": "",
        "pid": "",
    }


def test_a_shared_process_namespace_is_joined() -> None:
    linux = fit(make_spec("mount"), {**SHARED, "pid": "/proc/7/ns/pid"})

    assert [kind.Path for kind in linux.Namespaces if kind.Type == "pid"] == ["/proc/7/ns/pid"]


def test_a_container_on_the_guests_own_name_does_not_set_it() -> None:
    spec = make_spec("mount")
    fit(spec)

    assert not spec.Hostname


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("", "/c1"),
        ("/", "/c1"),
        ("/kubepods/pod1/c1", "/kubepods/pod1/c1"),
        ("machine//c1/", "/machine/c1"),
        ("system.slice:crio:abc", "/crio-abc"),
    ],
)
def test_the_cgroup_is_below_the_guests_root(wanted: str, path: str) -> None:
    assert fit(make_spec(CgroupsPath=wanted)).CgroupsPath == path


@pytest.mark.parametrize("wanted", ["/../x", "a/../../b", "s:..:/../x"])
def test_a_cgroup_path_that_climbs_is_refused(wanted: str) -> None:
    with pytest.raises(UsageError, match="climbs"):
        fit(make_spec(CgroupsPath=wanted))


def test_without_device_rules_only_the_containers_devices_are_allowed() -> None:
    disk = oci.LinuxDevice(Path="/dev/x", Type="b", Major=254, Minor=16)
    linux = fit(make_spec(Devices=[disk]))

    assert linux.Resources is not None
    first, second = linux.Resources.Devices
    assert (first.Allow, first.Access) == (False, "rwm")
    assert (second.Allow, second.Type, second.Major, second.Minor) == (True, "b", 254, 16)


def test_the_hosts_device_rules_are_kept() -> None:
    rule = oci.LinuxDeviceCgroup(Allow=True, Access="rwm")
    linux = fit(make_spec(Resources=oci.LinuxResources(Devices=[rule])))

    assert linux.Resources is not None
    assert linux.Resources.Devices == [rule]


@pytest.mark.parametrize(
    ("asked", "limits"),
    [
        ([], [(1024, 1 << 19)]),
        ([oci.POSIXRlimit(Type="RLIMIT_NOFILE", Soft=1, Hard=2)], [(1, 2)]),
    ],
    ids=["none", "one"],
)
def test_open_files_have_the_usual_limit_unless_another_is_asked_for(
    asked: list[oci.POSIXRlimit], limits: list[tuple[int, int]]
) -> None:
    spec = make_spec()
    assert spec.Process is not None
    spec.Process.Rlimits = asked
    fit(spec)

    assert [(limit.Soft, limit.Hard) for limit in spec.Process.Rlimits] == limits


def test_a_specification_without_a_process_is_refused() -> None:
    with pytest.raises(UsageError, match="c1"):
        fit_spec(oci.Spec(Root=oci.Root(Path="/r")), "c1", {})


def test_a_sysctl_cannot_name_another_file() -> None:
    with pytest.raises(UsageError, match="net"):
        fit(make_spec(Sysctl={"net./../x": "1"}))
