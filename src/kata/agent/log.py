"""The agent's log: one JSON object a line, to the host's log port when it listens, serious ones to the console too."""

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import Callable

from kata.agent.options import LEVELS

_KEPT_LINES = 256
_CONSOLE_LEVEL = LEVELS.index("warn")


class Log:
    """Where messages go. Until the host listens, the newest lines are kept and the older ones are dropped."""

    def __init__(self, level: str) -> None:
        self._level = LEVELS.index(level)
        self._kept: deque[bytes] = deque(maxlen=_KEPT_LINES)
        self._sink: Callable[[bytes], None] | None = None
        self.sandbox = ""

    def attach(self, sink: Callable[[bytes], None]) -> None:
        """Send what was kept, and from now on everything, to `sink`."""
        self._sink = sink
        while self._kept:
            sink(self._kept.popleft())

    def detach(self) -> None:
        self._sink = None

    def clear(self) -> None:
        """Forget what was kept."""
        self._kept.clear()

    def write(self, level: str, message: str, **facts: object) -> None:
        """Log a message with facts about it. Field names are those of upstream's agent."""
        number = LEVELS.index(level)
        if number > self._level:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e9):09d}Z"
        entry: dict[str, object] = {"msg": message, "level": level.upper(), "ts": stamp, "source": "agent"}
        entry |= {"name": "kata-agent", "pid": str(os.getpid()), "sandbox": self.sandbox}
        entry |= {name: str(fact) for name, fact in facts.items()}
        line = json.dumps(entry).encode() + b"\n"
        if number <= _CONSOLE_LEVEL:
            _write_console(level, message, facts)
        if self._sink is None:
            self._kept.append(line)
        else:
            self._sink(line)


def _write_console(level: str, message: str, facts: dict[str, object]) -> None:
    more = "".join(f" {name}={fact}" for name, fact in facts.items())
    try:
        os.write(2, f"kata-agent: {level}: {message}{more}\n".encode())
    except OSError:
        return


class LogConnection(asyncio.Protocol):
    """A host that listens to the log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._log.attach(transport.write)

    def pause_writing(self) -> None:
        """The host does not read: keep the newest lines instead of growing."""
        self._log.detach()

    def resume_writing(self) -> None:
        assert self._transport is not None
        self._log.attach(self._transport.write)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature of asyncio
        self._log.detach()
