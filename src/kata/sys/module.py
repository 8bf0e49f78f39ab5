"""Kernel modules: finit_module(2)."""

import ctypes
import errno
import os

_SYS_FINIT_MODULE = {"x86_64": 313, "aarch64": 273, "riscv64": 273, "s390x": 344, "ppc64le": 353}
_COMPRESSED_FILE = 4  # MODULE_INIT_COMPRESSED_FILE, Linux 5.17


def load_module(path: str, parameters: str = "") -> None:
    """Load a module file, compressed or not, whose dependencies are loaded. A module that is there already is fine.

    Raise OSError.
    """
    number = _SYS_FINIT_MODULE[os.uname().machine]
    libc = ctypes.CDLL(None, use_errno=True)
    flags = 0 if path.endswith(".ko") else _COMPRESSED_FILE
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        arguments = (ctypes.c_int(descriptor), parameters.encode(), ctypes.c_int(flags))
        if libc.syscall(ctypes.c_long(number), *arguments) < 0 and ctypes.get_errno() != errno.EEXIST:
            code = ctypes.get_errno()
            raise OSError(code, f"finit_module: {os.strerror(code)}", path)
    finally:
        os.close(descriptor)
