"""What the monitor answers: upstream's paths, each served from the management sockets of the node's sandboxes."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from kata.errors import KataError, ProtocolError, UsageError
from kata.monitor.node import MonitoredSandbox, choose_sandbox, list_monitored
from kata.observe.durations import Durations
from kata.observe.log import Log
from kata.protocol.exposition import (
    CONTENT_TYPE,
    Family,
    encode_families,
    label_families,
    make_family,
    make_gauge,
    merge_families,
    parse_families,
)
from kata.protocol.http import Request, Response
from kata.protocol.process_metrics import list_standard_families
from kata.sandbox.metrics import make_histogram
from kata.sys.procfs import read_process
from kata.transport.http import fetch

SANDBOX_TIMEOUT = 8.0
"""Seconds that one sandbox may take. Prometheus gives up after 10, and one that hangs must not cost the others."""

_CONCURRENCY = 16
_PARAMETER = "sandbox"
_TEXT = {"Content-Type": "text/plain; charset=utf-8"}


class MonitorCalls:
    """Serves the sandboxes under one state directory. `serve` is the handler of an HTTP connection."""

    def __init__(self, root: str, log: Log) -> None:
        self._root = root
        self._log = log
        self._limit = asyncio.Semaphore(_CONCURRENCY)
        self._durations = Durations()
        self._scrapes = 0
        self._failures = 0
        self._table: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/": self._list_paths,
            "/metrics": self._measure,
            "/sandboxes": self._list_sandboxes,
            "/agent-url": self._name_agent,
        }

    async def serve(self, request: Request) -> Response:
        """Answer a request. Raise a KataError for what is refused or fails."""
        call = self._table.get(request.path)
        if call is None:
            return Response(404, f"there is nothing at {request.path}; there is: {' '.join(self._table)}\n".encode())
        if request.method not in ("GET", "HEAD"):
            return Response(405, f"{request.path} is only to be read\n".encode(), {"Allow": "GET, HEAD"})
        return await call(request)

    async def _list_paths(self, _: Request) -> Response:
        lines = [
            "/metrics                figures of this node's sandboxes, for Prometheus",
            "/metrics?sandbox=ID     those of one sandbox",
            "/sandboxes              the sandboxes, one a line",
            "/agent-url?sandbox=ID   where the agent of a sandbox is reached",
        ]
        return Response(200, "\n".join([*lines, ""]).encode(), _TEXT)

    async def _list_sandboxes(self, _: Request) -> Response:
        return Response(200, "".join(f"{one.key}\n" for one in list_monitored(self._root)).encode(), _TEXT)

    async def _name_agent(self, request: Request) -> Response:
        word = request.query.get(_PARAMETER, "")
        if not word:
            raise UsageError(f"{request.path} needs the parameter {_PARAMETER}")
        sandbox = choose_sandbox(list_monitored(self._root), word)
        answer = await fetch(sandbox.socket, request.path, f"sandbox {sandbox.key}", timeout=SANDBOX_TIMEOUT)
        return Response(answer.status, answer.body, _TEXT)

    async def _measure(self, request: Request) -> Response:
        word = request.query.get(_PARAMETER, "")
        sandboxes = list_monitored(self._root)
        if word:
            families = await self._scrape(choose_sandbox(sandboxes, word))
        else:
            families = await self._measure_node(sandboxes)
        return Response(200, encode_families(families).encode(), {"Content-Type": CONTENT_TYPE})

    async def _measure_node(self, sandboxes: list[MonitoredSandbox]) -> list[Family]:
        begin = time.monotonic()
        self._scrapes += 1
        answers = await asyncio.gather(*(self._scrape(one) for one in sandboxes), return_exceptions=True)
        families: list[Family] = []
        for sandbox, answer in zip(sandboxes, answers, strict=True):
            if isinstance(answer, KataError):
                self._failures += 1
                self._log.write("warning", f"sandbox {sandbox.key} is missing from a scrape", error=str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                families += label_families(answer, sandbox.labels)
        self._durations.note("scrape", time.monotonic() - begin)
        return merge_families([*self._measure_self(len(sandboxes)), *families])

    async def _scrape(self, sandbox: MonitoredSandbox) -> list[Family]:
        peer = f"sandbox {sandbox.key}"
        async with self._limit:
            answer = await fetch(sandbox.socket, "/metrics", peer, timeout=SANDBOX_TIMEOUT)
        if answer.status != 200:
            raise ProtocolError(f"{peer} answered {answer.status} to /metrics")
        return parse_families(answer.body.decode(errors="replace"))

    def _measure_self(self, count: int) -> list[Family]:
        process = read_process("self")
        return [
            make_gauge("kata_monitor_running_shim_count", "Running sandboxes.", count),
            make_family("kata_monitor_scrape_count", "Scrapes of the node.", [({}, self._scrapes)], "counter"),
            make_family(
                "kata_monitor_scrape_failed_count",
                "Sandboxes that did not answer a scrape.",
                [({}, self._failures)],
                "counter",
            ),
            make_histogram("kata_monitor_scrape_durations_histogram_milliseconds", self._durations),
            *(list_standard_families("kata_monitor", process) if process is not None else []),
        ]
