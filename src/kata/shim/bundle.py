"""What `start` and `delete` need to know of a bundle: which sandbox its container belongs to."""

from __future__ import annotations

from kata.errors import UsageError
from kata.protocol.oci.pod import TYPE_KEYS, Role, find_role, find_sandbox_id


def find_place(bundle: str, container: str) -> tuple[Role, str]:
    """Return the container's role and its sandbox's id. Raise UsageError that names the file."""
    path = f"{bundle}/config.json"
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if not any(key in text for key in TYPE_KEYS):
        return Role.SINGLE, container
    import json  # noqa: PLC0415 - a third of the cost of `start`, which only pods pay

    try:
        annotations = json.loads(text).get("annotations") or {}
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no JSON object: {error}") from error
    return find_role(annotations), find_sandbox_id(annotations, container)
