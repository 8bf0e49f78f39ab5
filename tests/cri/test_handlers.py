"""Several handlers of one containerd, as a RuntimeClass chooses among them, seen with crictl."""

import platform
import re

import pytest

from cri.crictl import Crictl
from cri.daemon import SMALL_MEMORY
from kata.hypervisor.accelerator import probe_accelerator
from lab.job import find_vmm


@pytest.mark.timeout(600)
def test_pods_of_several_handlers_run_side_by_side_each_by_its_own_configuration(crictl: Crictl) -> None:
    small, host = Crictl(crictl.daemon, "kata-qemu"), Crictl(crictl.daemon, "runc")
    with crictl.hold_pod() as first, small.hold_pod() as second, host.hold_pod() as third:
        kernels, memory = [], []
        for pods, pod in ((crictl, first), (small, second), (host, third)):
            container = pods.start(pod, "sleep", "1000")
            kernels.append(pods.execute(container, "uname", "-r").out.strip())
            memory.append(_read_memory(pods, container))
            assert pods.read("inspectp", pod)["status"]["runtimeHandler"] == pods.handler

    assert kernels[0] == kernels[1] != kernels[2] == platform.release()
    assert memory[1] < SMALL_MEMORY < memory[0] < memory[2]


def test_pods_can_be_listed_by_what_they_are(crictl: Crictl) -> None:
    with crictl.hold_pod(labels={"app": crictl.token}) as pod:
        assert crictl.succeed("pods", "--quiet", "--label", f"app={crictl.token}").split() == [pod]
        assert crictl.succeed("pods", "--quiet", "--label", f"app={crictl.token}", "--state", "NotReady").split() == []
        crictl.succeed("stopp", pod)
        assert crictl.succeed("pods", "--quiet", "--label", f"app={crictl.token}", "--state", "NotReady").split() == [
            pod
        ]


def test_a_handler_that_containerd_does_not_have_is_refused(crictl: Crictl) -> None:
    absent = Crictl(crictl.daemon, "absent")
    with pytest.raises(AssertionError, match=r"no runtime for .*absent.* is configured"), absent.hold_pod():
        pass


def test_a_handler_of_a_hypervisor_that_needs_kvm_says_so_where_kvm_is_of_no_use(crictl: Crictl) -> None:
    if find_vmm("firecracker") is None or find_vmm("jailer") is None:
        pytest.skip("NO firecracker AND jailer on the PATH or in KATA_TEST_BIN")
    report = probe_accelerator()
    if report.accelerator == "kvm":
        pytest.skip("KVM IS OF USE HERE: nothing refuses Firecracker")
    firecracker = Crictl(crictl.daemon, "kata-fc")
    with pytest.raises(AssertionError) as refused, firecracker.hold_pod():
        pass
    assert re.search(r"Firecracker needs KVM, and (KVM runs only|/dev/kvm)", str(refused.value))
    assert "use QEMU" in str(refused.value)


def _read_memory(pods: Crictl, container: str) -> int:
    """Return the memory of the container's kernel, in MiB."""
    line = pods.execute(container, "grep", "MemTotal", "/proc/meminfo").out
    return int(line.split()[1]) >> 10
