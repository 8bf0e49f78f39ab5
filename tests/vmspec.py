"""The VM of tests that read what a driver makes of one: small, with an image and a console."""

from kata.hypervisor.spec import Device, VmSpec


def describe_vm(*devices: Device, vcpus: int = 1) -> VmSpec:
    return VmSpec(
        id="box",
        directory="/run/box",
        kernel="/boot/vmlinux",
        image="/srv/root.img",
        vcpus=vcpus,
        memory_mib=512,
        kernel_parameters=("console=ttyS0", "quiet"),
        devices=devices,
    )
