"""A VM of the pool in the process that it waits in, and how it becomes a sandbox's.

Until then it is a copy of a template that has been woken, has run a container's start once and stands still. When it
is taken it gets randomness and the time anew, as a copy does that never waited.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from kata.config.model import Configuration
from kata.hypervisor.spec import NetDevice
from kata.resources.cgroup import follow_cgroups, join_vcpus
from kata.resources.oom import OomWatch, set_oom_score
from kata.resources.size import VmSize
from kata.sandbox.ledger import Kind, find_ledger, list_resources, record_resource
from kata.sandbox.pool import SOCKET
from kata.sandbox.waking import describe_waking
from kata.sys.process import read_start_ticks

if TYPE_CHECKING:
    from kata.sandbox.site import Site
    from kata.sandbox.vm import SandboxVm

CARD = "waiting"
"""The file of a VM's directory that tells of it, as long as it waits."""

TAKEN_MARK = "taken"
"""The file that says that a VM is a sandbox's now."""

_OWN = {"lock", CARD, SOCKET, TAKEN_MARK, os.path.basename(find_ledger(""))}


class WaitingVm(NamedTuple):
    """A VM with what it was made of. `keeper` is a descriptor: closed, it tells the keeper that this one has gone."""

    vm: "SandboxVm"
    directory: str
    config: Configuration
    keeper: int

    def find_difference(self, config: Configuration, size: VmSize) -> str:
        """Return why a VM of this configuration and size is not one that waits, or an empty string."""
        own = self.vm.size
        if not config.factory.vm_cache_number:
            return "vm_cache_number is 0"
        if size != own:
            return f"it is to have {_describe_size(size)}, and those that wait have {_describe_size(own)}"
        for table in ("hypervisor", "agent"):
            mine, theirs = getattr(self.config, table)._asdict(), getattr(config, table)._asdict()
            for key, value in theirs.items():
                if mine.get(key) != value:
                    return f"{key} is another than that of those that wait"
        return "" if config.driver == self.config.driver else "it has another hypervisor"

    async def become(self, site: "Site", cards: Sequence[NetDevice], *, timeout: float) -> "SandboxVm":
        """Let the VM go on as that of a sandbox, with these network cards. Raise KataError."""
        vm = self.vm
        for kind, value in list_resources(self.directory):
            record_resource(site.directory, kind, value)
        record_resource(site.directory, Kind.TREE, self.directory)
        _show_files(self.directory, site.directory)
        for pid in list_descendants(vm.list_pids()):
            follow_cgroups("self", pid)
            set_oom_score(pid, 0)
        oom = OomWatch()
        if site.vcpu_cgroup:
            join_vcpus(site.vcpu_cgroup, vm.machine.pid, (await vm.machine.list_vcpu_threads()).values())
            oom = OomWatch(vm.machine.pid)
        await vm.machine.resume()
        slots = [await vm.machine.plug_net(card) for card in cards]
        await describe_waking(slots)(vm.guest, timeout=timeout)
        return vm._replace(oom=oom)

    async def stop(self) -> None:
        """End the VM."""
        await self.vm.stop()

    def leave(self) -> None:
        """Tell the keeper that it has one less. May be repeated."""
        with suppress(OSError):
            os.close(self.keeper)


def _describe_size(size: VmSize) -> str:
    growth = f", {size.most_memory_mib} at most" if size.most_memory_mib else ""
    return f"{size.vcpus} vCPUs and {size.memory_mib} MiB{growth}"


def _show_files(directory: str, to: str) -> None:
    """Let what the VM writes and listens at be found in the directory of the sandbox, by links."""
    for name in os.listdir(directory):
        if name not in _OWN:
            for each in (name, f"{name}.1") if name.endswith(".log") else (name,):
                with suppress(FileExistsError):
                    os.symlink(f"{directory}/{each}", f"{to}/{each}")


def list_descendants(pids: Sequence[int]) -> list[int]:
    """Return these processes and all below them that live: /proc/PID/task/TID/children, proc(5)."""
    found: list[int] = []
    for pid in pids:
        if read_start_ticks(pid) is None:
            continue
        found.append(pid)
        with suppress(OSError, ValueError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                    found += list_descendants([int(word) for word in file.read().split()])
    return found


class _Held:
    """What this process waits with, until it is claimed."""

    vm: WaitingVm | None = None


def hold_waiting(vm: WaitingVm) -> None:
    """Have the sandbox that this process starts find the VM."""
    _Held.vm = vm


def claim_waiting() -> WaitingVm | None:
    """Return the VM that this process waited with, once; None in a process that did not."""
    vm, _Held.vm = _Held.vm, None
    return vm
