"""Names of containers and sandboxes. They become file names, so nothing but harmless characters may pass."""

from kata.errors import UsageError

_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_LONGEST = 200
"""Bytes: what a file system's 255 leave after the suffixes that the runtime appends."""


def check_id(name: str) -> str:
    """Return the id. Raise UsageError where runc would refuse it, or where it would name another directory."""
    if not name:
        raise UsageError("container id cannot be empty")
    if not set(name) <= _ALLOWED or name in (".", ".."):
        raise UsageError("invalid container ID format", hint=f"{name!r}: letters, digits and _ + - . only")
    if len(name) > _LONGEST:
        raise UsageError(f"invalid container ID format: {len(name)} characters, {_LONGEST} at most")
    return name
