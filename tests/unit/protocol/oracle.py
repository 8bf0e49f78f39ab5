"""Google's protobuf runtime as a second opinion: the same messages, built from our field tables at test time."""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import strategies as st

from kata.protocol.messages import agent, csi, events, google, health, metrics, oci, sandbox, task, types
from kata.protocol.protobuf import Field, Message, boolean, int32, int64, message, raw, repeated, string, string_map
from kata.protocol.protobuf import uint32 as u32
from kata.protocol.protobuf import uint64 as u64
from kata.protocol.ttrpc import messages as envelopes


class Leaf(Message):
    name: str = string(1)
    count: int = int32(2)


class Everything(Message):
    """One field of each kind, some with numbers that need a long tag."""

    text: str = string(1)
    data: bytes = raw(2)
    flag: bool = boolean(3)
    small: int = int32(4)
    large: int = int64(5)
    natural: int = u32(6)
    huge: int = u64(7)
    leaf: Leaf | None = message(8, Leaf)
    leaves: list[Leaf] = repeated(9, Leaf)
    texts: list[str] = repeated(10, "string")
    smalls: list[int] = repeated(11, "int32")
    larges: list[int] = repeated(12, "int64")
    hugest: list[int] = repeated(13, "uint64")
    flags: list[bool] = repeated(14, "bool")
    by_name: dict[str, str] = string_map(15, "string")
    counts: dict[str, int] = string_map(16, "int64")
    leaf_by_name: dict[str, Leaf] = string_map(2000, Leaf)
    maybe_text: str | None = string(300000, optional=True)
    maybe_flag: bool | None = boolean(300001, optional=True)
    maybe_number: int | None = int64(300002, optional=True)


_INTEGERS = {
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 2**64 - 1),
}
_SCALARS: dict[str, st.SearchStrategy[Any]] = {
    **_INTEGERS,
    "bool": st.booleans(),
    "bytes": st.binary(max_size=20),
    "bulk": st.binary(max_size=20),
    "string": st.text(st.characters(codec="utf-8"), max_size=12),
}
_Proto = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "int32": _Proto.TYPE_INT32,
    "int64": _Proto.TYPE_INT64,
    "uint32": _Proto.TYPE_UINT32,
    "uint64": _Proto.TYPE_UINT64,
    "bool": _Proto.TYPE_BOOL,
    "bytes": _Proto.TYPE_BYTES,
    "bulk": _Proto.TYPE_BYTES,
    "string": _Proto.TYPE_STRING,
    "message": _Proto.TYPE_MESSAGE,
}


def find_messages() -> list[type[Message]]:
    """Return every message class of the project, and the two above."""
    modules = (agent, csi, events, google, health, metrics, oci, sandbox, task, types, envelopes)
    found = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Message) and value.__module__ == module.__name__
    ]
    return [*found, Leaf, Everything]


def name_of(cls: type[Message]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".replace(".", "_")


def google_class(cls: type[Message]) -> Any:
    """Return Google's class for `cls`, made from its FIELDS."""
    return _find_google_class(name_of(cls))


@cache
def _find_google_class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"t.{name}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    for cls in find_messages():
        _describe(file, cls)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _describe(file: descriptor_pb2.FileDescriptorProto, cls: type[Message]) -> None:
    described = file.message_type.add(name=name_of(cls))
    for field in cls.FIELDS.values():
        row = described.field.add(name=field.name, number=field.number)
        row.label = _Proto.LABEL_REPEATED if field.repeated else _Proto.LABEL_OPTIONAL
        if field.kind == "map":
            entry = described.nested_type.add(name=f"{field.name.title().replace('_', '')}Entry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, type=_Proto.TYPE_STRING, label=_Proto.LABEL_OPTIONAL)
            assert field.value is not None
            value = entry.field.add(name="value", number=2, label=_Proto.LABEL_OPTIONAL)
            _set_type(value, field.value)
            row.type = _Proto.TYPE_MESSAGE
            row.type_name = f".t.{name_of(cls)}.{entry.name}"
        else:
            _set_type(row, field)
        if field.optional:
            row.proto3_optional = True
            row.oneof_index = len(described.oneof_decl)
            described.oneof_decl.add(name=f"_{field.name}")


def _set_type(row: Any, field: Field) -> None:
    row.type = _TYPES[field.kind]
    if field.type is not None:
        row.type_name = f".t.{name_of(field.type)}"


def build(cls: type[Message], depth: int = 2) -> st.SearchStrategy[Any]:
    """Return random messages of `cls`, nested `depth` deep."""
    fields = {f.name: _values(f, depth) for f in cls.FIELDS.values()}
    known = {name: values for name, values in fields.items() if values is not None}
    return st.fixed_dictionaries({}, optional=known).map(lambda values: cls(**values))


def _values(field: Field, depth: int) -> st.SearchStrategy[Any] | None:
    if field.kind == "map":
        assert field.value is not None
        of = _values(field.value, depth)
        return None if of is None else st.dictionaries(_SCALARS["string"], of, max_size=3)
    if field.kind == "message":
        assert field.type is not None
        if depth == 0:
            return None
        inner = build(field.type, depth - 1)
        return st.lists(inner, max_size=2) if field.repeated else inner
    scalars = _SCALARS[field.kind]
    return st.lists(scalars, max_size=4) if field.repeated else scalars


def to_google(ours: Message) -> Any:
    """Return the same message as an object of Google's runtime, field by field."""
    theirs = google_class(type(ours))()
    for field in ours.FIELDS.values():
        value = getattr(ours, field.name)
        if value is None:
            continue
        if field.kind == "map":
            _fill_map(getattr(theirs, field.name), field, value)
        elif field.kind == "message" and field.repeated:
            getattr(theirs, field.name).extend(to_google(one) for one in value)
        elif field.kind == "message":
            getattr(theirs, field.name).CopyFrom(to_google(value))
        elif field.repeated:
            getattr(theirs, field.name).extend(value)
        else:
            setattr(theirs, field.name, value)
    return theirs


def _fill_map(theirs: Any, field: Field, value: dict[str, Any]) -> None:
    assert field.value is not None
    for key, one in value.items():
        if field.value.kind == "message":
            theirs[key].CopyFrom(to_google(one))
        else:
            theirs[key] = one
