"""The host cgroups of a pod: which of its processes are accounted where."""

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from kata.hypervisor.driver import Vm
from kata.resources.cgroup import OVERHEAD, create_cgroup, drop_cgroup, join_cgroup, join_vcpus, leave_cgroup
from kata.resources.pinning import parse_cpus, pin_threads
from kata.sandbox.container import Container
from kata.sandbox.ledger import Kind, forget_gone_cgroups, record_resource

_REMOVE_TIMEOUT = 0.5
_REMOVE_PAUSE = 0.01


def find_cgroup(spec: dict[str, Any]) -> str:
    """Return the cgroups path of an OCI spec, empty where it has none."""
    return str((spec.get("linux") or {}).get("cgroupsPath") or "")


class PodCgroups:
    """Makes the cgroups of one sandbox, with a record of each in its ledger, and moves processes into them."""

    def __init__(self, sandbox_id: str, directory: str) -> None:
        """`directory` is the sandbox's, with its ledger."""
        self._id = sandbox_id
        self._directory = directory
        self._pod = self._daemon = ""
        self.vcpus = ""
        """Where the vCPUs are apart from the VMM's other threads, empty where they are not."""

    def enter(self, spec: dict[str, Any], *, whole: bool) -> None:
        """Put this daemon where the engine looks for the usage of the sandbox's first container. Raise HostError.

        It enters before it starts anything, so that the VM is accounted from its first page on. Unless the `whole`
        sandbox belongs there, that is the vCPUs' place, and the daemon has one outside of the pod.
        """
        self._pod = self._daemon = find_cgroup(spec)
        if self._pod and not whole:
            self._create(self._pod)
            self._daemon = f"{OVERHEAD}/{self._id}"
            self.vcpus = self._pod
        self._put(self._daemon, os.getpid())

    def add_container(self, container: Container) -> None:
        """Put a container's stand-in where the engine looks for the container's usage. Raise HostError."""
        if container.record.pid != os.getpid():
            self._put(find_cgroup(container.bundle.spec), container.record.pid)

    def _put(self, path: str, pid: int) -> None:
        if path:
            self._create(path)
            join_cgroup(path, pid)

    def _create(self, path: str) -> None:
        create_cgroup(path, lambda directory: record_resource(self._directory, Kind.CGROUP, directory))

    def leave_by_container(self, container: Container) -> None:
        """Take a container's stand-in out: it may be the very command that waits for the removal."""
        path = find_cgroup(container.bundle.spec)
        if path and container.record.pid != os.getpid():
            leave_cgroup(path, container.record.pid)

    async def remove_container(self, container: Container) -> None:
        """Remove a container's cgroup. What somebody else keeps busy is left to the sandbox's end."""
        path = find_cgroup(container.bundle.spec)
        if not path or path == self._pod:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_REMOVE_TIMEOUT):
                while not drop_cgroup(path):  # noqa: ASYNC110 - the kernel tells nobody when the last one is gone
                    await asyncio.sleep(_REMOVE_PAUSE)

    def forget_gone(self) -> None:
        """Strike from the ledger what is no longer there."""
        forget_gone_cgroups(self._directory)

    def leave(self) -> None:
        """Take this daemon out, so that the cgroups can go."""
        if self._daemon:
            leave_cgroup(self._daemon, os.getpid())

    async def place_vcpus(self, machine: Vm, containers: Iterable[Container], *, pin: bool, grown: bool) -> None:
        """Keep each vCPU in the pod's cgroup, where a VM may have `grown` by some, and with `pin` on a processor.

        The processors are those of the cpusets of the `containers`. Raise HostError, UsageError for a cpuset that is
        no list.
        """
        if not pin and not (self.vcpus and grown):
            return
        threads = await machine.list_vcpu_threads()
        if self.vcpus:
            join_vcpus(self.vcpus, machine.pid, threads.values())
        if pin:
            pin_threads(threads, {cpu for container in containers for cpu in parse_cpus(container.cpus)})
