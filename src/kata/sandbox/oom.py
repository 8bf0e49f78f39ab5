"""Want of memory: who of a sandbox is to be killed for it, and who is told that it happened."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from kata.errors import KataError
from kata.protocol.oci.pod import is_pod
from kata.resources.oom import set_oom_score
from kata.sandbox.container import Container
from kata.sandbox.guest import Guest


class OomNews:
    """Tells of containers that ran out of memory: the engine by `tell`, conmon and CRI-O by a file in the bundle."""

    def __init__(self, tell: Callable[[Container], None] | None) -> None:
        self._tell = tell

    async def follow(self, guest: Guest, containers: Mapping[str, Container]) -> None:
        """Pass on each of the `containers` that the guest names, until the guest is gone."""
        with suppress(KataError, OSError):
            while True:
                container = containers.get(await guest.wait_oom())
                if container is not None:
                    self.tell(container)

    def tell(self, container: Container) -> None:
        with suppress(OSError):  # its bundle may be gone already
            os.close(os.open(f"{container.bundle.path}/oom", os.O_CREAT | os.O_CLOEXEC, 0o644))
        if self._tell is not None:
            self._tell(container)


def set_oom_scores(pids: Iterable[int], containers: Iterable[Container]) -> None:
    """Let the host's kernel kill a VM's processes as readily as the most expendable of its containers on the host.

    What stands for a pod only is nearly unkillable in Kubernetes (-998); the VM with all its memory must not be.
    """
    scores = [
        int((one.bundle.spec.get("process") or {}).get("oomScoreAdj") or 0)
        for one in containers
        if not is_pod(one.bundle.spec)
    ]
    for pid in pids if scores else ():
        set_oom_score(pid, max(scores))
