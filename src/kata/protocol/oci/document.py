"""OCI's JSON into the messages of the agent's protocol, by their tables.

The protocol's field names are OCI's JSON names in another case, but for `ociVersion`, which it calls `Version`.
"""

from __future__ import annotations

from typing import Any, TypeVar

from kata.errors import UsageError
from kata.protocol.protobuf import Field, Message

Kind = TypeVar("Kind", bound=Message)

_RENAMED = {"ociversion": "version"}
_TYPES: dict[str, type] = {"string": str, "bool": bool}
_RANGES = {
    "int32": (-(1 << 31), (1 << 31) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint64": (0, (1 << 64) - 1),
}


def load_message(kind: type[Kind], document: Any, path: str) -> Kind:
    """Return the message that an OCI JSON object describes; null is absent, keys without a field are left out.

    `path` is the object's place in its file. Raise UsageError that names the place and the type or range expected.
    """
    if not isinstance(document, dict):
        raise UsageError(f"{path} is {_name(document)}, not an object")
    fields = {field.name.lower(): field for field in kind.FIELDS.values()}
    message = kind()
    for key, value in document.items():
        field = fields.get(_RENAMED.get(key.lower(), key.lower()))
        if field is not None and value is not None:
            setattr(message, field.name, _load_field(field, value, f"{path}.{key}"))
    return message


def _load_field(field: Field, value: Any, path: str) -> Any:
    if field.kind == "map":
        if not isinstance(value, dict):
            raise UsageError(f"{path} is {_name(value)}, not an object")
        assert field.value is not None
        return {key: _load_one(field.value, item, f"{path}.{key}") for key, item in value.items()}
    if field.repeated:
        if not isinstance(value, list):
            raise UsageError(f"{path} is {_name(value)}, not a list")
        return [_load_one(field, item, f"{path}[{i}]") for i, item in enumerate(value)]
    return _load_one(field, value, path)


def _load_one(field: Field, value: Any, path: str) -> Any:
    if field.type is not None:
        return load_message(field.type, value, path)
    wanted = _TYPES.get(field.kind, int)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise UsageError(f"{path} is {_name(value)}, not {wanted.__name__}")
    if field.kind in _RANGES:
        _check_range(field, value, path)
    return value


def _check_range(field: Field, number: Any, path: str) -> None:
    """On the wire a number too big would lose its upper bits, and come out as another one."""
    least, most = _RANGES[field.kind]
    if not least <= number <= most:
        raise UsageError(f"{path} is {number}, outside {least} to {most}")


def _name(value: Any) -> str:
    return "null" if value is None else type(value).__name__
