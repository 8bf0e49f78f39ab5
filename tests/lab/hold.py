"""Holds two vCPUs of KVM's for as long as it lives: one without an interrupt controller, and one whose APIC is off.

KVM patches its code when the first vCPU of either kind comes and when the last goes: the first with each look at how
fast KVM is (`kata.hypervisor.kvmprobe`), the second as each guest boots. An emulated processor that runs that code
meanwhile panics, once in some minutes. Numbers from linux/kvm.h.
"""

import fcntl
import os
import signal

_CREATE_VM, _CREATE_VCPU, _CREATE_IRQCHIP = 0xAE01, 0xAE41, 0xAE60

kvm = os.open("/dev/kvm", os.O_RDWR)
bare, full = (fcntl.ioctl(kvm, _CREATE_VM, 0) for _ in range(2))
fcntl.ioctl(full, _CREATE_IRQCHIP)
held = [fcntl.ioctl(vm, _CREATE_VCPU, 0) for vm in (bare, full)]
signal.pause()
