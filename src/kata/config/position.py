"""Where in a TOML file a key stands: tomllib does not say, and an operator who is told of a mistake has to find it.

Loaded only on the way to an error or a remark. Source: TOML 1.0, sections Keys, Table, Array of Tables.
"""

import re

_HEADER = re.compile(r"\s*\[\[?\s*(?P<name>[^\]]+?)\s*\]\]?\s*(#.*)?")
_KEY = re.compile(r"""\s*(?P<name>(?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def find_line(text: str, *names: str) -> int:
    """Return the number of the line that gives a key, named by its tables and itself; else its table's; or 0."""
    wanted = tuple(part for name in names for part in name.split("."))
    table: tuple[str, ...] = ()
    nearest = 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.fullmatch(line):
            table = _split(header["name"])
            if table[: len(wanted)] == wanted:
                return number
            if not nearest and table == wanted[: len(table)]:
                nearest = number
        elif key := _KEY.match(line):
            found = table + _split(key["name"])
            if found == wanted:
                return number
            if found == wanted[: len(found)]:  # an inline table
                nearest = number
    return nearest


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
