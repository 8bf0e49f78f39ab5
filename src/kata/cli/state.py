"""`state`: what a container is doing, as the OCI runtime specification writes it."""

from __future__ import annotations

import json

from kata.cli.invocation import Invocation
from kata.cli.records import describe_stopped, read_record
from kata.cli.service import ServiceGoneError, open_service
from kata.errors import Code, GuestError, NotFoundError
from kata.protocol.messages.sandbox import ContainerRequest, DocumentResponse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kata.cli.records import Record


def run_state(invocation: Invocation) -> int:
    record = read_record(invocation.root, invocation.arguments[0])
    print(json.dumps(find_state(invocation.root, record), indent=2))
    return 0


def find_state(root: str, record: Record) -> dict[str, Any]:
    """Ask the sandbox for a container's state. Those of a sandbox that is gone are stopped."""
    try:
        with open_service(root, record["sandbox"]) as service:
            answer = service.call("StateContainer", ContainerRequest(container_id=record["id"]), DocumentResponse)
    except (ServiceGoneError, NotFoundError):
        return describe_stopped(record)
    except GuestError as error:
        if error.status != Code.UNAVAILABLE:
            raise
        return describe_stopped(record)
    state: dict[str, Any] = json.loads(answer.document)
    return state
