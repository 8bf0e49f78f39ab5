"""What `start` and `delete` need to know of a bundle: which sandbox its container belongs to."""

from __future__ import annotations

from _json import make_scanner

from kata.errors import UsageError
from kata.protocol.oci.pod import TYPE_KEYS, Role, find_role, find_sandbox_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def find_place(bundle: str, container: str) -> tuple[Role, str]:
    """Return the container's role and its sandbox's id. Raise UsageError that names the file.

    A bundle without config.json is that of a sandbox that containerd's Sandbox API makes.
    """
    path = f"{bundle}/config.json"
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return Role.SANDBOX, container
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if not any(key in text for key in TYPE_KEYS):
        return Role.SINGLE, container
    try:
        annotations = _read_json(text).get("annotations") or {}
    except (ValueError, StopIteration, AttributeError) as error:
        raise UsageError(f"{path} is no JSON object: {error}") from error
    return find_role(annotations), find_sandbox_id(annotations, container)


class _Decoding:
    """How `_json.make_scanner` is to read: what `json.JSONDecoder` passes by default."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def _read_json(text: str) -> Any:
    """Read JSON by the scanner of the package `json`, whose own import costs a third of all of `start`."""
    return make_scanner(_Decoding)(text.lstrip(), 0)[0]  # type: ignore[arg-type]  # typeshed has its own class here
