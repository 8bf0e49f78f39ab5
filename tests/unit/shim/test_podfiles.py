"""The files that each container of a pod without a pause container gets."""

import os
from pathlib import Path

import pytest

from isolation import needs_root, run_with_own_mounts
from kata.errors import HostError
from kata.protocol.messages.cri import DnsConfig, PodSandboxConfig
from kata.shim.podfiles import make_pod_files

pytestmark = needs_root


def _read_host(path: str) -> bytes:
    """Return what a file of this host holds, nothing where there is none."""
    return Path(path).read_bytes() if Path(path).exists() else b""


def test_the_pods_name_servers_and_name_are_in_its_files_and_the_hosts_hosts(tmp_path: Path) -> None:
    dns = DnsConfig(servers=["10.0.0.1", "10.0.0.2"], searches=["a.local", "local"], options=["ndots:5"])

    def body() -> None:
        mounts = make_pod_files(f"{tmp_path}/etc", PodSandboxConfig(hostname="web", dns_config=dns))

        assert [mount["destination"] for mount in mounts] == ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]
        name, hosts, servers = (Path(mount["source"]) for mount in mounts)
        assert name.read_text() == "web\n"
        assert hosts.read_bytes() == _read_host("/etc/hosts")
        assert servers.read_text() == (
            "search a.local local\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n"
        )
        assert servers.stat().st_mode & 0o777 == 0o644

    run_with_own_mounts(body)
    assert os.listdir(tmp_path / "etc") == []


def test_a_pod_of_which_nothing_is_said_has_the_hosts_name_and_name_servers(tmp_path: Path) -> None:
    def body() -> None:
        name, _, servers = make_pod_files(f"{tmp_path}/etc", PodSandboxConfig())

        assert Path(name["source"]).read_text() == f"{os.uname().nodename}\n"
        assert Path(servers["source"]).read_bytes() == _read_host("/etc/resolv.conf")

    run_with_own_mounts(body)


def test_the_files_take_a_megabyte_of_the_host_at_most(tmp_path: Path) -> None:
    def body() -> None:
        [_, hosts, _] = make_pod_files(f"{tmp_path}/etc", PodSandboxConfig())
        with pytest.raises(OSError, match="No space left"):
            Path(hosts["source"]).write_bytes(bytes(2 << 20))

    run_with_own_mounts(body)


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="file/etc"):
        make_pod_files(f"{tmp_path}/file/etc", PodSandboxConfig())
