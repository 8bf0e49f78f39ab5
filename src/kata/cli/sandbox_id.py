"""Sandboxes as an operator names them: by id, by the id of a container in them, or by the beginning of either."""

import os

from kata.cli.container_id import check_id
from kata.cli.records import find_sandbox_dir, list_records
from kata.errors import NotFoundError, UsageError


def find_sandbox(root: str, name: str) -> str:
    """Return the id of the sandbox meant. Raise NotFoundError for none, UsageError for several."""
    check_id(name)
    if os.path.isdir(find_sandbox_dir(root, name)):
        return name
    records = list_records(root)
    places = {record["id"]: record["sandbox"] for record in records}
    if name in places:
        return str(places[name])
    try:
        known = set(os.listdir(f"{root}/sandboxes"))
    except FileNotFoundError:
        known = set()
    meant = {sandbox for sandbox in known if sandbox.startswith(name)}
    meant |= {sandbox for container, sandbox in places.items() if container.startswith(name)}
    if not meant:
        raise NotFoundError(f"sandbox {name} does not exist", hint="see kata-runtime list")
    if len(meant) > 1:
        raise UsageError(f"{name} may mean any of {', '.join(sorted(meant))}", hint="give more characters")
    return meant.pop()
