"""A RuntimeClass chooses the hypervisor by its handler, as kubernetes.md says: in the lab, by crictl for a kubelet."""

import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import leaks
from cri.crictl import Crictl
from cri.daemon import CriDaemon
from cri.images import add_base_images
from lab.installed import FLAVOURS, Flavour, configure_installed, list_vmms, require_flavour
from netns import enter_network_namespace
from peers import require_installed, require_program


@pytest.fixture(scope="module")
def daemon() -> Iterator[CriDaemon]:
    with configure_installed():
        require_program("cri-tools", "crictl")
        place = Path(tempfile.mkdtemp(prefix="kata-k-"))
        try:
            daemon = CriDaemon(place, None, add_base_images, require_installed("containerd"))
            with enter_network_namespace(), daemon:
                yield daemon
        finally:
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(params=list(FLAVOURS))
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return require_flavour(request.param)


@pytest.mark.timeout(400)
def test_a_pod_lives_in_a_vm_of_the_hypervisor_that_the_handler_of_its_class_names(
    daemon: CriDaemon, flavour: Flavour
) -> None:
    before = leaks.list_taps()
    crictl = Crictl(daemon, f"kata-{flavour.name}")
    with crictl.hold_pod() as pod:
        assert [program for _, program in list_vmms()] == [flavour.vmm]
        status = crictl.read("inspectp", pod)["status"]
        assert status["runtimeHandler"] == crictl.handler
        container = crictl.start(pod, "sh", "-c", "echo to the log; cat /proc/version; sleep 1000")
        crictl.wait_for_log(container, "to the log")
        assert platform.release() not in crictl.succeed("logs", container)
        assert f" {status['network']['ip']}/24 " in crictl.execute(container, "ip", "-4", "address").out
        assert crictl.execute(container, "sh", "-c", "cat; exit 5", flags=("-i",), stdin="hello\n").out == "hello\n"
        crictl.succeed("stop", "--timeout", "0", container)
        assert crictl.wait_for_exit(container)["exitCode"] == 137
    assert not crictl.wait_until_gone(pod)
    assert list_vmms() == []
    assert leaks.list_taps() <= before
