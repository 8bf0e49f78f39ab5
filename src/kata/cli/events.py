"""`events`: what a container uses, one JSON line each time."""

import json
import threading
from typing import TYPE_CHECKING

from kata.cli.invocation import Invocation
from kata.cli.records import read_record
from kata.cli.service import ServiceGoneError, open_service
from kata.errors import NotFoundError, StateError, UsageError
from kata.protocol.messages.sandbox import ContainerRequest, DocumentResponse

if TYPE_CHECKING:
    from kata.cli.records import Record


def run_events(invocation: Invocation) -> int:
    interval = invocation.flags["interval"]
    assert isinstance(interval, float)
    if interval <= 0:
        raise UsageError("duration interval must be greater than 0")
    record = read_record(invocation.root, invocation.arguments[0])
    try:
        print(_read_stats(invocation.root, record), flush=True)
    except ServiceGoneError as error:
        raise StateError(f"container with id {record['id']} is not running") from error
    if invocation.switch("stats"):
        return 0
    pause = threading.Event()
    while not pause.wait(interval):
        try:
            print(_read_stats(invocation.root, record), flush=True)
        except (StateError, NotFoundError):
            return 0  # the container ended: there is nothing more to tell
    return 0


def _read_stats(root: str, record: "Record") -> str:
    with open_service(root, record["sandbox"]) as service:
        answer = service.call("StatsContainer", ContainerRequest(container_id=record["id"]), DocumentResponse)
    document = {"type": "stats", "id": record["id"], "data": json.loads(answer.document)}
    return json.dumps(document, separators=(",", ":"))
