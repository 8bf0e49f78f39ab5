"""`list`: the containers under this root."""

import json
import os
import pwd
from typing import Any

from kata.cli.invocation import Invocation
from kata.cli.records import find_key, find_record_path, list_records
from kata.cli.state import find_state
from kata.errors import UsageError

_COLUMNS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


def run_list(invocation: Invocation) -> int:
    form = invocation.text("format")
    if form not in ("table", "json"):
        raise UsageError("invalid format option", hint="table or json")
    records = list_records(invocation.root)
    if invocation.switch("quiet"):
        print("".join(f"{record['id']}\n" for record in records), end="")
        return 0
    states = [
        find_state(invocation.root, record) | {"owner": _find_owner(invocation.root, find_key(record))}
        for record in records
    ]
    if form == "json":
        print(json.dumps(states or None, separators=(",", ":")))
    else:
        print(format_table([_COLUMNS, *(_list_cells(state) for state in states)]))
    return 0


def _find_owner(root: str, key: str) -> str:
    try:
        uid = os.stat(find_record_path(root, key)).st_uid
    except FileNotFoundError:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _list_cells(state: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(state.get(column.lower(), "")) for column in _COLUMNS)


def format_table(rows: list[tuple[str, ...]]) -> str:
    """Align columns with at least three blanks between them, the first row being the header."""
    widths = [max(12, *(len(row[at]) + 3 for row in rows)) for at in range(len(rows[0]))]
    return "\n".join(
        "".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
