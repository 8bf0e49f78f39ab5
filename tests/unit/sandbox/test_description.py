"""What a sandbox's VM is by its configuration, what the host has, and what the driver can do."""

import pytest

from kata.config.artifacts import Artifacts
from kata.config.model import Configuration, HypervisorConfig
from kata.hypervisor.driver import Capabilities
from kata.sandbox.description import has_dax, list_kernel_parameters

_IMAGE = Artifacts("/boot/vmlinux", "/srv/root.img")
_CAN = Capabilities(("hybrid-vsock",), "kvm", image_dax=True)
_WANTED = HypervisorConfig(disable_image_nvdimm=False)


@pytest.mark.parametrize(
    ("config", "artifacts", "capabilities"),
    [
        (HypervisorConfig(), _IMAGE, _CAN),
        (_WANTED, Artifacts("/boot/vmlinux", initrd="/boot/initrd"), _CAN),
        (_WANTED, _IMAGE, _CAN._replace(image_dax=False)),
        (_WANTED._replace(confidential_guest=True), _IMAGE, _CAN),
    ],
    ids=["not asked for", "an initrd", "a driver without", "confidential"],
)
def test_an_image_is_a_disk_unless_it_is_asked_for_as_memory_and_can_be(
    config: HypervisorConfig, artifacts: Artifacts, capabilities: Capabilities
) -> None:
    assert not has_dax(config, artifacts, capabilities)
    assert has_dax(_WANTED, _IMAGE, _CAN)


def test_the_kernel_is_told_where_its_root_is() -> None:
    disk = list_kernel_parameters(Configuration(), _IMAGE, "vsock://:1024")
    assert "root=/dev/vda" in disk
    memory = list_kernel_parameters(Configuration(), _IMAGE, "vsock://:1024", dax=True)
    assert set(memory) - set(disk) == {"root=/dev/pmem0", "rootflags=dax=always"}
