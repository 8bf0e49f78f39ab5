"""Users by name, as an image knows them: /etc/passwd and /etc/group of its root file system."""

import os
from typing import Any

from kata.errors import NotFoundError, UsageError
from kata.sys.beneath import open_in_root

_LARGEST = 1 << 20
_LAST_ID = (1 << 32) - 1


def find_user(rootfs: str, text: str) -> dict[str, Any]:
    """Return OCI's user for `USER[:GROUP]`, each a name or a number. Empty is root.

    Without a group, the primary group comes from /etc/passwd and additional ones from /etc/group. The files are read as
    the container would find them, so an image's link cannot lead to the host's. Raise NotFoundError on unknown names.
    """
    user, colon, group = (text or "0").partition(":")
    if colon and not group:
        raise UsageError(f"user {text!r} names no group after the colon")
    found = _find_row(rootfs, user, "passwd")
    if found is None and not _is_id(user):
        raise NotFoundError(f"user {user} is not in /etc/passwd of {rootfs}")
    result: dict[str, Any] = {"uid": int(found[2]) if found else int(user), "gid": int(found[3]) if found else 0}
    if group:
        row = _find_row(rootfs, group, "group")
        if row is None and not _is_id(group):
            raise NotFoundError(f"group {group} is not in /etc/group of {rootfs}")
        result["gid"] = int(row[2]) if row else int(group)
    elif found:
        groups = [int(row[2]) for row in _list_rows(rootfs, "group") if found[0] in row[3].split(",")]
        if groups:
            result["additionalGids"] = groups
    return result


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= _LAST_ID


def _find_row(rootfs: str, name: str, file: str) -> list[str] | None:
    column = 2 if _is_id(name) else 0
    return next((row for row in _list_rows(rootfs, file) if row[column] == name), None)


def _list_rows(rootfs: str, file: str) -> list[list[str]]:
    """Return the well-formed rows of passwd(5) or group(5), none where the root is an image that nobody has mounted."""
    if not os.path.isdir(rootfs):
        return []
    columns, ids = (7, (2, 3)) if file == "passwd" else (4, (2,))
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = open_in_root(root, f"/etc/{file}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    finally:
        os.close(root)
    with open(descriptor, "rb") as stream:
        text = stream.read(_LARGEST).decode(errors="replace")
    rows = [line.split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) >= columns and all(_is_id(row[at]) for at in ids)]
