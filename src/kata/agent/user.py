"""Users and groups by name, as a container's own /etc/passwd and /etc/group have them."""

import os

from kata.errors import UsageError
from kata.protocol.messages.agent import StringUser
from kata.protocol.messages.oci import User
from kata.sys.beneath import open_in_root

_LIMIT = 4 << 20  # bytes; the files are the image's


def resolve_user(wanted: StringUser, rootfs: str) -> User:
    """Numbers for names or numbers. Without a group the user's own group is taken.

    Raise UsageError for a name that the container does not have.
    """
    user = User()
    if wanted.uid:
        rows = _read_table(rootfs, "etc/passwd")
        row = next((row for row in rows if row[0] == wanted.uid or row[2:3] == [wanted.uid]), None)
        user.UID = int(wanted.uid) if wanted.uid.isdecimal() else _number(row, "user", wanted.uid)
        if row is not None and len(row) > 3 and row[3].isdecimal():
            user.GID = int(row[3])
            user.Username = row[0]
    groups = _read_table(rootfs, "etc/group") if wanted.gid or wanted.additionalGids else []
    if wanted.gid:
        user.GID = _find_group(groups, wanted.gid)
    user.AdditionalGids = [_find_group(groups, name) for name in wanted.additionalGids]
    return user


def _find_group(rows: list[list[str]], name: str) -> int:
    if name.isdecimal():
        return int(name)
    return _number(next((row for row in rows if row[0] == name), None), "group", name)


def _number(row: list[str] | None, kind: str, name: str) -> int:
    if row is None or len(row) < 3 or not row[2].isdecimal():
        raise UsageError(f"the container's image has no {kind} {name!r}")
    return int(row[2])


def _read_table(rootfs: str, path: str) -> list[list[str]]:
    """Lines of colon-separated fields. The path is followed inside the container's root only."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    finally:
        os.close(root)
    with open(descriptor, encoding="utf-8", errors="replace") as file:
        return [line.split(":") for line in file.read(_LIMIT).splitlines() if line and not line.startswith("#")]
