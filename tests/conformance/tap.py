"""The Test Anything Protocol, as far as the OCI's validation programs speak it.

Source: https://testanything.org/tap-version-13-specification.html
"""

import re
from dataclasses import dataclass

_LINE = re.compile(r"^(not ok|ok)\b\s*(\d+)?\s*(?:-\s*)?([^#]*?)\s*(?:#\s*(SKIP|TODO)\b.*)?$", re.IGNORECASE)
_ERROR = re.compile(r'^\s+(?:"?(?:error|stderr)"?):\s*(.*?),?\s*$')


@dataclass(frozen=True, slots=True)
class Point:
    """One test point. `why` is the error its diagnostic gives, "" when there is none."""

    ok: bool
    skipped: bool
    text: str
    why: str


def parse_tap(output: str) -> list[Point]:
    """Return the test points of a TAP stream; lines that are no TAP are passed over."""
    points: list[Point] = []
    for line in output.splitlines():
        if found := _LINE.match(line):
            directive = (found[4] or "").upper()
            points.append(Point(found[1].lower() == "ok" or directive == "TODO", directive == "SKIP", found[3], ""))
        elif points and not points[-1].why and (error := _ERROR.match(line)):
            last = points[-1]
            points[-1] = Point(last.ok, last.skipped, last.text, error[1].strip('"'))
    return points
