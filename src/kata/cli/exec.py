"""`exec`: another process in a container."""

from __future__ import annotations

import contextlib
import json
import os

from kata.cli.create import (
    check_console,
    connect_init,
    kill_stand_in,
    raise_on_signals,
    refuse_preserved_files,
)
from kata.cli.invocation import Invocation
from kata.cli.pid_file import write_pid_file
from kata.cli.records import read_record
from kata.cli.service import CREATE_TIMEOUT, Service, ServiceGoneError, open_service
from kata.cli.stand_in import StandIn, fork_stand_in, send_hello
from kata.cli.terminal import RawMode, find_own_terminal, open_terminal_pair
from kata.errors import NotFoundError, StateError, UnsupportedError, UsageError
from kata.protocol.messages.sandbox import ExecProcessRequest
from kata.protocol.messages.types import Empty
from kata.protocol.oci.spec import parse_process, parse_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kata.cli.records import Record


def run_exec(invocation: Invocation) -> int:
    refuse_preserved_files(invocation)
    if any(invocation.texts("cgroup")):
        raise UnsupportedError("--cgroup cannot be honoured: the guest knows one cgroup per container")
    container, *args = invocation.arguments
    if args[:1] == ["--"]:
        del args[0]
    record = read_record(invocation.root, container)
    process = _find_process(invocation, record, args)
    detached = invocation.switch("detach")
    check_console(invocation.text("console-socket"), terminal=process.get("terminal") is True, detached=detached)
    exec_id = os.urandom(8).hex()
    try:
        with open_service(invocation.root, record["sandbox"]) as service:
            if detached:
                return _exec_detached(invocation, service, record, exec_id, process)
            return _exec_attached(invocation, service, record, exec_id, process)
    except ServiceGoneError as error:
        raise StateError("cannot exec in a stopped container", hint="container not running") from error


def _find_process(invocation: Invocation, record: Record, args: list[str]) -> dict[str, Any]:
    file = invocation.text("process")
    if file:
        try:
            with open(file, "rb") as stream:
                return parse_process(stream.read(), file)
        except FileNotFoundError as error:
            raise NotFoundError(f"open {file}: no such file or directory") from error
    if not args:
        raise UsageError("process args cannot be empty")
    config = f"{record['bundle']}/config.json"
    with open(config, "rb") as stream:
        base = parse_spec(stream.read(), config)["process"]
    return build_process(invocation, base, args)


def build_process(invocation: Invocation, base: dict[str, Any], args: list[str]) -> dict[str, Any]:
    """Return the container's own process with the flags' changes, as runc does where no process.json is given."""
    process: dict[str, Any] = {**base, "args": args, "terminal": invocation.switch("tty")}
    if invocation.text("cwd"):
        process["cwd"] = invocation.text("cwd")
    process["env"] = [*(base.get("env") or []), *invocation.texts("env")]
    for flag, key in (("process-label", "selinuxLabel"), ("apparmor", "apparmorProfile")):
        if invocation.text(flag):
            process[key] = invocation.text(flag)
    if invocation.switch("no-new-privs"):
        process["noNewPrivileges"] = True
    user = dict(base.get("user") or {})
    if invocation.text("user"):
        uid, _, gid = invocation.text("user").partition(":")
        user["uid"] = _parse_number("user", uid)
        if gid:
            user["gid"] = _parse_number("user", gid)
    if invocation.texts("additional-gids"):
        wanted = [_parse_number("additional-gids", gid) for gid in invocation.texts("additional-gids")]
        user["additionalGids"] = [*(user.get("additionalGids") or []), *wanted]
    process["user"] = user
    if invocation.texts("cap"):
        sets = dict(base.get("capabilities") or {})
        for name in ("bounding", "effective", "permitted", "ambient"):
            sets[name] = list(dict.fromkeys([*(sets.get(name) or []), *invocation.texts("cap")]))
        process["capabilities"] = sets
    return process


def _parse_number(flag: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"--{flag}: {text!r} is not a number", hint="a runtime takes numeric ids only, as runc does")
    return int(text)


def _call_exec(service: Service, record: Record, exec_id: str, process: dict[str, Any], pid: int) -> None:
    request = ExecProcessRequest(container_id=record["id"], exec_id=exec_id, process=json.dumps(process), pid=pid)
    service.call("ExecProcess", request, Empty, timeout=CREATE_TIMEOUT)


def _exec_detached(
    invocation: Invocation, service: Service, record: Record, exec_id: str, process: dict[str, Any]
) -> int:
    slave = open_terminal_pair(invocation.text("console-socket")) if process.get("terminal") else None
    with connect_init(invocation.root, record["sandbox"]) as connection:
        pid = fork_stand_in(connection, record["id"], exec_id, slave)
    try:
        if slave is not None:
            os.close(slave)
        with raise_on_signals():
            _call_exec(service, record, exec_id, process, pid)
        if invocation.text("pid-file"):
            write_pid_file(invocation.text("pid-file"), pid)
    except BaseException:
        kill_stand_in(pid)
        raise
    return 0


def _exec_attached(
    invocation: Invocation, service: Service, record: Record, exec_id: str, process: dict[str, Any]
) -> int:
    terminal = find_own_terminal() if process.get("terminal") else None
    with connect_init(invocation.root, record["sandbox"]) as connection, contextlib.ExitStack() as stack:
        send_hello(connection, record["id"], exec_id, terminal)
        connection.settimeout(None)
        # The process runs, and may be seen to, before the call returns: what is sent to it then is kept and forwarded.
        stand_in = stack.enter_context(StandIn(connection, terminal))
        with raise_on_signals():
            _call_exec(service, record, exec_id, process, os.getpid())
        if invocation.text("pid-file"):
            write_pid_file(invocation.text("pid-file"), os.getpid())
        if terminal is not None:
            stack.enter_context(RawMode(terminal))
        return stand_in.follow()
