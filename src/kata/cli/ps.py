"""`ps`: the processes of a container, with the pids that they have in the guest."""

import json

from kata.cli.invocation import Invocation
from kata.cli.records import read_record
from kata.cli.service import open_service
from kata.errors import UsageError
from kata.protocol.messages.sandbox import ContainerRequest, ListProcessesResponse


def run_ps(invocation: Invocation) -> int:
    form = invocation.text("format")
    if form not in ("table", "json"):
        raise UsageError("invalid format option", hint="table or json")
    record = read_record(invocation.root, invocation.arguments[0])
    with open_service(invocation.root, record["sandbox"]) as service:
        answer = service.call("ListProcesses", ContainerRequest(container_id=record["id"]), ListProcessesResponse)
    if form == "json":
        print(json.dumps(answer.pids, separators=(",", ":")))
    else:
        print("\n".join(answer.lines))
    return 0
