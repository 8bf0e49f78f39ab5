"""crictl(8) on CRI-O: what its pods' VMs consist of."""

import re

from cri.crictl import Crictl
from crio.daemon import Crio


class CrioCrictl(Crictl):
    """Drives CRI-O with the runtime `kata`."""

    def __init__(self, crio: Crio) -> None:
        super().__init__(crio, "kata")
        self.crio = crio

    def find_process(self, pod: str, program: str) -> int:
        """Return the pid of the one process of a pod's sandbox whose command line has `program`, a pattern."""
        lines = [line for line in self.find_traces(pod) if re.match(rf"process \d+: .*{program}", line)]
        assert len(lines) == 1, (program, lines)
        return int(lines[0].split()[1].rstrip(":"))
