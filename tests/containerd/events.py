"""containerd's events, as `ctr events` shows them."""

import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from containerd.daemon import RUNTIME, Containerd
from containerd.images import IMAGE


class Events:
    """The lines of `ctr events` as they come."""

    def __init__(self, daemon: Containerd) -> None:
        self.process = subprocess.Popen(daemon.command("events"), stdout=subprocess.PIPE)
        self.lines: list[str] = []
        self._rest = b""

    def read(self, timeout: float) -> None:
        assert self.process.stdout is not None
        if select.select([self.process.stdout], [], [], timeout)[0]:
            self._rest += os.read(self.process.stdout.fileno(), 1 << 16)
            *lines, self._rest = self._rest.split(b"\n")
            self.lines += [line.decode() for line in lines]

    def wait_for(self, topic: str, word: str, *, timeout: float = 20.0) -> str:
        deadline = time.monotonic() + timeout
        while True:
            for line in self.lines:
                if f" {topic} " in line and word in line:
                    return line
            assert time.monotonic() < deadline, (topic, word, self.lines)
            self.read(0.5)

    def list_topics(self, name: str) -> list[str]:
        found = (re.search(r" (/tasks/\S+) (.*)", line) for line in self.lines)
        return [match[1] for match in found if match and f'"container_id":"{name}"' in match[2]]


@contextmanager
def watch_events(daemon: Containerd) -> Iterator[Events]:
    """Have the events of a daemon during the block, from before its first line on."""
    events = Events(daemon)
    try:
        deadline = time.monotonic() + 30
        while not events.lines:  # ctr does not say when it listens, so there is something to hear until it does
            assert time.monotonic() < deadline, "ctr events shows nothing"
            probe = daemon.name("probe")
            daemon.succeed("containers", "create", "--runtime", RUNTIME, IMAGE, probe)
            daemon.succeed("containers", "rm", probe)
            events.read(0.5)
        yield events
    finally:
        events.process.kill()
        events.process.wait(10)
        assert events.process.stdout is not None
        events.process.stdout.close()
