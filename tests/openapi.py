"""Requests checked against a VMM's OpenAPI description, closed: what the description does not name is an error.

Swagger 2.0 (Firecracker's) and OpenAPI 3.0 (Cloud Hypervisor's), as far as those two use them. The descriptions are not
in this tree: they are read from KATA_VMM_SPECS, or from ../shared/specs beside it.
"""

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

_SPECS = Path(os.environ.get("KATA_VMM_SPECS") or Path(__file__).resolve().parents[2] / "shared/specs")
_TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
}  # fmt: skip


class Description:
    """One description."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._paths = {re.sub(r"\{\w+\}", "{}", path): calls for path, calls in document["paths"].items()}

    def check_request(self, method: str, target: str, body: object) -> None:
        """Raise AssertionError for a call that the VMM does not have, or whose body it would not understand."""
        path = next((path for path in self._paths if _matches(path, target)), None)
        assert path is not None, f"no call {target}"
        call = self._paths[path].get(method.lower())
        assert call is not None, f"{target} has no {method}"
        schema = self._find_schema(call)
        if schema is None:
            assert body is None, f"{target} takes no body"
            return
        self._check(schema, body, target)

    def check(self, name: str, value: object) -> None:
        """Raise AssertionError for a value that is none of this schema's."""
        place = "definitions" if "definitions" in self._document else "components/schemas"
        self._check({"$ref": f"#/{place}/{name}"}, value, name)

    def _find_schema(self, call: dict[str, Any]) -> dict[str, Any] | None:
        if "requestBody" in call:
            schema: dict[str, Any] = call["requestBody"]["content"]["application/json"]["schema"]
            return schema
        return next((item["schema"] for item in call.get("parameters", []) if item.get("in") == "body"), None)

    def _resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            found: Any = self._document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            schema = found
        return schema

    def _check(self, schema: dict[str, Any], value: Any, place: str) -> None:
        schema = self._resolve(schema)
        kind = schema.get("type", "object")
        wanted = _TYPES[kind]
        assert isinstance(value, wanted), f"{place} is {value!r}, where {kind} is needed"
        assert not (isinstance(value, bool) and kind in ("integer", "number")), f"{place} is {value!r}"
        assert value in schema.get("enum", [value]), f"{place} is {value!r}, not one of {schema.get('enum')}"
        if kind == "object":
            known = schema.get("properties", {})
            for name in schema.get("required", []):
                assert name in value, f"{place} lacks {name}"
            for name, inner in value.items():
                assert name in known or "additionalProperties" in schema, f"{place} has {name}, which is unknown"
                if name in known:
                    self._check(known[name], inner, f"{place}.{name}")
        elif kind == "array":
            for number, inner in enumerate(value):
                self._check(schema["items"], inner, f"{place}[{number}]")
        elif kind == "integer":
            assert schema.get("minimum", value) <= value <= schema.get("maximum", value), f"{place} is {value}"


def _matches(path: str, target: str) -> bool:
    return re.fullmatch("[^/]+".join(map(re.escape, path.split("{}"))), target) is not None


@cache
def _read_description(path: Path) -> Description:
    return Description(yaml.safe_load(path.read_text()))


def load_description(name: str) -> Description:
    """Read a description, or skip the test, loudly, where it is not there."""
    path = _SPECS / f"{name}.yaml"
    if not path.exists():
        pytest.skip(
            f"NO {path}: requests are not checked against the VMM's description (KATA_VMM_SPECS names its folder)"
        )
    return _read_description(path)
