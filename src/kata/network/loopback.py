"""Every TCP port of a namespace's loopback addresses, taken by one listening socket for each family.

A program of type sk_lookup is asked by the kernel which listener a new connection belongs to, so there is neither a
listener for each port nor address translation, and an accepted socket's own address tells the port that was dialled.
Only what comes in at the loopback interface for 127.0.0.0/8 and ::1 is taken: nothing of it is reachable from outside.

Source: Documentation/bpf/prog_sk_lookup.rst in the kernel tree; struct bpf_sk_lookup of <linux/bpf.h>.
"""

import os
import socket
import sys
from contextlib import ExitStack
from typing import Final

from kata.errors import UnsupportedError
from kata.network.bytecode import (
    ADD_IMMEDIATE,
    AND_IMMEDIATE,
    CALL,
    EXIT,
    JUMP,
    JUMP_EQUAL,
    JUMP_NOT_EQUAL,
    LOAD_WIDE,
    LOAD_WORD,
    MOVE,
    MOVE_IMMEDIATE,
    STORE_WORD_IMMEDIATE,
    Program,
)
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
_PSEUDO_MAP_DESCRIPTOR = 1
_KEY = -4

_FIRST_BYTE: Final = 0xFF if sys.byteorder == "little" else 0xFF000000 - (1 << 32)
_ONE: Final = int.from_bytes(b"\0\0\0\1", sys.byteorder)
_NET_127: Final = int.from_bytes(b"\x7f\0\0\0", sys.byteorder)


def build_program(socket_map: int) -> bytes:
    """Return the program: entry 0 of the map takes 127.0.0.0/8, entry 1 takes ::1, the rest is as it was."""
    program = Program()
    context, found = 6, 7
    program.add(MOVE, context, 1)
    for field, wanted in ((_PROTOCOL, socket.IPPROTO_TCP), (_INGRESS, _LOOPBACK_IFINDEX)):
        program.add(LOAD_WORD, 2, context, field)
        program.jump(JUMP_NOT_EQUAL, "out", 2, wanted)
    program.add(LOAD_WORD, 2, context, _FAMILY)
    program.jump(JUMP_EQUAL, "ipv6", 2, _V6)
    program.jump(JUMP_NOT_EQUAL, "out", 2, _V4)
    program.add(LOAD_WORD, 2, context, _LOCAL_IP4)
    program.add(AND_IMMEDIATE, 2, immediate=_FIRST_BYTE)
    program.jump(JUMP_NOT_EQUAL, "out", 2, _NET_127)
    program.add(STORE_WORD_IMMEDIATE, 10, offset=_KEY, immediate=0)
    program.jump(JUMP, "choose")
    program.mark("ipv6")
    for word, wanted in enumerate((0, 0, 0, _ONE)):
        program.add(LOAD_WORD, 2, context, _LOCAL_IP6 + 4 * word)
        program.jump(JUMP_NOT_EQUAL, "out", 2, wanted)
    program.add(STORE_WORD_IMMEDIATE, 10, offset=_KEY, immediate=1)
    program.mark("choose")
    program.add(LOAD_WIDE, 1, _PSEUDO_MAP_DESCRIPTOR, immediate=socket_map)
    program.add(0)  # the upper half of a wide load
    program.add(MOVE, 2, 10)
    program.add(ADD_IMMEDIATE, 2, immediate=_KEY)
    program.add(CALL, immediate=_MAP_LOOKUP_ELEM)
    program.jump(JUMP_EQUAL, "out", 0, 0)
    program.add(MOVE, found, 0)
    program.add(MOVE, 1, context)
    program.add(MOVE, 2, found)
    program.add(MOVE_IMMEDIATE, 3, immediate=0)
    program.add(CALL, immediate=_SK_ASSIGN)
    program.add(MOVE, 1, found)
    program.add(CALL, immediate=_SK_RELEASE)
    program.mark("out")
    program.add(MOVE_IMMEDIATE, 0, immediate=_PASS)
    program.add(EXIT)
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
