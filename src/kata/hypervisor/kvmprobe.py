"""How fast KVM runs a guest, measured by a process of its own (`kata.hypervisor.probe`).

A vCPU in real mode counts down a register, `dec ecx; jnz`, and halts: two instructions a turn and no memory touched but
the code, so hardware does about a thousand million a second and an emulated KVM a few million. What counts is the
quickest of many bursts that are shorter than a scheduler's slice: load makes most of them slow and not all, and nothing
makes one quicker than KVM is. By the wall's clock, as an emulation may work in another thread than the one that waits.
A process, because KVM_RUN cannot be given a deadline, but a process can be killed. Numbers from linux/kvm.h (group
0xAE of ioctls); x86-64 only.
"""

import ctypes
import fcntl
import json
import mmap
import os
import struct
import sys
import time

_GET_API_VERSION = 0xAE00
_CREATE_VM = 0xAE01
_GET_VCPU_MMAP_SIZE = 0xAE04
_CREATE_VCPU = 0xAE41
_SET_USER_MEMORY_REGION = 0x4020AE46
_SET_TSS_ADDR = 0xAE47
_RUN = 0xAE80
_SET_REGS = 0x4090AE82
_GET_SREGS = 0x8138AE83
_SET_SREGS = 0x4138AE84

_EXIT_HLT = 5
_API_VERSION = 12
_CODE_ADDRESS = 0x1000
_SREGS_SIZE = 0x138
_CODE = b"\x66\x49\x75\xfc\xf4"  # 16-bit mode: dec ecx; jnz back; hlt
_SHORTEST = 1 << 14
_LONGEST = 1 << 18
"""Turns of a burst: it has to outlast the entry and the exit, which take 0.15 ms where the host itself is emulated."""

_PATIENCE = 0.75
"""Seconds after which nothing quick is waited for any more."""


def measure_speed(enough: float, device: str = "/dev/kvm") -> float:
    """Guest instructions a second, up to the first burst with `enough`. Raise OSError with what the kernel said."""
    kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    if fcntl.ioctl(kvm, _GET_API_VERSION) != _API_VERSION:
        raise OSError(0, "KVM has an unknown version")
    vm = fcntl.ioctl(kvm, _CREATE_VM, 0)
    fcntl.ioctl(vm, _SET_TSS_ADDR, 0x10000000)
    memory = mmap.mmap(-1, 0x10000)
    memory[_CODE_ADDRESS : _CODE_ADDRESS + len(_CODE)] = _CODE
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(vm, _SET_USER_MEMORY_REGION, struct.pack("=IIQQQ", 0, 0, 0, len(memory), address))
    vcpu = fcntl.ioctl(vm, _CREATE_VCPU, 0)
    shared = mmap.mmap(vcpu, fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE))
    _point_code_segment_at_zero(vcpu)
    turns, best = _SHORTEST, 0.0
    deadline = time.perf_counter() + _PATIENCE
    while best < enough and time.perf_counter() < deadline:
        best = max(best, 2 * turns / _run_turns(vcpu, shared, turns))
        turns = min(2 * turns, _LONGEST)
    # The process ends with this; the kernel takes the descriptors back.
    return best


def _point_code_segment_at_zero(vcpu: int) -> None:
    registers = bytearray(_SREGS_SIZE)
    fcntl.ioctl(vcpu, _GET_SREGS, registers)
    # struct kvm_segment cs comes first: base (8 bytes), limit (4), selector (2).
    struct.pack_into("=Q", registers, 0, 0)
    struct.pack_into("=H", registers, 12, 0)
    fcntl.ioctl(vcpu, _SET_SREGS, registers)


def _run_turns(vcpu: int, shared: mmap.mmap, turns: int) -> float:
    """Seconds for so many turns."""
    # struct kvm_regs: rax rbx rcx rdx rsi rdi rsp rbp r8-r15 rip rflags.
    general = [0, 0, turns] + [0] * 13
    fcntl.ioctl(vcpu, _SET_REGS, struct.pack("=18Q", *general, _CODE_ADDRESS, 2))
    start = time.perf_counter()
    fcntl.ioctl(vcpu, _RUN, 0)
    elapsed = time.perf_counter() - start
    reason = struct.unpack_from("=I", shared, 8)[0]
    if reason != _EXIT_HLT:
        raise OSError(0, f"the guest stopped for reason {reason}")
    return elapsed


def main(enough: float) -> int:
    """Print {"speed": instructions a second} or {"error": why not}."""
    try:
        answer: dict[str, object] = {"speed": measure_speed(enough)}
    except OSError as error:
        answer = {"error": error.strerror or str(error)}
    sys.stdout.write(json.dumps(answer))
    return 0
