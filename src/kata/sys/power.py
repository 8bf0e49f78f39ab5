"""The end of a machine: reboot(2)."""

import ctypes
import os

# linux/reboot.h
_RESTART = 0x01234567
_POWER_OFF = 0x4321FEDC


def power_off() -> None:
    """Write out the file systems and switch the machine off. Only PID 1 of a guest may want this. Does not return."""
    _reboot(_POWER_OFF)


def restart() -> None:
    """Write out the file systems and restart the machine. Does not return."""
    _reboot(_RESTART)


def _reboot(command: int) -> None:
    os.sync()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.reboot(ctypes.c_int(ctypes.c_int32(command).value))
    number = ctypes.get_errno()
    raise OSError(number, f"reboot: {os.strerror(number)}")
