"""A VM that grows and shrinks with its containers."""

import asyncio
from collections.abc import Mapping
from typing import Any

from kata.config.model import HypervisorConfig
from kata.errors import KataError
from kata.observe.log import Log
from kata.protocol.oci.pod import is_pod
from kata.resources.host import HostSize
from kata.resources.size import Limits, VmSize, fit_containers, merge_resources, read_limits
from kata.sandbox.container import Container
from kata.sandbox.states import Status
from kata.sandbox.vm import SandboxVm

_TIMEOUT = 30.0
"""Seconds for one step; an emulated guest under load takes some."""


class Resizing:
    """Keeps one VM as big as its containers need, between what it began with and how far it can grow."""

    def __init__(
        self,
        vm: SandboxVm,
        config: HypervisorConfig,
        host: HostSize,
        containers: Mapping[str, Container],
        log: Log,
    ) -> None:
        """`containers` are those of the sandbox, at any time."""
        self._vm = vm
        self._size = self._now = vm.size
        self._config = config
        self._host = host
        self._containers = containers
        self._log = log
        self._turn = asyncio.Lock()

    async def fit(self) -> None:
        """Plug in what the containers lack, then take out what none needs.

        Raise ConfigError where they need more than there can be, HostError, GuestError, DeadlineError.
        """
        async with self._turn:
            wanted = fit_containers(self._list_limits(), self._size, self._config, self._host)
            await self._grow(wanted)
            try:
                await self._shrink(wanted)
            except KataError as error:
                self._log.write(
                    "warning", "the guest keeps processors or memory that no container needs", error=str(error)
                )

    async def shrink(self) -> None:
        """Take out what no container needs any more, as far as that works."""
        try:
            await self.fit()
        except KataError as error:
            self._log.write("warning", "the VM has another size than its containers need", error=str(error))

    async def update(self, container: Container, resources: dict[str, Any]) -> None:
        """Change a container's limits, with room for the greater of both meanwhile. Raise what `fit` and that raise."""
        before = container.limits
        after = read_limits(merge_resources(container.resources, resources))
        container.limits = Limits(
            _find_greater(before.cpus, after.cpus), int(_find_greater(before.memory, after.memory)), before.huge
        )
        try:
            await self.fit()
            await container.update(resources)
        except BaseException:
            container.limits = before
            raise
        finally:
            await self.shrink()

    def _list_limits(self) -> list[Limits]:
        """The limits of all containers but those that have ended, and the one that only stands for the pod."""
        return [
            container.limits
            for container in self._containers.values()
            if container.status != Status.STOPPED and not is_pod(container.bundle.spec)
        ]

    async def _grow(self, wanted: VmSize) -> None:
        machine, now = self._vm.machine, self._now
        if wanted.memory_mib > now.memory_mib:
            self._now = self._now._replace(memory_mib=wanted.memory_mib)  # asked for is what has to be taken back
            await machine.resize_memory(wanted.memory_mib, timeout=_TIMEOUT)
        if wanted.vcpus > now.vcpus:
            self._now = self._now._replace(vcpus=wanted.vcpus)
            await machine.resize_vcpus(wanted.vcpus, timeout=_TIMEOUT)
        if self._now != now:
            await self._vm.guest.online(self._now.vcpus)

    async def _shrink(self, wanted: VmSize) -> None:
        if wanted.memory_mib < self._now.memory_mib:
            self._now = self._now._replace(memory_mib=wanted.memory_mib)
            await self._vm.machine.resize_memory(wanted.memory_mib, timeout=_TIMEOUT)
        if wanted.vcpus < self._now.vcpus:
            await self._vm.machine.resize_vcpus(wanted.vcpus, timeout=_TIMEOUT)
            self._now = self._now._replace(vcpus=wanted.vcpus)


def _find_greater(one: float, other: float) -> float:
    """The greater of two limits; 0 is none, and so the greatest."""
    return max(one, other) if one and other else 0
