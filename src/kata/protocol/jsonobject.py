"""JSON documents that have to be objects."""

import json
from typing import Any

from kata.errors import KataError, UsageError


def parse_object(text: str | bytes, what: str, *, error: type[KataError] = UsageError) -> dict[str, Any]:
    """Read an object. Raise an `error` that says of `what` that it is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise error(f"{what} is not JSON: {reason}") from reason
    if not isinstance(document, dict):
        raise error(f"{what} is not a JSON object")
    return document
