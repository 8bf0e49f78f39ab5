"""Loop devices: files as block devices. Source: loop(4), include/uapi/linux/loop.h."""

import errno
import fcntl
import os
import struct

_CONTROL = "/dev/loop-control"
_GET_FREE = 0x4C82
_SET_CAPACITY = 0x4C07
_CONFIGURE = 0x4C0A
_READ_ONLY, _AUTOCLEAR, _DIRECT_IO = 1, 4, 16
_CONFIG = struct.Struct("=II 40x 12x I 64s 96x 16x 64x")
"""`struct loop_config`: the file, the size of a block (0: the default), and of `struct loop_info64` flags and name."""

_TRIES = 64


def attach_loop(path: str, *, readonly: bool = False, direct: bool = False) -> tuple[int, str]:
    """Make a block device of a file; return its descriptor and its path. Raise OSError.

    It goes by itself when the last one closes it, the mount of it included: the caller closes it after mounting.
    """
    mode = (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC
    flags = _AUTOCLEAR | (_READ_ONLY if readonly else 0) | (_DIRECT_IO if direct else 0)
    file = os.open(path, mode)
    try:
        config = _CONFIG.pack(file, 0, flags, os.fsencode(path)[:63])
        for _ in range(_TRIES):
            device = f"/dev/loop{_find_free()}"
            descriptor = os.open(device, mode)
            try:
                fcntl.ioctl(descriptor, _CONFIGURE, config)
            except OSError as error:
                os.close(descriptor)
                if error.errno != errno.EBUSY:  # else somebody was quicker: the number is free for whoever takes it
                    raise
            else:
                return descriptor, device
    finally:
        os.close(file)
    raise OSError(errno.EBUSY, "every free loop device was taken by others", path)


def update_size(descriptor: int) -> None:
    """Give a loop device the size that its file has now. Raise OSError."""
    fcntl.ioctl(descriptor, _SET_CAPACITY)


def _find_free() -> int:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(control, _GET_FREE)
    finally:
        os.close(control)
