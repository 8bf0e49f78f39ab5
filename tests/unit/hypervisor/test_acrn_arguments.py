"""acrn-dm's command line, read by a checker that was written from ACRN's documentation."""

from pathlib import Path

import pytest

from acrn.checker import Refused, translate
from kata.errors import ConfigError, NotFoundError, UnsupportedError
from kata.hypervisor.acrn.arguments import build_arguments
from kata.hypervisor.acrn.driver import Acrn, AcrnSettings
from kata.hypervisor.spec import Balloon, BlockDevice, NetDevice, Rng, SharedFs, VmSpec, Vsock

CHECKER = Path(__file__).parents[2] / "acrn/checker.py"


@pytest.fixture
def spec(tmp_path: Path) -> VmSpec:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"\0" * 0x202 + b"HdrS")
    for name in ("root.img", "disk"):
        (tmp_path / name).write_bytes(b"\0" * 512)
    return VmSpec(
        id="box",
        directory=str(tmp_path),
        kernel=str(kernel),
        image=str(tmp_path / "root.img"),
        vcpus=2,
        memory_mib=512,
        kernel_parameters=("console=ttyS0", "quiet"),
        devices=(
            Vsock(77, -1),
            Rng(),
            BlockDevice("data", str(tmp_path / "disk")),
            NetDevice("net0", "02:00:00:00:00:01", (5,), tap="tap0_kata"),
        ),
    )


def build(spec: VmSpec) -> list[str]:
    return build_arguments(spec, "/usr/bin/acrn-dm", "POST_STD_VM1", cpus=(1, 2))


def test_a_vm_with_a_device_of_each_kind_is_one_that_it_takes(spec: VmSpec) -> None:
    qemu = " ".join(translate(build(spec)[1:]))
    assert "-m 512" in qemu
    assert "-smp 2" in qemu
    assert "guest-cid=77" in qemu
    assert f"file={spec.image},format=raw,if=none,id=d2,readonly=on" in qemu
    assert "ifname=tap0_kata" in qemu
    assert "-append console=ttyS0 quiet" in qemu


def test_an_initrd_is_its_ramdisk(spec: VmSpec) -> None:
    argv = build(spec._replace(image=None, initrd=spec.image))
    assert argv[argv.index("-r") + 1] == spec.image
    assert "-initrd" in translate(argv[1:])


def test_the_name_of_the_scenarios_vm_comes_last(spec: VmSpec) -> None:
    assert build(spec)[-1] == "POST_STD_VM1"


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"vcpus": 3}, ConfigError, "3 vCPUs for 2 physical"),
        ({"max_vcpus": 4}, UnsupportedError, "cannot grow"),
        ({"memory_mib": 0}, ConfigError, "0 MiB"),
        ({"kernel_parameters": ("x" * 1024,)}, ConfigError, "1024 characters of kernel parameters"),
        ({"kernel": "/a,b"}, ConfigError, "cannot open /a,b"),
        ({"hugepages": True}, UnsupportedError, "huge pages"),
        ({"devices": (Balloon(),)}, UnsupportedError, "no balloon"),
        ({"devices": (SharedFs("kataShared", 5),)}, UnsupportedError, "SharedFs, which acrn-dm has not"),
        ({"devices": (Rng(),) * 29}, ConfigError, "30 devices"),
    ],
)
def test_a_vm_that_cannot_be_is_refused(
    spec: VmSpec, change: dict[str, object], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        build(spec._replace(**change))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a" * 16, "a b", "a,b"])
def test_a_name_that_no_scenario_has_is_refused(spec: VmSpec, name: str) -> None:
    with pytest.raises(ConfigError, match="ACRN has no VM"):
        build_arguments(spec, "/usr/bin/acrn-dm", name, cpus=(1, 2))


@pytest.mark.parametrize(
    ("find", "put"),
    [
        ("512M", "512"),
        ("-k", "-K"),
        ("3,virtio-blk", "3,virtio-floppy"),
        ("4,vhost-vsock", "3,vhost-vsock"),
        ("cid=77", "cid=2"),
        ("1,2", "1,1"),
        ("0:0,hostbridge", "0:0,lpc"),
        (",ro", ",rw"),
        ("mac=02:00:00:00:00:01", "mac=2"),
        ("com1,stdio", "com9,stdio"),
        ("POST_STD_VM1", "-x"),
    ],
)
def test_the_checker_is_strict(spec: VmSpec, find: str, put: str) -> None:
    argv = build(spec)[1:]
    changed = [word.replace(find, put) for word in argv]
    assert changed != argv
    with pytest.raises(Refused):
        translate(changed)


def test_a_host_that_is_no_service_vm_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="is no Service VM of ACRN's"):
        Acrn(AcrnSettings(path=str(CHECKER), device=str(tmp_path / "acrn_hsm")), None)
    with pytest.raises(NotFoundError, match="no acrn-dm at"):
        Acrn(AcrnSettings(path=str(tmp_path / "acrn-dm")), None)


def test_its_version_is_read(tmp_path: Path) -> None:
    assert Acrn(AcrnSettings(path=str(CHECKER), device="/dev/null"), str(tmp_path)).version == "3.3"


async def test_a_kernel_that_it_cannot_boot_is_named(spec: VmSpec, tmp_path: Path) -> None:
    driver = Acrn(AcrnSettings(path=str(CHECKER), device="/dev/null"), None)
    with pytest.raises(ConfigError, match="is no bzImage"):
        await driver.start(spec._replace(kernel=str(tmp_path / "disk")))


async def test_what_acrn_dm_says_when_it_refuses_is_in_the_reason(spec: VmSpec, tmp_path: Path) -> None:
    driver = Acrn(AcrnSettings(path=str(CHECKER), device="/dev/null"), None)
    (tmp_path / "root.img").unlink()
    vm = await driver.start(spec)
    leaving = await vm.wait_exit()
    await vm.stop()
    assert leaving.reason == f"acrn-dm exited with status 1: acrn-dm: virtio-blk {tmp_path}/root.img cannot be opened"
