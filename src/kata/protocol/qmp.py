"""QEMU Machine Protocol, the client's half, without I/O.

Wire (QEMU docs/interop/qmp-spec.rst): UTF-8 JSON objects, one a line, ended by CR LF or LF.

    server: {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}
    client: {"execute": "qmp_capabilities", "id": 1}
    server: {"return": {}, "id": 1}                                      an answer, or
            {"error": {"class": "GenericError", "desc": "…"}, "id": 1}   a refusal, and at any time
            {"event": "STOP", "data": {…}, "timestamp": {"seconds": …, "microseconds": …}}

States: no command but qmp_capabilities is accepted before its answer.

    GREETING --Greeting--> NEGOTIATING --return to qmp_capabilities--> READY
"""

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

from kata.errors import ProtocolError, StateError

# The longest answer seen is query-qmp-schema, 200 KiB in QEMU 9. More than this is a fault.
MAX_LINE = 8 << 20


class Phase(Enum):
    GREETING = "greeting"
    NEGOTIATING = "negotiating"
    READY = "ready"


class Greeting(NamedTuple):
    """The first line of a session."""

    version: tuple[int, int, int]
    package: str
    capabilities: tuple[str, ...]


class Answer(NamedTuple):
    """The command with this number was carried out."""

    number: int
    value: Any


class Refusal(NamedTuple):
    """The command with this number was not carried out. `number` is None when QEMU could not read the line at all."""

    number: int | None
    kind: str
    description: str


class Event(NamedTuple):
    """Something happened. `seconds` is QEMU's wall clock."""

    name: str
    data: Mapping[str, Any]
    seconds: float


Message = Greeting | Answer | Refusal | Event


class QmpEngine:
    """One session. Feed it what was read, send what `encode` gives."""

    def __init__(self) -> None:
        self.phase = Phase.GREETING
        self._tail = bytearray()
        self._searched = 0
        self._next = 1
        self._pending: set[int] = set()
        self._negotiation: int | None = None

    def negotiate(self) -> tuple[int, bytes]:
        """The command that opens the session. Valid once, after the greeting."""
        if self.phase is not Phase.NEGOTIATING or self._negotiation is not None:
            raise StateError(f"a QMP session cannot negotiate in phase {self.phase.value}")
        self._negotiation, line = self._encode("qmp_capabilities", None)
        return self._negotiation, line

    def encode(self, command: str, arguments: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """The number and the bytes of a command."""
        if self.phase is not Phase.READY:
            raise StateError(f"QMP command {command} cannot be sent in phase {self.phase.value}")
        return self._encode(command, arguments)

    def _encode(self, command: str, arguments: Mapping[str, Any] | None) -> tuple[int, bytes]:
        number = self._next
        self._next += 1
        request: dict[str, Any] = {"execute": command, "id": number}
        if arguments:
            request["arguments"] = dict(arguments)
        self._pending.add(number)
        # json escapes line ends inside strings, so the line end is the end of the command.
        return number, json.dumps(request, separators=(",", ":")).encode() + b"\n"

    def receive(self, data: bytes) -> list[Message]:
        """Messages completed by these bytes. Raises ProtocolError for what no QMP server says."""
        self._tail += data
        messages = []
        start = 0
        while (end := self._tail.find(b"\n", max(start, self._searched))) >= 0:
            line = bytes(self._tail[start:end]).strip()
            start = end + 1
            if line:
                messages.append(self._read(line))
        del self._tail[:start]
        self._searched = len(self._tail)
        if len(self._tail) > MAX_LINE:
            raise ProtocolError(f"the QMP peer sent a line of more than {MAX_LINE} bytes")
        return messages

    def _read(self, line: bytes) -> Message:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"the QMP peer sent a line that is no JSON: {line[:80]!r}") from error
        try:
            return self._interpret(value)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ProtocolError(f"the QMP peer sent a message of unknown form: {line[:80]!r}") from error

    def _interpret(self, value: Any) -> Message:
        if "QMP" in value:
            return self._greet(value["QMP"])
        if self.phase is Phase.GREETING:
            raise ProtocolError("the QMP peer spoke before it greeted")
        if "event" in value:
            stamp = value.get("timestamp", {})
            seconds = stamp.get("seconds", 0) + stamp.get("microseconds", 0) / 1e6
            return Event(str(value["event"]), value.get("data") or {}, seconds)
        if "error" in value:
            error = value["error"]
            number = self._settle(value["id"]) if "id" in value else None
            return Refusal(number, str(error["class"]), str(error["desc"]))
        number = self._settle(value["id"])
        if number == self._negotiation:
            self.phase = Phase.READY
        return Answer(number, value["return"])

    def _greet(self, greeting: Any) -> Greeting:
        if self.phase is not Phase.GREETING:
            raise ProtocolError("the QMP peer greeted twice")
        version = greeting["version"]["qemu"]
        self.phase = Phase.NEGOTIATING
        return Greeting(
            (int(version["major"]), int(version["minor"]), int(version["micro"])),
            str(greeting["version"].get("package", "")),
            tuple(str(name) for name in greeting.get("capabilities", ())),
        )

    def _settle(self, number: Any) -> int:
        if not isinstance(number, int) or number not in self._pending:
            raise ProtocolError(f"the QMP peer answered command {number!r}, which was not asked")
        self._pending.remove(number)
        return number
