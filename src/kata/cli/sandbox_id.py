"""Sandboxes as an operator names them: by id, by the id of a container in them, or by the beginning of either."""

import os

from kata.cli.container_id import check_id
from kata.cli.records import find_key, find_sandbox_dir, list_records
from kata.errors import NotFoundError, UsageError


def find_sandbox(root: str, name: str) -> str:
    """Return the id of the sandbox meant. Raise NotFoundError for none, UsageError for several."""
    check_id(name)
    if os.path.isdir(find_sandbox_dir(root, name)):
        return name
    try:
        known = set(os.listdir(f"{root}/sandboxes"))
    except FileNotFoundError:
        known = set()
    # Those of containerd are called `id+namespace`.
    places = {(record["id"], find_key(record)): str(record["sandbox"]) for record in list_records(root)}
    meant = {sandbox for sandbox in known if sandbox.startswith(f"{name}+")}
    meant |= {sandbox for names, sandbox in places.items() if name in names}
    if not meant:
        meant = {sandbox for sandbox in known if sandbox.startswith(name)}
        meant |= {sandbox for (_, key), sandbox in places.items() if key.startswith(name)}
    if not meant:
        raise NotFoundError(f"sandbox {name} does not exist", hint="see kata-runtime list")
    if len(meant) > 1:
        raise UsageError(f"{name} may mean any of {', '.join(sorted(meant))}", hint="give more of the name")
    return meant.pop()
