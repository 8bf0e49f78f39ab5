"""A protobuf codec driven by tables: proto3, unary messages, no reflection, no code generation.

A message is a class whose fields say their number and kind::

    class Storage(Message):
        driver: str = string(1)
        options: list[str] = repeated_string(5)
        fs_group: FSGroup | None = message(7, FSGroup)

It exists because both ends of the wire start for each pod: importing the 110 messages of the agent takes about a third
of what Google's runtime and its generated modules take, and the guest needs no C extension.
`tests/unit/protocol/test_protobuf.py` compares it with Google's runtime. Messages are mutable and keep their values in
`__dict__`, unlike other values of this project, because a hundred dataclasses cost 50 ms to define.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from kata.errors import ProtocolError, UsageError

TYPE_CHECKING = False  # importing typing costs 5 ms, which each process of each pod would pay
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, Self, TypeAlias, dataclass_transform

    Buffer: TypeAlias = bytes | bytearray | memoryview
else:
    Buffer = bytes

    def dataclass_transform(**_: object) -> object:
        return lambda decorated: decorated


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MASK64 = (1 << 64) - 1
_MAX_DEPTH = 64
_MAX_TAG = (1 << 32) - 1


class Field:
    """One row of a message's table. `wire` is the wire type of one element."""

    __slots__ = ("kind", "load", "name", "number", "optional", "repeated", "tag", "type", "value", "wire")

    def __init__(
        self,
        number: int,
        kind: str,
        *,
        repeated: bool = False,
        optional: bool = False,
        type: type[Message] | None = None,  # noqa: A002 - what the field is called in the table
        value: Field | None = None,
    ) -> None:
        self.number = number
        self.kind = kind
        self.name = ""
        self.repeated = repeated
        self.optional = optional
        self.type = type
        self.value = value
        self.load = load = _INTEGERS.get(kind)
        self.wire = _BYTES if load is None else _VARINT
        tag = number << 3 | (_BYTES if load is None or repeated else _VARINT)
        self.tag = bytes((tag,)) if tag < 0x80 else bytes(_encode_varint(tag))

    def default(self) -> Any:
        if self.repeated or self.optional:
            return None
        return _DEFAULTS[self.kind]


def _encode_varint(value: int) -> bytearray:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return out


def _load_int32(raw: int) -> int:
    raw &= 0xFFFFFFFF
    return raw - (1 << 32) if raw >> 31 else raw


def _load_int64(raw: int) -> int:
    return raw - (1 << 64) if raw >> 63 else raw


def _load_uint32(raw: int) -> int:
    return raw & 0xFFFFFFFF


def _load_uint64(raw: int) -> int:
    return raw


def _load_bool(raw: int) -> bool:
    return raw != 0


_INTEGERS: dict[str, Callable[[int], Any]] = {
    "int32": _load_int32,
    "int64": _load_int64,
    "uint32": _load_uint32,
    "uint64": _load_uint64,
    "bool": _load_bool,
}
_DEFAULTS: dict[str, Any] = {
    "string": "",
    "bytes": b"",
    "bulk": b"",
    "int32": 0,
    "int64": 0,
    "uint32": 0,
    "uint64": 0,
    "bool": False,
    "message": None,
}


def string(number: int, *, optional: bool = False) -> Any:
    return Field(number, "string", optional=optional)


def raw(number: int) -> Any:
    """Declare a field of the protobuf type `bytes`."""
    return Field(number, "bytes")


def bulk(number: int) -> Any:
    """Declare a field of the protobuf type `bytes` that may be large, and so is copied neither way.

    Encoded it is a part of its own; decoded from a memoryview it is a view of that.
    """
    return Field(number, "bulk")


def boolean(number: int, *, optional: bool = False) -> Any:
    return Field(number, "bool", optional=optional)


def int32(number: int) -> Any:
    """Declare an `int32` or an enumeration, which has the same wire form."""
    return Field(number, "int32")


def int64(number: int, *, optional: bool = False) -> Any:
    return Field(number, "int64", optional=optional)


def uint32(number: int, *, optional: bool = False) -> Any:
    return Field(number, "uint32", optional=optional)


def uint64(number: int, *, optional: bool = False) -> Any:
    return Field(number, "uint64", optional=optional)


def message(number: int, of: type[Message]) -> Any:
    return Field(number, "message", type=of)


def repeated(number: int, of: type[Message] | str) -> Any:
    """Declare a list: of messages, or of the scalar kind named (`"string"`, `"uint32"`, …)."""
    if isinstance(of, str):
        return Field(number, of, repeated=True)
    return Field(number, "message", type=of, repeated=True)


def string_map(number: int, of: type[Message] | str) -> Any:
    """Declare a map whose keys are strings: to messages, or to the scalar kind named."""
    value = Field(2, of) if isinstance(of, str) else Field(2, "message", type=of)
    return Field(number, "map", value=value, repeated=True)


@dataclass_transform(kw_only_default=True, eq_default=True)
class Message:
    """Base of all messages. Keyword arguments set fields; absent ones have proto3's defaults."""

    FIELDS: ClassVar[dict[int, Field]] = {}
    _lists: ClassVar[tuple[str, ...]] = ()
    _maps: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        fields = {}
        lists = []
        maps = []
        for name, field in tuple(cls.__dict__.items()):
            if type(field) is Field:
                field.name = name
                fields[field.number] = field
                setattr(cls, name, field.default())
                if field.kind == "map":
                    maps.append(name)
                elif field.repeated:
                    lists.append(name)
        cls.FIELDS = fields
        cls._lists = tuple(lists)
        cls._maps = tuple(maps)

    def __init__(self, **values: Any) -> None:
        for name in values:
            if name not in type(self).__dict__:
                raise TypeError(f"{type(self).__name__} has no field {name}")
        own = self.__dict__
        for name in self._lists:
            own[name] = []
        for name in self._maps:
            own[name] = {}
        own.update(values)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, f.name) == getattr(other, f.name) for f in self.FIELDS.values())

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        shown = (f"{f.name}={getattr(self, f.name)!r}" for f in self.FIELDS.values() if getattr(self, f.name))
        return f"{type(self).__name__}({', '.join(shown)})"

    def encode(self) -> bytes:
        """Return the wire form. Fields are in the order of their declaration."""
        return b"".join(self.encode_parts())

    def encode_parts(self) -> list[Buffer]:
        """Return the wire form in parts: the values of `bulk` fields are theirs, as they are."""
        out = bytearray()
        parts: list[Buffer] = [out]
        own = self.__dict__
        for field in self.FIELDS.values():
            value = own.get(field.name)
            if value is None:
                continue
            if field.kind == "map":
                _write_map(out, field, value)
            elif field.repeated:
                _write_list(out, field, value)
            elif value or field.optional or field.kind == "message":
                out += field.tag
                if field.kind == "bulk":
                    out += _encode_varint(len(value))
                    out = bytearray()
                    parts += (value, out)
                else:
                    _write(out, field, value)
        return parts

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read a message. Raise ProtocolError where the bytes are not one; unknown fields are skipped."""
        new = cls()
        new._merge(data, 0, len(data), 0)
        return new

    def _merge(self, data: Buffer, at: int, end: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ProtocolError(f"{type(self).__name__} is nested deeper than {_MAX_DEPTH} messages")
        fields = self.FIELDS
        while at < end:
            tag, at = _read_varint(data, at, end)
            wire = tag & 7
            field = fields.get(tag >> 3)
            if not 8 <= tag <= _MAX_TAG:
                raise ProtocolError(f"{type(self).__name__} has field number {tag >> 3}")
            if wire == _BYTES:
                size, at = _read_varint(data, at, end)
                stop = at + size
                if stop > end:
                    raise ProtocolError(f"{type(self).__name__} ends inside field {tag >> 3}")
                if field is not None:
                    self._take_bytes(field, data, at, stop, depth)
                at = stop
            elif wire == _VARINT:
                number, at = _read_varint(data, at, end)
                if field is not None and field.load is not None:
                    self._take(field, field.load(number))
            elif wire in (_FIXED64, _FIXED32):
                at += 8 if wire == _FIXED64 else 4
                if at > end:
                    raise ProtocolError(f"{type(self).__name__} ends inside field {tag >> 3}")
            else:
                raise ProtocolError(f"{type(self).__name__} has wire type {wire} in field {tag >> 3}")

    def _take(self, field: Field, value: Any) -> None:
        if field.repeated:
            getattr(self, field.name).append(value)
        else:
            self.__dict__[field.name] = value

    def _take_bytes(self, field: Field, data: Buffer, at: int, end: int, depth: int) -> None:
        kind = field.kind
        if kind == "map":
            key, value = _read_entry(field, data, at, end, depth)
            getattr(self, field.name)[key] = value
        elif kind == "message":
            assert field.type is not None
            known = None if field.repeated else getattr(self, field.name)
            inner = field.type() if known is None else known
            inner._merge(data, at, end, depth + 1)  # noqa: SLF001 - the same class
            self._take(field, inner)
        elif field.load is None:
            value = data[at:end]
            if kind == "string":
                value = _read_text(self, field, value)
            elif kind == "bytes":
                value = bytes(value)
            self._take(field, value)
        elif field.repeated:
            while at < end:
                number, at = _read_varint(data, at, end)
                self._take(field, field.load(number))


def encode_bytes_head(of: type[Message], name: str, size: int) -> bytes:
    """Return what stands before `size` bytes of the field `name`, for callers that add the bytes themselves."""
    tag = next(field.tag for field in of.FIELDS.values() if field.name == name)
    return tag + _encode_varint(size)


def _read_text(owner: Message, field: Field, data: Buffer) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"{type(owner).__name__}.{field.name} is not UTF-8") from error


def _read_varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK64, at
        shift += 7
        if shift > 63:
            raise ProtocolError("a protobuf varint is longer than 10 bytes")
    raise ProtocolError("a protobuf message ends inside a varint")


def _read_entry(field: Field, data: Buffer, at: int, end: int, depth: int) -> tuple[str, Any]:
    value = field.value
    assert value is not None
    entry = _Entry(value)
    entry._merge(data, at, end, depth + 1)  # noqa: SLF001 - the same class
    return entry.key, entry.__dict__.get("value", value.default() if value.type is None else value.type())


class _Entry(Message):
    """A map's entry on its way in: its table is made for the map at hand."""

    key: str = string(1)

    def __init__(self, value: Field) -> None:
        super().__init__()
        value.name = "value"
        self.__dict__["value"] = value.default()
        if value.type is not None:
            self.__dict__["value"] = value.type()
        self.FIELDS = {1: self.FIELDS[1], 2: value}  # type: ignore[misc]  # the table of this entry, not of the class


def _write(out: bytearray, field: Field, value: Any) -> None:
    kind = field.kind
    if kind == "string":
        data = _encode_text(field, value)
    elif kind == "message":
        data = value.encode()
    elif kind in ("bytes", "bulk"):
        data = value
    else:
        out += _encode_varint(int(value) & _MASK64)
        return
    out += _encode_varint(len(data))
    out += data


def _encode_text(field: Field, value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"field {field.name} holds {value!r}, which UTF-8 cannot carry") from error


def _write_list(out: bytearray, field: Field, values: list[Any]) -> None:
    if field.load is None:
        for value in values:
            out += field.tag
            _write(out, field, value)
    elif values:
        packed = bytearray()
        for value in values:
            packed += _encode_varint(int(value) & _MASK64)
        out += field.tag
        out += _encode_varint(len(packed))
        out += packed


def _write_map(out: bytearray, field: Field, values: dict[str, Any]) -> None:
    assert field.value is not None
    for key, value in values.items():
        entry = bytearray(b"\x0a")
        name = _encode_text(field, key)
        entry += _encode_varint(len(name))
        entry += name
        entry += field.value.tag
        _write(entry, field.value, value)
        out += field.tag
        out += _encode_varint(len(entry))
        out += entry
