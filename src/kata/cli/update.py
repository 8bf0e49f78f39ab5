"""`update`: new limits for a container."""

import json
import sys
from typing import Any

from kata.cli.invocation import Invocation
from kata.cli.records import read_record
from kata.cli.service import open_service
from kata.errors import UsageError
from kata.protocol.messages.sandbox import UpdateContainerRequest
from kata.protocol.messages.types import Empty
from kata.protocol.oci.spec import parse_resources

_FIELDS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def run_update(invocation: Invocation) -> int:
    record = read_record(invocation.root, invocation.arguments[0])
    resources = _read_resources(invocation)
    request = UpdateContainerRequest(container_id=record["id"], resources=json.dumps(resources))
    with open_service(invocation.root, record["sandbox"]) as service:
        service.call("UpdateContainer", request, Empty)
    return 0


def _read_resources(invocation: Invocation) -> dict[str, Any]:
    file = invocation.text("resources")
    if file == "-":
        return parse_resources(sys.stdin.read(), "standard input")
    if file:
        with open(file, "rb") as stream:
            return parse_resources(stream.read(), file)
    resources: dict[str, Any] = {}
    for flag, (table, key) in _FIELDS.items():
        text = invocation.text(flag)
        if text:
            resources.setdefault(table, {})[key] = _read_value(flag, table, text)
    return resources


def _read_value(flag: str, table: str, text: str) -> int | str:
    if flag.startswith("cpuset"):
        return text
    if table == "memory":
        return parse_size(flag, text)
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"invalid value for {flag}: {text!r} is not a number") from None


def parse_size(flag: str, text: str) -> int:
    """Return bytes: a number with an optional suffix K, M, G or T, of 1024 each; -1 is no limit."""
    if text == "-1":
        return -1
    lower = text.lower().removesuffix("b").removesuffix("i")
    digits = lower.rstrip("kmgt")
    try:
        return int(float(digits) * _UNITS[lower[len(digits) :]])
    except (ValueError, KeyError, OverflowError):
        raise UsageError(f"invalid value for {flag}: invalid size: {text!r}") from None
