"""A pod that is resized in place, as the kubelet does it: by UpdateContainerResources of the CRI."""

import pytest

from cri.crictl import Crictl

_MIB = 1 << 20


def limit(memory_mib: int) -> dict[str, object]:
    """Return the part of a ContainerConfig that limits memory."""
    return {"resources": {"memory_limit_in_bytes": memory_mib * _MIB}}


def read_memory(pods: Crictl, container: str) -> int:
    """Return the MiB of the guest's memory."""
    return int(pods.execute(container, "grep", "MemTotal", "/proc/meminfo").out.split()[1]) >> 10


@pytest.mark.timeout(600)
def test_a_pod_whose_containers_want_more_than_its_vm_has_gets_it_and_keeps_running(crictl: Crictl) -> None:
    pods = Crictl(crictl.daemon, "kata-qemu")
    with pods.hold_pod() as pod:
        first = pods.start(pod, "sleep", "1000", linux=limit(200))
        before = read_memory(pods, first)
        second = pods.start(pod, "sleep", "1000", linux=limit(400))
        both = read_memory(pods, second)
        # 200 + 400 + 96, of which the VM began with 320.
        assert before + 350 < both <= before + 376

        pods.succeed("update", "--memory", str(600 * _MIB), second)
        more = read_memory(pods, second)
        assert both + 190 < more <= both + 200
        assert pods.find_state(first) == "CONTAINER_RUNNING"
