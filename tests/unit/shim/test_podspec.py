"""A sandbox without a first container gets its spec from the CRI's configuration of the pod."""

import json
import os
import typing
from pathlib import Path

import pytest

from kata.errors import UnsupportedError, UsageError
from kata.protocol.messages import cri
from kata.protocol.messages.google import Any
from kata.protocol.messages.sandboxapi import CreateSandboxRequest
from kata.protocol.oci.network import find_network_namespace
from kata.protocol.oci.pod import Role
from kata.shim.bundle import find_place
from kata.shim.podspec import make_pod_spec, read_pod_config, write_pod_spec


def _make_request(
    config: cri.PodSandboxConfig, bundle: str = "", network: str = "/run/netns/n"
) -> CreateSandboxRequest:
    options = Any(type_url=cri.POD_CONFIG_TYPE, value=config.encode())
    return CreateSandboxRequest(sandbox_id="pod", bundle_path=bundle, options=options, netns_path=network)


def _make_spec(request: CreateSandboxRequest) -> dict[str, typing.Any]:
    return make_pod_spec(request, read_pod_config(request))


def test_the_pods_name_limits_cgroup_settings_and_network_are_in_the_spec() -> None:
    limits = cri.LinuxContainerResources(cpu_quota=150_000, cpu_period=100_000, memory_limit_in_bytes=1 << 28)
    linux = cri.LinuxPodSandboxConfig(cgroup_parent="/kube", sysctls={"net.a": "1"}, resources=limits)
    spec = _make_spec(_make_request(cri.PodSandboxConfig(hostname="web", annotations={"a": "b"}, linux=linux)))

    assert spec["hostname"] == "web"
    assert spec["annotations"] == {"a": "b", "io.kubernetes.cri.container-type": "sandbox"}
    assert spec["linux"]["cgroupsPath"] == "/kube/pod"
    assert spec["linux"]["sysctl"] == {"net.a": "1"}
    assert spec["linux"]["namespaces"] == [{"type": "network", "path": "/run/netns/n"}]
    assert spec["linux"]["resources"]["cpu"] == {"quota": 150_000, "period": 100_000, "shares": 0}
    assert spec["linux"]["resources"]["memory"] == {"limit": 1 << 28}


def test_a_pod_on_the_hosts_network_is_refused() -> None:
    spec = _make_spec(_make_request(cri.PodSandboxConfig(), network=""))

    with pytest.raises(UnsupportedError, match="host's network"):
        find_network_namespace(spec)


def test_a_sandbox_that_is_no_pod_of_the_cri_gets_a_network_of_its_own() -> None:
    assert find_network_namespace(_make_spec(CreateSandboxRequest(sandbox_id="alone"))) == ""


def test_a_pod_without_a_name_has_the_hosts() -> None:
    assert _make_spec(_make_request(cri.PodSandboxConfig()))["hostname"] == os.uname().nodename


def test_a_slice_of_systemd_gets_containerds_form_of_a_scope() -> None:
    linux = cri.LinuxPodSandboxConfig(cgroup_parent="/kubepods.slice/kubepods-a.slice")
    spec = _make_spec(_make_request(cri.PodSandboxConfig(linux=linux)))

    assert spec["linux"]["cgroupsPath"] == "kubepods-a.slice:cri-containerd:pod"


def test_what_containerd_wrote_into_the_bundle_stays(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hostname": "given"}))
    text = write_pod_spec(CreateSandboxRequest(sandbox_id="pod", bundle_path=str(tmp_path)))

    spec = json.loads(text)
    assert json.loads((tmp_path / "config.json").read_text()) == spec
    assert (spec["hostname"], spec["root"]) == ("given", {"path": "rootfs"})


def test_a_configuration_that_is_no_message_is_refused() -> None:
    request = CreateSandboxRequest(sandbox_id="pod", options=Any(type_url=cri.POD_CONFIG_TYPE, value=b"\xff"))

    with pytest.raises(UsageError, match="configuration of sandbox pod"):
        read_pod_config(request)


def test_a_bundle_without_a_spec_is_a_sandboxs(tmp_path: Path) -> None:
    assert find_place(str(tmp_path), "pod") == (Role.SANDBOX, "pod")
