"""crictl(8) on CRI-O: what its pods' VMs consist of, and how its containers ended."""

import re
import time
from typing import Any

from cri.crictl import Crictl
from crio.daemon import Crio

_TIMEOUT = 60.0


class CrioCrictl(Crictl):
    """Drives CRI-O with the runtime `kata`."""

    def __init__(self, crio: Crio) -> None:
        super().__init__(crio, "kata")
        self.crio = crio

    def wait_for_end(self, container: str) -> dict[str, Any]:
        """Wait until a container has ended and return its status. Fail after a minute."""
        deadline = time.monotonic() + _TIMEOUT
        while (status := self.read("inspect", container)["status"])["state"] != "CONTAINER_EXITED":
            assert time.monotonic() < deadline, f"{container} has not ended: {status}"
        assert isinstance(status, dict)
        return status

    def find_process(self, pod: str, program: str) -> int:
        """Return the pid of the one process of a pod's sandbox whose command line has `program`, a pattern."""
        lines = [line for line in self.find_traces(pod) if re.match(rf"process \d+: .*{program}", line)]
        assert len(lines) == 1, (program, lines)
        return int(lines[0].split()[1].rstrip(":"))
