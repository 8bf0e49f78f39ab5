#!/usr/bin/python3 -I
"""An acrn-dm for machines without ACRN: refuses what its documentation does not have, and boots the equal VM with QEMU.

Source: ACRN 3, doc/user-guides/acrn-dm-parameters.rst. What it cannot show is ACRN itself: that its hypervisor and its
device model do with such a command line what they say.
"""

import os
import re
import sys

VERSION = "DM version is: 3.3-checker"
LONGEST = 1023
_SLOT = re.compile(r"(?:(\d+):)?(\d+)(?::(\d+))?,([a-z-]+)(?:,(.*))?")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_FLAGS = {"-v": "--version", "--version": "--version"}
_VALUES = {
    "-m": "-m", "--memsize": "-m", "-k": "-k", "--kernel": "-k", "-r": "-r", "--ramdisk": "-r", "-B": "-B",
    "--bootargs": "-B", "-s": "-s", "--pci_slot": "-s", "-l": "-l", "--lpc": "-l", "--cpu_affinity": "--cpu_affinity",
}  # fmt: skip
_BZIMAGE = (0x202, b"HdrS")


class Refused(Exception):  # noqa: N818 - it is an answer
    """What acrn-dm would not take."""


def parse(argv: list[str]) -> tuple[dict[str, list[str]], str]:
    """Read the options and the VM's name."""
    options: dict[str, list[str]] = {}
    words = list(argv)
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word in _FLAGS:
            options.setdefault(_FLAGS[word], [])
            continue
        if word not in _VALUES:
            raise Refused(f"there is no option {word}")
        if not words:
            raise Refused(f"option {word} has no value")
        options.setdefault(_VALUES[word], []).append(words.pop(0))
    if "--version" not in options and len(words) != 1:
        raise Refused(f"one name of a VM is needed, not {words}")
    for name in ("-m", "-k", "-r", "-B", "--cpu_affinity"):
        if len(options.get(name, [])) > 1:
            raise Refused(f"{name} comes twice")
    return options, words[0] if words else ""


def read_memory(text: str) -> int:
    """Return MiB. A number without a unit is refused: the documentation has none."""
    match = re.fullmatch(r"(\d+)([KkBbMmGg])", text)
    if match is None:
        raise Refused(f"-m {text} is no <size>{{K/k, B/b, M/m, G/g}}")
    size = int(match[1]) << {"b": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()]
    if size < 1 << 20 or size % (1 << 20):
        raise Refused(f"-m {text} is no number of MiB")
    return size >> 20


def read_cpus(text: str) -> list[int]:
    """Return the physical CPUs of a list such as 1,3."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise Refused(f"--cpu_affinity {text} is no list of pCPUs")
    cpus = [int(part) for part in text.split(",")]
    if len(set(cpus)) != len(cpus):
        raise Refused(f"--cpu_affinity {text} names a pCPU twice")
    return cpus


def check_file(option: str, path: str, *, writable: bool = False) -> str:
    if len(path) > LONGEST or not path.startswith("/"):
        raise Refused(f"{option} {path} is no full path of at most {LONGEST} characters")
    if not os.access(path, os.R_OK | (os.W_OK if writable else 0)):
        raise Refused(f"{option} {path} cannot be opened")
    return path


def translate_slots(slots: list[str]) -> list[str]:
    """Return QEMU's devices, in the order of the slots, at the same addresses."""
    taken: set[tuple[int, int, int]] = set()
    kinds: list[str] = []
    devices: list[str] = []
    for number, text in enumerate(slots):
        match = _SLOT.fullmatch(text)
        if match is None:
            raise Refused(f"-s {text} is no <slot>[:<func>],<emul>[,<config>]")
        # Two numbers are slot and function: a bus has three.
        bus, slot, function = (0, int(match[1]), int(match[2])) if match[1] and not match[3] else (
            int(match[1] or 0), int(match[2]), int(match[3] or 0)
        )  # fmt: skip
        place = bus, slot, function
        if bus or slot > 31 or function > 7 or place in taken:
            raise Refused(f"-s {text}: there is no such slot, or it is taken")
        taken.add(place)
        kinds.append(match[4])
        address = f"addr={slot + 1:#x}"  # QEMU's q35 has devices of its own in 0 and 31
        devices += _translate(match[4], match[5] or "", number, address)
    if kinds[:1] != ["hostbridge"]:
        raise Refused("the first slot is no hostbridge")
    return devices


def _translate(kind: str, config: str, number: int, address: str) -> list[str]:
    if kind in ("hostbridge", "lpc"):
        if config:
            raise Refused(f"{kind} takes no configuration")
        return []
    if kind == "virtio-blk":
        path, *flags = config.split(",")
        if not set(flags) <= {"ro"}:
            raise Refused(f"virtio-blk has no option {flags}")
        readonly = "on" if flags else "off"
        check_file("virtio-blk", path, writable=not flags)
        return [
            *("-drive", f"file={path},format=raw,if=none,id=d{number},readonly={readonly},file.locking=off"),
            *("-device", f"virtio-blk-pci,drive=d{number},disable-legacy=on,{address}"),
        ]
    if kind == "virtio-net":
        options = dict(part.partition("=")[::2] for part in config.split(","))
        if "tap" not in options or not set(options) <= {"tap", "mac"} or not _MAC.fullmatch(options.get("mac", "")):
            raise Refused(f"virtio-net has no configuration {config}")
        return [
            *("-netdev", f"tap,id=n{number},ifname={options['tap']},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=n{number},mac={options['mac']},romfile=,disable-legacy=on,{address}"),
        ]
    if kind == "vhost-vsock":
        if not re.fullmatch(r"cid=\d+", config) or not 2 < int(config[4:]) < 0xFFFFFFFF:
            raise Refused(f"vhost-vsock has no configuration {config}")
        return ["-device", f"vhost-vsock-pci,guest-{config},disable-legacy=on,{address}"]
    if kind == "virtio-rnd":
        if config:
            raise Refused("virtio-rnd takes no configuration")
        return ["-device", f"virtio-rng-pci,disable-legacy=on,{address}"]
    raise Refused(f"there is no device {kind}")


def translate(argv: list[str]) -> list[str]:
    """Return QEMU's command line for acrn-dm's. Raise Refused."""
    options, _name = parse(argv)
    for needed in ("-m", "-k", "-s", "-B", "--cpu_affinity"):
        if needed not in options:
            raise Refused(f"{needed} is missing")
    kernel = check_file("-k", options["-k"][0])
    with open(kernel, "rb") as file:
        file.seek(_BZIMAGE[0])
        if file.read(len(_BZIMAGE[1])) != _BZIMAGE[1]:
            raise Refused(f"-k {kernel} is no bzImage")
    bootargs = options["-B"][0]
    if len(bootargs) > LONGEST:
        raise Refused(f"-B has {len(bootargs)} characters")
    if options.get("-l", ["com1,stdio"]) != ["com1,stdio"]:
        raise Refused(f"-l {options['-l']} is not known here")
    devices = translate_slots(options["-s"])
    if "-l" in options and not any(slot.partition(",")[2] == "lpc" for slot in options["-s"]):
        raise Refused("-l without an lpc in any slot")
    cpus = len(read_cpus(options["--cpu_affinity"][0]))
    accelerator = ["-accel", "kvm", "-cpu", "host"] if os.access("/dev/kvm", os.W_OK) else ["-accel", "tcg"]
    return [
        *("qemu-system-x86_64", "-M", "q35", *accelerator, "-smp", str(cpus)),
        *("-m", str(read_memory(options["-m"][0])), "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-chardev", "stdio,id=com1,signal=off", "-serial", "chardev:com1"),
        *("-kernel", kernel, "-append", bootargs),
        *(("-initrd", check_file("-r", options["-r"][0])) if "-r" in options else ()),
        *devices,
    ]


def main(argv: list[str]) -> int:
    try:
        if argv in (["-v"], ["--version"]):
            print(VERSION)
            return 0
        command = translate(argv)
    except Refused as error:
        print(f"acrn-dm: {error}", file=sys.stderr)
        return 1
    os.execvp(command[0], command)
    return 127  # it does not come here


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
