"""Instructions of BPF, put together to a program. Source: RFC 9669.

`LOAD_PACKET_WORD` and its like read from a packet in the order of the network, at `immediate`, into register 0, and
want the context in register 6.
"""

import struct
import sys

LOAD_WORD, STORE_WORD_IMMEDIATE, LOAD_WIDE = 0x61, 0x62, 0x18
LOAD_PACKET_WORD, LOAD_PACKET_HALF = 0x20, 0x28
MOVE, MOVE_IMMEDIATE, ADD_IMMEDIATE = 0xBF, 0xB7, 0x07
JUMP_EQUAL, JUMP_NOT_EQUAL_32, CALL, EXIT, JUMP = 0x15, 0x56, 0x85, 0x95, 0x05


def _encode(code: int, to: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    registers = to | source << 4 if sys.byteorder == "little" else to << 4 | source
    return struct.pack("=BBhi", code, registers, offset, immediate)


class Program:
    """Instructions with jumps to names, resolved in the end."""

    def __init__(self) -> None:
        self._rows: list[tuple[bytes, str]] = []
        self._places: dict[str, int] = {}

    def add(self, code: int, to: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> None:
        """Add an instruction with the registers `to` and `source`."""
        self._rows.append((_encode(code, to, source, offset, immediate), ""))

    def jump(self, code: int, place: str, register: int = 0, immediate: int = 0) -> None:
        """Add a jump to a place that `mark` names, before or after."""
        self._rows.append((_encode(code, register, immediate=immediate), place))

    def mark(self, place: str) -> None:
        """Name the place of the next instruction."""
        self._places[place] = len(self._rows)

    def build(self) -> bytes:
        """Return what the kernel takes."""
        code = bytearray()
        for index, (row, place) in enumerate(self._rows):
            offset = self._places[place] - index - 1 if place else None
            code += row if offset is None else row[:2] + struct.pack("=h", offset) + row[4:]
        return bytes(code)
