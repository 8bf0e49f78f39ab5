"""Sockets that get what comes to destinations of the loopback interface which they are not bound to.

A program of type sk_lookup is asked by the kernel which socket a new connection, or a datagram that is of none, belongs
to: before the sockets that are bound there, which it takes nothing from. So a whole address is served by one listener,
and a port that a program has or will bind by another process. An accepted socket's own address tells what was dialled.
What does not come in at the loopback interface is left alone: nothing of it is reachable from outside.

Source: Documentation/bpf/prog_sk_lookup.rst in the kernel tree; struct bpf_sk_lookup of <linux/bpf.h>.
"""

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from kata.protocol.bytecode import (
    ADD_IMMEDIATE,
    CALL,
    EXIT,
    JUMP,
    JUMP_EQUAL,
    JUMP_NOT_EQUAL_32,
    LOAD_WIDE,
    LOAD_WORD,
    MOVE,
    MOVE_IMMEDIATE,
    STORE_WORD_IMMEDIATE,
    Program,
)
from kata.protocol.netlink.notation import find_family
from kata.sys import bpf

_PASS = 1
_LOOPBACK_IFINDEX = 1
_NAMESPACE = "/proc/thread-self/ns/net"

# Offsets in struct bpf_sk_lookup. The local port is in host byte order.
_FAMILY, _PROTOCOL, _LOCAL_IP4, _LOCAL_IP6, _LOCAL_PORT, _INGRESS = 8, 12, 40, 44, 60, 64
# Helpers of <linux/bpf.h>.
_MAP_LOOKUP_ELEM, _SK_RELEASE, _SK_ASSIGN = 1, 86, 124
_PSEUDO_MAP_DESCRIPTOR = 1
_KEY = -4


class Destination(NamedTuple):
    """Where something may be sent: IPPROTO_TCP or IPPROTO_UDP, 4 or 16 bytes of address, and a port, 0 for any."""

    protocol: int
    address: bytes
    port: int = 0


def take_destinations(rows: Sequence[tuple[Destination, socket.socket]]) -> int:
    """Give each socket what comes to its destination in the calling thread's network namespace.

    That holds for as long as the returned descriptor is open. A socket listens (TCP), or is bound (UDP), somewhere in
    that namespace. Raise OSError where the kernel has no such programs (CONFIG_BPF_SYSCALL, Linux 5.9), or does not let
    this process load them.
    """
    with ExitStack() as temporary:
        socket_map = bpf.make_socket_map(len(rows))
        temporary.callback(os.close, socket_map)
        for key, (_, taker) in enumerate(rows):
            bpf.put_socket(socket_map, key, taker.fileno())
        program = bpf.load_socket_lookup(_build_program(socket_map, [row for row, _ in rows]), "kata_lookup")
        temporary.callback(os.close, program)
        namespace = os.open(_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        temporary.callback(os.close, namespace)
        return bpf.attach_socket_lookup(program, namespace)


def _build_program(socket_map: int, rows: Sequence[Destination]) -> bytes:
    """Return the program: what is for a row gets the entry of the map with the row's number, the rest is as it was."""
    program = Program()
    context, found = 6, 7
    program.add(MOVE, context, 1)
    for key, row in enumerate(rows):
        program.mark(f"row {key}")
        for field, wanted in _list_conditions(row):
            program.add(LOAD_WORD, 2, context, field)
            program.jump(JUMP_NOT_EQUAL_32, f"row {key + 1}", 2, wanted)
        program.add(STORE_WORD_IMMEDIATE, 10, offset=_KEY, immediate=key)
        program.jump(JUMP, "choose")
    program.mark(f"row {len(rows)}")
    program.jump(JUMP, "out")
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


def _list_conditions(row: Destination) -> list[tuple[int, int]]:
    """Return fields of the context and what they must be."""
    words = [row.address[start : start + 4] for start in range(0, len(row.address), 4)]
    first = _LOCAL_IP4 if len(words) == 1 else _LOCAL_IP6
    return [
        (_INGRESS, _LOOPBACK_IFINDEX),
        (_PROTOCOL, row.protocol),
        (_FAMILY, find_family(row.address)),
        *((first + 4 * place, int.from_bytes(word, sys.byteorder, signed=True)) for place, word in enumerate(words)),
        *([(_LOCAL_PORT, row.port)] if row.port else []),
    ]
