"""Every TCP port of a namespace's loopback addresses, taken by one listening socket for each family.

A program of type sk_lookup is asked by the kernel which listener a new connection belongs to, so there is neither a
listener for each port nor address translation, and an accepted socket's own address tells the port that was dialled.
Only what comes in at the loopback interface for 127.0.0.0/8 and ::1 is taken: nothing of it is reachable from outside.

Source: Documentation/bpf/prog_sk_lookup.rst in the kernel tree; struct bpf_sk_lookup of <linux/bpf.h>; RFC 9669 for
the instructions.
"""

import os
import socket
import struct
import sys
from contextlib import ExitStack
from typing import Final

from kata.errors import UnsupportedError
from kata.network.namespace import open_own_namespace
from kata.sys import bpf

_BACKLOG = 64
_PASS = 1
_LOOPBACK_IFINDEX = 1
_V4, _V6 = int(socket.AF_INET), int(socket.AF_INET6)

# Offsets in struct bpf_sk_lookup.
_FAMILY, _PROTOCOL, _LOCAL_IP4, _LOCAL_IP6, _INGRESS = 8, 12, 40, 44, 64
# Helpers of <linux/bpf.h>.
_MAP_LOOKUP_ELEM, _SK_RELEASE, _SK_ASSIGN = 1, 86, 124
# Instruction codes of RFC 9669.
_LOAD_WORD, _STORE_WORD_IMMEDIATE, _LOAD_WIDE = 0x61, 0x62, 0x18
_MOVE, _MOVE_IMMEDIATE, _ADD_IMMEDIATE, _AND_IMMEDIATE = 0xBF, 0xB7, 0x07, 0x57
_JUMP_EQUAL, _JUMP_NOT_EQUAL, _CALL, _EXIT, _JUMP = 0x15, 0x55, 0x85, 0x95, 0x05
_PSEUDO_MAP_DESCRIPTOR = 1
_KEY = -4

_FIRST_BYTE: Final = 0xFF if sys.byteorder == "little" else 0xFF000000 - (1 << 32)
_ONE: Final = int.from_bytes(b"\0\0\0\1", sys.byteorder)
_NET_127: Final = int.from_bytes(b"\x7f\0\0\0", sys.byteorder)


def _encode(code: int, to: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    registers = to | source << 4 if sys.byteorder == "little" else to << 4 | source
    return struct.pack("=BBhi", code, registers, offset, immediate)


class _Program:
    """Instructions with jumps to names, resolved in the end."""

    def __init__(self) -> None:
        self._rows: list[tuple[bytes, str]] = []
        self._places: dict[str, int] = {}

    def add(self, code: int, to: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> None:
        self._rows.append((_encode(code, to, source, offset, immediate), ""))

    def jump(self, code: int, place: str, register: int = 0, immediate: int = 0) -> None:
        self._rows.append((_encode(code, register, immediate=immediate), place))

    def mark(self, place: str) -> None:
        self._places[place] = len(self._rows)

    def build(self) -> bytes:
        code = bytearray()
        for index, (row, place) in enumerate(self._rows):
            offset = self._places[place] - index - 1 if place else None
            code += row if offset is None else row[:2] + struct.pack("=h", offset) + row[4:]
        return bytes(code)


def build_program(socket_map: int) -> bytes:
    """Return the program: entry 0 of the map takes 127.0.0.0/8, entry 1 takes ::1, the rest is as it was."""
    program = _Program()
    context, found = 6, 7
    program.add(_MOVE, context, 1)
    for field, wanted in ((_PROTOCOL, socket.IPPROTO_TCP), (_INGRESS, _LOOPBACK_IFINDEX)):
        program.add(_LOAD_WORD, 2, context, field)
        program.jump(_JUMP_NOT_EQUAL, "out", 2, wanted)
    program.add(_LOAD_WORD, 2, context, _FAMILY)
    program.jump(_JUMP_EQUAL, "ipv6", 2, _V6)
    program.jump(_JUMP_NOT_EQUAL, "out", 2, _V4)
    program.add(_LOAD_WORD, 2, context, _LOCAL_IP4)
    program.add(_AND_IMMEDIATE, 2, immediate=_FIRST_BYTE)
    program.jump(_JUMP_NOT_EQUAL, "out", 2, _NET_127)
    program.add(_STORE_WORD_IMMEDIATE, 10, offset=_KEY, immediate=0)
    program.jump(_JUMP, "choose")
    program.mark("ipv6")
    for word, wanted in enumerate((0, 0, 0, _ONE)):
        program.add(_LOAD_WORD, 2, context, _LOCAL_IP6 + 4 * word)
        program.jump(_JUMP_NOT_EQUAL, "out", 2, wanted)
    program.add(_STORE_WORD_IMMEDIATE, 10, offset=_KEY, immediate=1)
    program.mark("choose")
    program.add(_LOAD_WIDE, 1, _PSEUDO_MAP_DESCRIPTOR, immediate=socket_map)
    program.add(0)  # the upper half of a wide load
    program.add(_MOVE, 2, 10)
    program.add(_ADD_IMMEDIATE, 2, immediate=_KEY)
    program.add(_CALL, immediate=_MAP_LOOKUP_ELEM)
    program.jump(_JUMP_EQUAL, "out", 0, 0)
    program.add(_MOVE, found, 0)
    program.add(_MOVE, 1, context)
    program.add(_MOVE, 2, found)
    program.add(_MOVE_IMMEDIATE, 3, immediate=0)
    program.add(_CALL, immediate=_SK_ASSIGN)
    program.add(_MOVE, 1, found)
    program.add(_CALL, immediate=_SK_RELEASE)
    program.mark("out")
    program.add(_MOVE_IMMEDIATE, 0, immediate=_PASS)
    program.add(_EXIT)
    return program.build()


class LoopbackListener:
    """Listens on the loopback addresses of the calling thread's namespace until `close`.

    `sockets` are not blocking; there is no second one where the kernel has no IPv6. Raise UnsupportedError where the
    kernel has no such programs (CONFIG_BPF_SYSCALL, Linux 5.9), or does not let this process load them.
    """

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        with ExitStack() as undo:
            undo.callback(self.close)
            self._kept: list[int] = []
            try:
                self._attach()
            except OSError as error:
                raise UnsupportedError(
                    f"the ports of the pod's loopback interface cannot be taken: {error.strerror}",
                    hint="port-forward then reaches no server; it needs a kernel with CONFIG_BPF_SYSCALL",
                ) from error
            undo.pop_all()

    def _attach(self) -> None:
        with ExitStack() as temporary:
            socket_map = bpf.make_socket_map(2)
            temporary.callback(os.close, socket_map)
            for key, (family, address) in enumerate(((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))):
                try:
                    listener = socket.create_server((address, 0), family=family, backlog=_BACKLOG)
                except OSError:
                    if family == socket.AF_INET:
                        raise
                    continue
                self.sockets.append(listener)
                listener.setblocking(False)
                bpf.put_socket(socket_map, key, listener.fileno())
            program = bpf.load_socket_lookup(build_program(socket_map), "kata_loopback")
            temporary.callback(os.close, program)
            namespace = open_own_namespace()
            temporary.callback(os.close, namespace)
            self._kept.append(bpf.attach_socket_lookup(program, namespace))

    def close(self) -> None:
        """Give the ports back and close the listeners. May be called again."""
        while self._kept:
            os.close(self._kept.pop())
        for listener in self.sockets:
            listener.close()
        self.sockets.clear()
