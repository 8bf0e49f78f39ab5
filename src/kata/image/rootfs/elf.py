"""Which shared libraries a program needs: the part of ELF that says so.

Source: elf(5). Only 64-bit little-endian files are read; the guest has no others.
"""

import posixpath
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from kata.errors import NotFoundError, ProtocolError
from kata.image.rootfs.tree import Tree

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_IDENT = b"\x7fELF\x02\x01"
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5
_LIBRARY_DIRECTORIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd", "usr/lib", "usr/lib64")


@dataclass(frozen=True, slots=True)
class Needs:
    """`interpreter` is the absolute path of the dynamic loader, or None; `libraries` are bare names (DT_NEEDED)."""

    interpreter: str | None
    libraries: tuple[str, ...]


def is_elf(data: bytes) -> bool:
    return data.startswith(_IDENT)


def parse_needs(data: bytes) -> Needs:
    """Raises ProtocolError when the file is cut short or contradicts itself."""
    try:
        return _parse(data)
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise ProtocolError(f"an ELF file of {len(data)} bytes cannot be read: {error}") from error


def _parse(data: bytes) -> Needs:
    if not is_elf(data):
        raise ProtocolError(f"a file of {len(data)} bytes is no 64-bit ELF file")
    fields = _HEADER.unpack_from(data)
    offset, count = fields[5], fields[10]
    segments = [_SEGMENT.unpack_from(data, offset + index * _SEGMENT.size) for index in range(count)]
    interpreter = None
    entries: list[tuple[int, int]] = []
    for kind, _flags, start, _virtual, _physical, size, _memory, _align in segments:
        if kind == _PT_INTERP:
            interpreter = data[start : start + size].rstrip(b"\0").decode()
        elif kind == _PT_DYNAMIC:
            whole = data[start : start + size - size % _DYNAMIC.size]
            entries = list(_DYNAMIC.iter_unpack(whole))
    if (_DT_NULL, 0) in entries:
        entries = entries[: entries.index((_DT_NULL, 0))]
    names = [value for tag, value in entries if tag == _DT_NEEDED]
    if not names:
        return Needs(interpreter, ())
    strings = _find_offset(segments, next((value for tag, value in entries if tag == _DT_STRTAB), 0))
    return Needs(interpreter, tuple(_read_string(data, strings + name) for name in names))


def _find_offset(segments: Iterable[tuple[int, ...]], address: int) -> int:
    for kind, _flags, start, virtual, _physical, size, _memory, _align in segments:
        if kind == _PT_LOAD and virtual <= address < virtual + size:
            return start + address - virtual
    raise ValueError(f"no segment holds the address {address:#x}")


def _read_string(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()


def find_libraries(tree: Tree, programs: Iterable[str]) -> dict[str, str]:
    """All shared objects that `programs` (paths in `tree`) need, directly or not, by the path they are looked up at.

    The value is the path of the file itself: most libraries are reached by a symbolic link. Raises NotFoundError naming
    the library and who needs it.
    """
    found: dict[str, str] = {}
    waiting = list(programs)
    seen = set(waiting)
    while waiting:
        program = waiting.pop()
        data = tree.read(program)
        if not is_elf(data):
            continue
        needs = parse_needs(data)
        wanted = [_find_library(tree, name, program) for name in needs.libraries]
        if needs.interpreter:
            wanted.append(needs.interpreter.lstrip("/"))
        for path in wanted:
            merged = path if path in tree else f"usr/{path}"
            found[path] = tree.resolve(merged)
            if path not in seen:
                seen.add(path)
                waiting.append(merged)
    return found


def _find_library(tree: Tree, name: str, needed_by: str) -> str:
    for directory in _LIBRARY_DIRECTORIES:
        if (path := posixpath.join(directory, name)) in tree:
            return path
    raise NotFoundError(f"/{needed_by} needs the library {name}, which no package of the image has")
