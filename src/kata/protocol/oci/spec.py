"""config.json of a bundle: is it one that a Linux container can be made of?

The document stays the engine's own dictionary, so nothing that it wrote is lost on the way to the guest. Here only
shape and types are checked; an error names the file, the JSON path and what is wrong.
Source: OCI runtime specification 1.2, config.md and config-linux.md.
"""

from __future__ import annotations

import json

from kata.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Check = Callable[[Any, str], None]


NAMESPACES = ("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")
_INT64 = 1 << 63
_TYPE_NAMES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
}


class _WrongError(Exception):
    """`path` is the JSON path of the value, `problem` what is wrong with it."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem


def parse_spec(text: str | bytes, file: str) -> dict[str, Any]:
    """Return the specification as its dictionary. Raise UsageError that names `file` where it is malformed."""
    return _parse(text, file, _check_spec)


def parse_process(text: str | bytes, file: str) -> dict[str, Any]:
    """Return the OCI process in a process.json. Raise UsageError that names `file` where it is malformed."""
    return _parse(text, file, _check_process)


def parse_resources(text: str | bytes, file: str) -> dict[str, Any]:
    """Return linux.resources. Raise UsageError that names `file` where it is malformed."""
    return _parse(text, file, _RESOURCES)


def _parse(text: str | bytes, file: str, check: Check) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{file} is not JSON: {error}") from error
    try:
        check(document, "")
    except _WrongError as error:
        raise UsageError(f"{file}: {error.path or 'the document'} {error.problem}") from error
    assert isinstance(document, dict)
    return document


def _name_type(value: Any) -> str:
    return _TYPE_NAMES.get(type(value), "an object")


def _text(value: Any, path: str) -> None:
    if not isinstance(value, str):
        raise _WrongError(path, f"must be a string, not {_name_type(value)}")
    if "\0" in value:
        raise _WrongError(path, "holds a NUL character")


def _boolean(value: Any, path: str) -> None:
    if not isinstance(value, bool):
        raise _WrongError(path, f"must be true or false, not {_name_type(value)}")


def _integer(least: int, most: int) -> Check:
    def check(value: Any, path: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _WrongError(path, f"must be an integer, not {_name_type(value)}")
        if not least <= value <= most:
            raise _WrongError(path, f"is {value}, outside {least} to {most}")

    return check


def _nonempty(value: Any, path: str) -> None:
    _text(value, path)
    if not value:
        raise _WrongError(path, "is empty")


def _absolute(value: Any, path: str) -> None:
    _text(value, path)
    if not value.startswith("/"):
        raise _WrongError(path, f"must be an absolute path, not {value!r}")


def _one_of(*values: str) -> Check:
    def check(value: Any, path: str) -> None:
        _text(value, path)
        if value not in values:
            raise _WrongError(path, f"is {value!r}, not one of {', '.join(values)}")

    return check


def _array(check_item: Check, *, least: int = 0) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, list):
            raise _WrongError(path, f"must be an array, not {_name_type(value)}")
        if len(value) < least:
            raise _WrongError(path, "is empty")
        for index, item in enumerate(value):
            check_item(item, f"{path}[{index}]")

    return check


def _map(check_value: Check) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise _WrongError(path, f"must be an object, not {_name_type(value)}")
        for key, item in value.items():
            check_value(item, f"{path}[{json.dumps(key)}]")

    return check


def _object(required: dict[str, Check] | None = None, optional: dict[str, Check] | None = None) -> Check:
    """Check an object's known members. Unknown ones pass, as the specification demands; null counts as absent."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise _WrongError(path, f"must be an object, not {_name_type(value)}")
        prefix = f"{path}." if path else ""
        for name, check_member in (required or {}).items():
            if value.get(name) is None:
                raise _WrongError(f"{prefix}{name}", "is missing")
            check_member(value[name], f"{prefix}{name}")
        for name, check_member in (optional or {}).items():
            if value.get(name) is not None:
                check_member(value[name], f"{prefix}{name}")

    return check


def _version(value: Any, path: str) -> None:
    _text(value, path)
    core = value.split("-", 1)[0].split("+", 1)[0].split(".")
    if len(core) != 3 or not all(part.isascii() and part.isdigit() for part in core):
        raise _WrongError(path, f"is {value!r}, not a semantic version")
    if core[0] != "1":
        raise _WrongError(path, f"is {value}; this runtime implements 1.x")


def _environment(value: Any, path: str) -> None:
    _text(value, path)
    if "=" not in value:
        raise _WrongError(path, f"must be NAME=VALUE, not {value!r}")


_ID = _integer(0, (1 << 32) - 1)
_NUMBER = _integer(-_INT64, 2 * _INT64 - 1)
_TEXTS = _array(_text)
_CAPABILITIES = _object(
    optional={name: _TEXTS for name in ("bounding", "effective", "inheritable", "permitted", "ambient")}  # noqa: C420 - reads as a table
)
_check_process = _object(
    required={"args": _array(_text, least=1), "cwd": _absolute},
    optional={
        "terminal": _boolean,
        "user": _object(optional={"uid": _ID, "gid": _ID, "umask": _ID, "additionalGids": _array(_ID)}),
        "env": _array(_environment),
        "capabilities": _CAPABILITIES,
        "rlimits": _array(
            _object(required={"type": _text, "hard": _integer(0, 2 * _INT64 - 1), "soft": _integer(0, 2 * _INT64 - 1)})
        ),
        "noNewPrivileges": _boolean,
        "oomScoreAdj": _integer(-1000, 1000),
        "consoleSize": _object(required={"height": _ID, "width": _ID}),
        "apparmorProfile": _text,
        "selinuxLabel": _text,
    },
)
_HOOKS = _array(
    _object(required={"path": _absolute}, optional={"args": _TEXTS, "env": _TEXTS, "timeout": _integer(1, 1 << 31)})
)
_MOUNT = _object(required={"destination": _nonempty}, optional={"type": _text, "source": _text, "options": _TEXTS})
_DEVICE = _object(
    required={"type": _one_of("c", "b", "u", "p"), "path": _absolute},
    optional={"major": _NUMBER, "minor": _NUMBER, "fileMode": _ID, "uid": _ID, "gid": _ID},
)
_RESOURCES = _object(
    optional={
        "devices": _array(_object(required={"allow": _boolean}, optional={"access": _text, "type": _text})),
        "memory": _object(
            optional={
                "limit": _NUMBER,
                "reservation": _NUMBER,
                "swap": _NUMBER,
                "swappiness": _NUMBER,
                "disableOOMKiller": _boolean,
            }
        ),
        "cpu": _object(
            optional={
                "shares": _NUMBER,
                "quota": _NUMBER,
                "period": _NUMBER,
                "realtimeRuntime": _NUMBER,
                "realtimePeriod": _NUMBER,
                "cpus": _text,
                "mems": _text,
            }
        ),
        "pids": _object(optional={"limit": _NUMBER}),
        "blockIO": _object(optional={"weight": _NUMBER}),
        "hugepageLimits": _array(_object(required={"pageSize": _text, "limit": _NUMBER})),
        "unified": _map(_text),
    }
)
_MAPPINGS = _array(_object(required={"containerID": _ID, "hostID": _ID, "size": _ID}))
_LINUX = _object(
    optional={
        "namespaces": _array(_object(required={"type": _one_of(*NAMESPACES)}, optional={"path": _text})),
        "devices": _array(_DEVICE),
        "resources": _RESOURCES,
        "uidMappings": _MAPPINGS,
        "gidMappings": _MAPPINGS,
        "cgroupsPath": _text,
        "maskedPaths": _TEXTS,
        "readonlyPaths": _TEXTS,
        "sysctl": _map(_text),
        "rootfsPropagation": _text,
        "seccomp": _object(required={"defaultAction": _text}),
        "mountLabel": _text,
    }
)
_DOCUMENT = _object(
    required={
        "ociVersion": _version,
        "root": _object(required={"path": _nonempty}, optional={"readonly": _boolean}),
        "process": _check_process,
        "linux": _LINUX,
    },
    optional={
        "hostname": _text,
        "domainname": _text,
        "mounts": _array(_MOUNT),
        "annotations": _map(_text),
        "hooks": _object(
            optional={
                "prestart": _HOOKS,
                "createRuntime": _HOOKS,
                "createContainer": _HOOKS,
                "startContainer": _HOOKS,
                "poststart": _HOOKS,
                "poststop": _HOOKS,
            }
        ),
    },
)


def _check_spec(value: Any, path: str) -> None:
    _DOCUMENT(value, path)
    seen = set()
    for index, namespace in enumerate(value["linux"].get("namespaces") or []):
        if namespace["type"] in seen:
            raise _WrongError(f"linux.namespaces[{index}].type", f"lists {namespace['type']} a second time")
        seen.add(namespace["type"])
