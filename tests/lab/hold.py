"""Holds a vCPU of KVM's that has no interrupt controller, for as long as it lives.

KVM patches its code when the first such vCPU comes and when the last goes, as with each look at how fast KVM is
(`kata.hypervisor.kvmprobe`). An emulated processor that runs that code meanwhile panicked twice in three runs.
Numbers from linux/kvm.h.
"""

import fcntl
import os
import signal

_CREATE_VM, _CREATE_VCPU = 0xAE01, 0xAE41

kvm = os.open("/dev/kvm", os.O_RDWR)
vm = fcntl.ioctl(kvm, _CREATE_VM, 0)
vcpu = fcntl.ioctl(vm, _CREATE_VCPU, 0)
signal.pause()
