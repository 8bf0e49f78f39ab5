"""bpf(2): maps of sockets, and programs of a network namespace or a link. Each function raises OSError.

Every object lives as long as its descriptor, so that nothing stays in the kernel when its process has ended.
Source: bpf(2), <linux/bpf.h>; Documentation/bpf/prog_sk_lookup.rst and map_sockmap.rst in the kernel tree.
"""

import ctypes
import os
import struct

_SYS_BPF = {"x86_64": 321, "aarch64": 280, "s390x": 351, "ppc64le": 361}
_MAP_CREATE = 0
_MAP_UPDATE_ELEM = 2
_PROG_LOAD = 5
_LINK_CREATE = 28
_MAP_TYPE_SOCKMAP = 15
_PROG_TYPE_SCHED_CLS = 3
_PROG_TYPE_SK_LOOKUP = 30
_ATTACH_SK_LOOKUP = 36
_LARGEST_ATTRIBUTES = 128
_LOG_SIZE = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(command: int, attributes: bytes) -> int:
    machine = os.uname().machine
    number = _SYS_BPF.get(machine)
    if number is None:
        raise OSError(38, f"bpf: not known on {machine}")
    block = ctypes.create_string_buffer(attributes, _LARGEST_ATTRIBUTES)
    size = ctypes.c_uint(_LARGEST_ATTRIBUTES)
    result = int(_libc.syscall(ctypes.c_long(number), ctypes.c_int(command), ctypes.byref(block), size))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf: {os.strerror(error)}")
    return result


def make_socket_map(entries: int) -> int:
    """Return the descriptor of a map from 32-bit numbers below `entries` to sockets."""
    return _call(_MAP_CREATE, struct.pack("=5I", _MAP_TYPE_SOCKMAP, 4, 8, entries, 0))


def put_socket(socket_map: int, key: int, descriptor: int) -> None:
    """Put a TCP socket that listens or is connected, or a UDP socket that is bound, into a map."""
    name, value = ctypes.c_uint32(key), ctypes.c_uint64(descriptor)
    addresses = (ctypes.addressof(name), ctypes.addressof(value))
    _call(_MAP_UPDATE_ELEM, struct.pack("=I4x3Q", socket_map, *addresses, 0))


def load_socket_lookup(instructions: bytes, name: str) -> int:
    """Return the descriptor of a program that chooses sockets. What the verifier says is in the error's text."""
    return _load(_PROG_TYPE_SK_LOOKUP, _ATTACH_SK_LOOKUP, instructions, name)


def load_classifier(instructions: bytes, name: str) -> int:
    """Return the descriptor of a program that tells traffic control what becomes of a packet."""
    return _load(_PROG_TYPE_SCHED_CLS, 0, instructions, name)


def _load(kind: int, attach: int, instructions: bytes, name: str) -> int:
    code, licence = ctypes.create_string_buffer(instructions), ctypes.create_string_buffer(b"Apache-2.0")
    log = ctypes.create_string_buffer(_LOG_SIZE)
    try:
        return _call(
            _PROG_LOAD,
            struct.pack(
                "=2I2Q2IQ2I16s2I",
                kind,
                len(instructions) // 8,
                ctypes.addressof(code),
                ctypes.addressof(licence),
                1,
                _LOG_SIZE,
                ctypes.addressof(log),
                0,
                0,
                name.encode(),
                0,
                attach,
            ),
        )
    except OSError as error:
        said = log.value.decode(errors="replace").strip().splitlines()
        raise OSError(error.errno, ": ".join([f"bpf: {error.strerror}", *said[-2:]])) from error


def attach_socket_lookup(program: int, namespace: int) -> int:
    """Have a program choose the sockets of a network namespace for as long as the returned descriptor is open."""
    return _call(_LINK_CREATE, struct.pack("=4I", program, namespace, _ATTACH_SK_LOOKUP, 0))
