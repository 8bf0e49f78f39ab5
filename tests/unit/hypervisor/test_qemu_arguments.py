import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import ConfigError
from kata.hypervisor.qemu.arguments import (
    MOST_PORTS,
    Descriptors,
    Machine,
    build_arguments,
    format_option,
    list_borrowed_descriptors,
    list_cards_in_ports,
)
from kata.hypervisor.qemu.microvm import fix_devices
from kata.hypervisor.spec import Balloon, BlockDevice, NetDevice, Rng, SerialPort, SharedFs, VfioDevice, VmSpec, Vsock

SPEC = VmSpec(
    id="web",
    directory="/run/kata/sandboxes/web",
    kernel="/k",
    image="/i",
    vcpus=2,
    memory_mib=256,
    kernel_parameters=("console=ttyS0", "root=/dev/vda"),
    devices=(
        SerialPort("kata.vport.1024", "/run/v"),
        NetDevice("eth0", "02:00:00:00:00:01", taps=(20,), vhost=(21,)),
        SharedFs("kataShared", 22),
        BlockDevice("data", "/d"),
        Rng(),
    ),
    hotplug_ports=1,
)
WIRES = Descriptors(qmp=3, console=4, kernel=5, image=6, disks={"data": 7}, ports={"kata.vport.1024": 8})
TCG = Machine("/usr/bin/qemu-system-x86_64", "tcg")


GOLDEN = """\
/usr/bin/qemu-system-x86_64
-name guest=sandbox-web,debug-threads=on
-nodefaults
-no-user-config
-no-reboot
-display none
-vga none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-machine q35,memory-backend=ram,hpet=off,sata=off,smbus=off,usb=off,graphics=off,vmport=off,dump-guest-core=off
-accel tcg,thread=multi,tb-size=128
-cpu max,la57=off,erms=off
-smp 2
-m size=256M
-object memory-backend-memfd,id=ram,size=256M,share=on
-rtc base=utc,clock=host
-kernel /proc/self/fd/5
-append tsc=reliable mitigations=off init_on_alloc=1 console=ttyS0 root=/dev/vda
-chardev socket,id=qmp,fd=3
-mon chardev=qmp,mode=control
-chardev socket,id=console,fd=4
-device isa-serial,chardev=console
-device pcie-root-port,id=rp0,bus=pcie.0,addr=0x10,chassis=1,io-reserve=0
-add-fd fd=6,set=1
-blockdev driver=file,node-name=image,filename=/dev/fdset/1,read-only=on,locking=off,cache.direct=off
-device virtio-blk-pci,id=dev-image,drive=image,serial=image,disable-legacy=on
-device virtio-serial-pci,id=vserial,max_ports=2,disable-legacy=on
-chardev socket,id=port0,fd=8,server=on,wait=off
-device virtserialport,bus=vserial.0,nr=1,chardev=port0,name=kata.vport.1024
-netdev tap,id=net0,fd=20,vhost=on,vhostfd=21
-device virtio-net-pci,id=dev-net0,netdev=net0,mac=02:00:00:00:00:01,disable-legacy=on,romfile=
-chardev socket,id=fs1,fd=22
-device vhost-user-fs-pci,chardev=fs1,tag=kataShared,queue-size=1024
-add-fd fd=7,set=2
-blockdev driver=file,node-name=disk2,filename=/dev/fdset/2,read-only=off,locking=off,cache.direct=off
-device virtio-blk-pci,id=dev-disk2,drive=disk2,serial=data,disable-legacy=on
-object rng-builtin,id=rng3
-device virtio-rng-pci,rng=rng3,disable-legacy=on
"""


def show(arguments: list[str]) -> str:
    """One option a line."""
    return "".join(f"\n{word}" if word.startswith("-") else f" {word}" for word in arguments).lstrip() + "\n"


def test_a_whole_vm_gives_this_command_line() -> None:
    assert show(build_arguments(SPEC, TCG, WIRES)) == GOLDEN


def test_kvm_uses_the_hosts_processor() -> None:
    shown = show(build_arguments(SPEC, TCG._replace(accelerator="kvm"), WIRES))
    assert "\n-accel kvm\n-cpu host,pmu=off\n" in shown
    assert "tcg" not in shown


def test_no_path_of_the_host_reaches_the_command_line() -> None:
    arguments = build_arguments(SPEC, TCG, WIRES)[1:]
    paths = {word for argument in arguments for part in argument.split(",") for word in part.split("=") if "/" in word}
    assert paths == {"/proc/self/fd/5", "/dev/fdset/1", "/dev/fdset/2", "/dev/vda"}


def test_the_image_is_the_first_disk_and_read_only() -> None:
    disks = [word for word in build_arguments(SPEC, TCG, WIRES) if word.startswith("driver=file")]
    assert "node-name=image" in disks[0]
    assert "read-only=on" in disks[0]


def test_more_queues_than_one_use_the_plural_options() -> None:
    card = NetDevice("eth0", "02:00:00:00:00:01", taps=(20, 21), vhost=(22, 23))
    shown = show(build_arguments(SPEC._replace(devices=(card,)), TCG, WIRES))
    assert "-netdev tap,id=net0,fds=20:21,vhost=on,vhostfds=22:23\n" in shown
    assert "mq=on,vectors=6\n" in shown


def test_cards_that_can_be_unplugged_have_the_first_ports() -> None:
    cards = tuple(NetDevice(name, "02:00:00:00:00:01", taps=(20,), in_port=True) for name in ("net7", "net8"))
    spec = SPEC._replace(devices=(SPEC.devices[0], Rng(), *cards), hotplug_ports=1)
    shown = show(build_arguments(spec, TCG, WIRES))
    assert list_cards_in_ports(spec) == {"net7": "net1", "net8": "net2"}
    assert [line.partition("id=")[2][:3] for line in shown.splitlines() if "pcie-root-port" in line] == [
        "rp0",
        "rp1",
        "rp2",
    ]
    assert "-device virtio-net-pci,bus=rp0,id=dev-net1,netdev=net1," in shown
    assert "-device virtio-net-pci,bus=rp1,id=dev-net2,netdev=net2," in shown


def test_the_rarer_devices_have_their_options() -> None:
    devices = (Vsock(7, 30), Balloon(), VfioDevice("gpu", "0000:65:00.0"))
    shown = show(build_arguments(SPEC._replace(devices=devices), TCG, WIRES))
    assert "-device vhost-vsock-pci,vhostfd=30,guest-cid=7,disable-legacy=on\n" in shown
    assert "-device virtio-balloon-pci,free-page-reporting=on,disable-legacy=on\n" in shown
    assert "-device vfio-pci,id=dev-vfio2,host=0000:65:00.0,rombar=0\n" in shown


def test_an_initrd_comes_as_a_descriptor_too() -> None:
    spec = SPEC._replace(image=None, initrd="/initrd", paused=True)
    arguments = build_arguments(spec, TCG, WIRES._replace(image=None, initrd=9))
    assert arguments[arguments.index("-initrd") + 1] == "/proc/self/fd/9"
    assert arguments[-1] == "-S"


def test_borrowed_descriptors_are_all_found() -> None:
    devices = (*SPEC.devices, Vsock(3, 30))
    assert list_borrowed_descriptors(SPEC._replace(devices=devices)) == [20, 21, 22, 30]


@pytest.mark.parametrize(
    "spec",
    [
        SPEC._replace(vcpus=0),
        SPEC._replace(vcpus=4, max_vcpus=2),
        SPEC._replace(memory_mib=0),
        SPEC._replace(memory_mib=512, max_memory_mib=256),
        SPEC._replace(hotplug_ports=MOST_PORTS + 1),
        SPEC._replace(initrd="/initrd"),
    ],
)
def test_a_vm_that_cannot_be_is_refused(spec: VmSpec) -> None:
    with pytest.raises(ConfigError, match="sandbox web"):
        build_arguments(spec, TCG, WIRES)


def split_option(option: str) -> list[str]:
    """What QEMU's parser makes of it: commas part, doubled commas stay."""
    parts = [""]
    position = 0
    while position < len(option):
        if option.startswith(",,", position):
            parts[-1] += ","
            position += 2
        elif option[position] == ",":
            parts.append("")
            position += 1
        else:
            parts[-1] += option[position]
            position += 1
    return parts


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=12), min_size=1, max_size=4))
def test_no_value_can_smuggle_in_another_option(values: list[str]) -> None:
    option = format_option("device", {f"k{index}": value for index, value in enumerate(values)})
    assert split_option(option) == ["device", *(f"k{index}={value}" for index, value in enumerate(values))]


@given(
    vcpus=st.integers(1, 64),
    memory=st.integers(64, 1 << 16),
    ports=st.integers(0, MOST_PORTS),
    identity=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=64),
)
def test_every_valid_size_gives_one_vm_of_that_size(vcpus: int, memory: int, ports: int, identity: str) -> None:
    spec = SPEC._replace(id=identity, vcpus=vcpus, memory_mib=memory, hotplug_ports=ports)
    arguments = build_arguments(spec, TCG, WIRES)
    assert arguments[arguments.index("-smp") + 1] == str(vcpus)
    assert arguments[arguments.index("-m") + 1] == f"size={memory}M"
    assert sum(word.startswith("pcie-root-port") for word in arguments) == ports
    assert "-sandbox" in arguments


def test_huge_pages_are_taken_at_once() -> None:
    arguments = build_arguments(SPEC._replace(hugepages=True), TCG, WIRES)
    assert "memory-backend-memfd,id=ram,size=256M,share=on,hugetlb=on,prealloc=on" in arguments


def test_a_vm_and_the_one_it_goes_on_from_have_the_same_machine() -> None:
    wires = WIRES._replace(memory=40)
    saved = build_arguments(SPEC._replace(savable=True), TCG, wires)
    assert "memory-backend-file,id=ram,size=256M,share=on,mem-path=/proc/self/fd/40" in saved
    assert saved[-2:] == ["-device", "vmgenid,guid=auto"]
    assert build_arguments(SPEC._replace(saved="/saved"), TCG, wires) == [*saved, "-incoming", "defer"]


def test_a_vm_that_can_grow_has_places_for_vcpus_and_one_device_for_memory() -> None:
    spec = SPEC._replace(max_vcpus=4, max_memory_mib=1024)
    shown = show(build_arguments(spec, TCG._replace(accelerator="kvm"), WIRES))
    assert "\n-smp 2,maxcpus=4\n-m size=256M,slots=1,maxmem=1024M\n" in shown
    assert "\n-object memory-backend-memfd,id=growth,size=768M,share=on\n" in shown
    assert "\n-device virtio-mem-pci,id=dev-growth,memdev=growth,requested-size=0,disable-legacy=on\n" in shown


def test_a_vm_with_all_the_memory_that_it_may_have_has_no_device_for_more() -> None:
    assert "virtio-mem" not in show(build_arguments(SPEC._replace(max_vcpus=4, max_memory_mib=256), TCG, WIRES))


def test_an_emulated_guest_that_can_grow_has_its_vcpus_from_the_start_and_leaves_them_asleep() -> None:
    shown = show(build_arguments(SPEC._replace(max_vcpus=4), TCG, WIRES))
    assert "\n-smp 4,maxcpus=4\n" in shown
    assert " maxcpus=2 console=ttyS0 " in shown


def test_an_emulated_guest_is_told_how_fast_its_counter_runs() -> None:
    arguments = build_arguments(SPEC, TCG._replace(tsc_khz=2_600_000), WIRES)
    assert "tsc_early_khz=2600000" in arguments[arguments.index("-append") + 1].split()


def test_a_device_of_the_host_is_in_a_port_from_the_start_where_it_is_to_be_found() -> None:
    gpu = VfioDevice("gpu", "0000:65:00.0", in_port=True)
    spec = SPEC._replace(hotplug_ports=1, iommu=True, devices=(Rng(), gpu))

    shown = show(build_arguments(spec, TCG, WIRES))

    assert "-device vfio-pci,id=dev-vfio1,bus=rp0,host=0000:65:00.0,rombar=0\n" in shown
    assert "-device virtio-iommu-pci,disable-legacy=on\n" in shown
    assert list_cards_in_ports(spec) == {"gpu": "vfio1"}


def test_the_microvm_has_no_pci_and_nothing_to_plug_into() -> None:
    card = NetDevice("eth1", "02:00:00:00:00:02", taps=(23,), in_port=True)
    spec = SPEC._replace(scsi=True, max_vcpus=8, max_memory_mib=4096, devices=(*SPEC.devices, card))
    spec = fix_devices(spec)
    argv = build_arguments(spec, TCG._replace(kind="microvm"), WIRES)

    switches = "rtc=on,graphics=off,usb=off,dump-guest-core=off,isa-serial=off"
    assert argv[argv.index("-machine") + 1] == f"microvm,memory-backend=ram,{switches}"
    assert "virtio-mmio.force-legacy=false" in argv
    devices = [argv[at + 1] for at, word in enumerate(argv) if word == "-device"]
    assert not [device for device in devices if "pci" in device or "disable-legacy" in device or "romfile" in device]
    assert {device.partition(",")[0] for device in devices} == {
        "isa-serial",
        "virtio-blk-device",
        "virtio-serial-device",
        "virtserialport",
        "virtio-net-device",
        "vhost-user-fs-device",
        "virtio-rng-device",
    }
