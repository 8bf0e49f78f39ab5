"""The VM of a sandbox with all that belongs to it on the host: share, virtiofsd, VMM, the line to the agent."""

import asyncio
import functools
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import NamedTuple

from kata.errors import ConfigError, GuestError, KataError, StartError, StateError, UnsupportedError
from kata.hypervisor.driver import Vm
from kata.hypervisor.spec import NetDevice, PciAddress, Plugged, SharedFs
from kata.hypervisor.vmmuser import derive_user_id
from kata.network.tap import drop_tap, keep_tap
from kata.observe.timeline import Timeline
from kata.protocol.messages import types
from kata.resources.cgroup import join_vcpus
from kata.resources.oom import HINT, OomWatch, set_oom_score
from kata.resources.size import VmSize
from kata.sandbox.description import (
    describe_booting,
    describe_saved,
    describe_template,
    identify_template,
    list_template_cards,
)
from kata.sandbox.guest import Guest
from kata.sandbox.ledger import Kind, record_process, record_resource
from kata.sandbox.line import Line, copy_agent_log
from kata.sandbox.obstacle import find_obstacle
from kata.sandbox.plan import (
    NOTHING_PASSED,
    Passed,
    Plan,
    Sockets,
    find_want_of_ports,
    limit_growth,
    make_plan,
    place_cards,
)
from kata.sandbox.pool import REMARK
from kata.sandbox.reach import LAST_WORDS_TIMEOUT, reach_agent, wait_for_end
from kata.sandbox.recipe import Recipe, start_maker
from kata.sandbox.site import Host, Site, open_line_of, probe_host
from kata.sandbox.store import SHARE_BASE
from kata.sandbox.template import drop_template, find_failure, find_template, make_key
from kata.sandbox.waiting import claim_waiting
from kata.sandbox.waking import FirstCall, describe_waking
from kata.storage.share import Share
from kata.storage.virtiofsd import Virtiofsd, find_virtiofsd, start_virtiofsd

SHARE_TAG = "kataShared"
_VMM_TIMEOUT = 30.0
_STOP_TIMEOUT = 2.0


class SandboxVm(NamedTuple):
    """A VM whose agent answers. Made by `start_vm`; `stop` releases all of it.

    `share` and `virtiofsd` are None for one that shares no files. It has so many hot-plug `ports`, full or empty, and
    perhaps a controller of SCSI disks.
    """

    guest: Guest
    share: Share | None
    machine: Vm
    virtiofsd: Virtiofsd | None
    owned: AsyncExitStack
    agent_url: str
    size: VmSize
    oom: OomWatch
    ports: int
    scsi: bool
    places: tuple[tuple[str, PciAddress], ...] = ()
    """Where the guest finds the host's devices that the VM was started with, by their ids."""

    def list_pids(self) -> tuple[int, ...]:
        """Return the host processes that are this VM."""
        return (self.machine.pid, *([self.virtiofsd.pid] if self.virtiofsd is not None else []))

    async def wait_end(self) -> str:
        """Wait until the VM has ended, or has to because its share or its agent is lost, and say why."""
        exited = asyncio.create_task(self.machine.wait_exit())
        unshared = asyncio.create_task(wait_for_end(self.virtiofsd))
        lost = asyncio.create_task(self.guest.client.lost.wait())
        try:
            await asyncio.wait({exited, unshared, lost}, return_when=asyncio.FIRST_COMPLETED)
            # virtiofsd and the agent's line end with their VM, and may be seen to end first; it says what happened.
            await asyncio.wait({exited}, timeout=LAST_WORDS_TIMEOUT)
        finally:
            for task in (exited, unshared, lost):
                task.cancel()
        if exited.done():
            reason = exited.result().reason
        elif unshared.done():
            reason = f"virtiofsd {unshared.result().describe()}"
        else:
            reason = self.guest.client.describe_loss().message
        await self.machine.stop(timeout=0)
        return self.oom.explain() or reason

    async def stop(self) -> None:
        """End the VM and release what it held, in reverse order of making."""
        await self.owned.aclose()


async def start_vm(
    site: Site,
    size: VmSize,
    cards: Sequence[NetDevice] = (),
    sockets: Sockets | None = None,
    passed: Passed = NOTHING_PASSED,
) -> SandboxVm:
    """Start a VM with these network cards, devices of the host and places for devices to come; wait for its agent.

    It is the one that this process waited with where there is one, or a copy of a template, and boots otherwise; the
    timeline says why. Raise StartError that names the phase and quotes the end of the console; nothing is left then.
    """
    read_console: list[Callable[[], str]] = []
    try:
        with ExitStack() as background:
            with site.timeline.measure("probe host"):
                host = probe_host(site)
                size = limit_growth(site, size, host.capabilities)
                plan = make_plan(site.config.hypervisor, host.capabilities, sockets or Sockets())
                plan = plan._replace(devices=passed.first)
                if passed.devices and not host.capabilities.vfio:
                    raise UnsupportedError(f"VMs of {host.hypervisor.name} get no devices of the host")
            vm = await _take_waiting(site, size, cards, plan, background)
            if vm is not None:
                return await _pass_devices(vm, passed, site.timeline)
            if passed.first:
                site.timeline.remark("boots: it has a device of the host from its start")
                saved = ""
            else:
                saved = _find_saved(site, size, host, plan, len(cards), background)
            if saved:
                try:
                    vm = await _start(site, size, host, cards, plan, saved, read_console)
                    return await _pass_devices(vm, passed, site.timeline)
                except KataError as error:
                    site.log.write("error", "a VM could not be a copy of its template, which goes", error=str(error))
                    site.timeline.remark(f"boots: its template failed: {error}")
                    drop_template(saved)
                    read_console.clear()
            vm = await _start(site, size, host, cards, plan, "", read_console)
            return await _pass_devices(vm, passed, site.timeline)
    except StartError:
        raise
    except KataError as error:
        console = read_console[0]() if read_console else ""
        raise StartError(site.timeline.current, error.message, console=console, hint=error.hint) from error


async def _take_waiting(
    site: Site, size: VmSize, cards: Sequence[NetDevice], plan: Plan, background: ExitStack
) -> SandboxVm | None:
    """Return the VM that this process waited with, if it is one for this sandbox. Raise StartError.

    The timeline says why not, where there is to be a pool. The next VM is made when `background` is closed.
    """
    waiting = claim_waiting()
    reason = os.environ.pop(REMARK, "")
    if waiting is not None:
        background.callback(waiting.leave)
        reason = waiting.find_difference(site.config, size)
        reason = reason or find_want_of_ports(site.config.hypervisor, plan, len(cards))
        if plan.devices:
            reason = "it has a device of the host from its start"
        if not reason:
            try:
                with site.timeline.measure("take from the pool"):
                    vm = await waiting.become(site, cards, timeout=float(site.config.agent.dial_timeout))
            except KataError as error:
                reason = f"that VM failed: {error}"
                site.log.write("error", "a VM of the pool could not be used", error=str(error))
            else:
                site.timeline.remark("taken from the pool")
                return vm
        await waiting.stop()
    if site.config.factory.vm_cache_number:
        site.timeline.remark(f"not from the pool: {reason or 'kata-runtime factory init has not filled it'}")
    return None


async def copy_template(site: Site, size: VmSize) -> SandboxVm:
    """Start a copy of a template that belongs to no sandbox yet. Raise KataError; nothing is left then."""
    host = probe_host(site)
    plan = make_plan(site.config.hypervisor, host.capabilities, Sockets())
    with ExitStack() as background:
        saved, obstacle = "", find_obstacle(site.config, size, host)
        if host.capabilities.opens_taps or not host.capabilities.net_hotplug:
            obstacle = f"a VM of {host.hypervisor.name} gets no network cards later"
        if not obstacle:
            saved, obstacle = _look_for_template(Recipe(site.state, site.config, size), site, host, background)
    if not saved:
        raise StateError(f"no VM can wait: {obstacle}")
    return await _start(site, size, host, (), plan, saved, [])


def _find_saved(site: Site, size: VmSize, host: Host, plan: Plan, cards: int, background: ExitStack) -> str:
    """Return the directory of the template for a VM with so many network cards, "" where it has to boot.

    A template that is missing is made when `background` is closed.
    """
    obstacle = find_obstacle(site.config, size, host)
    if not obstacle and host.capabilities.ports:
        obstacle = find_want_of_ports(site.config.hypervisor, plan, cards)
    saved = ""
    if not obstacle:
        try:
            own = 0 if host.capabilities.net_hotplug else cards
            saved, obstacle = _look_for_template(Recipe(site.state, site.config, size, own), site, host, background)
        except (KataError, OSError) as error:
            site.log.write("warning", "there are no templates", error=str(error))
            obstacle = str(error)
    if obstacle:
        site.timeline.remark(f"boots: {obstacle}")
    return saved


def _look_for_template(recipe: Recipe, site: Site, host: Host, background: ExitStack) -> tuple[str, str]:
    place = site.config.factory.template_path
    key = make_key(*identify_template(site, recipe.size, host, list_template_cards(recipe.cards)))
    saved = find_template(place, key)
    if saved is not None:
        return saved, ""
    failure = find_failure(place, key)
    if failure:
        return "", f"its template could not be made: {failure}"
    background.callback(os.close, start_maker(recipe))
    return "", "there is no template for it yet"


async def restore_vm(
    site: Site, size: VmSize, host: Host, plan: Plan, directory: str, plugged: Sequence[Plugged]
) -> SandboxVm:
    """Start a VM that goes on from one which was saved in a directory, with what was `plugged` into that.

    Its containers are held. Raise StartError that names the phase and quotes the end of the console.
    """
    read_console: list[Callable[[], str]] = []
    try:
        return await _start(site, size, host, (), plan, directory, read_console, plugged)
    except KataError as error:
        console = read_console[0]() if read_console else ""
        raise StartError(site.timeline.current, error.message, console=console, hint=error.hint) from error


async def _start(
    site: Site,
    size: VmSize,
    host: Host,
    cards: Sequence[NetDevice],
    plan: Plan,
    saved: str,
    read_console: list[Callable[[], str]],
    plugged: Sequence[Plugged] | None = None,
) -> SandboxVm:
    """Start a VM. With `plugged` it goes on from a sandbox's that was `saved`, otherwise from a template's."""
    timeline = site.timeline
    oom = OomWatch()  # of this process: what it starts is in the same cgroup
    async with AsyncExitStack() as owned:
        share, virtiofsd = None, None
        shared: list[SharedFs] = []
        if plan.shares:
            with timeline.measure("share"):
                share, virtiofsd = _open_share(site, host, owned)
                queue = site.config.hypervisor.virtio_fs_queue_size
                shared.append(SharedFs(SHARE_TAG, _find_descriptor(virtiofsd), queue, virtiofsd.path))
        if host.capabilities.opens_taps:
            cards = [_keep_tap(card, site.id, owned) for card in cards]
        line = open_line_of(site, host)
        owned.callback(line.close)
        with timeline.measure("vmm"):
            if plugged is not None:
                spec = describe_saved(site, size, host, line, plan)._replace(saved=saved, plugged=tuple(plugged))
            elif saved:
                cold = () if host.capabilities.net_hotplug else cards
                spec = describe_template(site, size, host, line, cold)._replace(savable=False, saved=saved)
            else:
                spec = describe_booting(site, size, host, line, plan, [*shared, *place_cards(cards, plan)])
            note = functools.partial(record_process, site.directory)
            machine = await host.hypervisor.start(spec, timeout=_VMM_TIMEOUT, started=note)
            owned.push_async_callback(machine.stop, timeout=_STOP_TIMEOUT)
            set_oom_score(machine.pid, 0)
            if site.vcpu_cgroup:  # before the guest's first page: memory stays accounted where it was touched
                join_vcpus(site.vcpu_cgroup, machine.pid, (await machine.list_vcpu_threads()).values())
                oom = OomWatch(machine.pid)
        first: FirstCall = Guest.check
        if saved:
            with timeline.measure("plug in"):
                first = describe_waking(await _plug_in(machine, host, shared, cards))
        if virtiofsd is not None:
            virtiofsd.hand_over()
        line.hand_over()
        read_console.append(machine.read_console)
        with timeline.measure("guest restore" if saved else "guest boot"):
            try:
                guest = await reach_agent(site, machine, virtiofsd, line, first)
            except KataError as error:
                if killed := oom.explain():
                    raise GuestError(killed, hint=HINT) from error
                raise
            owned.callback(guest.client.close)
            if saved and not host.capabilities.net_hotplug:
                await _take_over_cards(guest, cards)
        await _listen_to_guest(site, line, owned)
        ports = spec.hotplug_ports + sum(isinstance(one, NetDevice) and one.in_port for one in spec.devices)
        return SandboxVm(
            guest, share, machine, virtiofsd, owned.pop_all(), line.agent_url, size, oom, ports, scsi=spec.scsi
        )


async def _listen_to_guest(site: Site, line: Line, owned: AsyncExitStack) -> None:
    """Keep what the agent logs, and let users into its debug console."""
    logger = asyncio.create_task(copy_agent_log(line, f"{site.directory}/agent.log"))
    owned.callback(logger.cancel)
    if site.config.agent.debug_console_enabled and line.is_vsock:
        from kata.sandbox.consoleline import serve_console  # noqa: PLC0415 - few want it

        owned.callback((await serve_console(line)).close)


async def _pass_devices(vm: SandboxVm, passed: Passed, timeline: Timeline) -> SandboxVm:
    """Plug in those of the host's devices that are not there yet, and learn where the guest has each."""
    try:
        places = [(device.id, vm.machine.locate(device.id)) for device in passed.first]
        if passed.later:
            with timeline.measure("plug in host devices"):
                places += [(device.id, await vm.machine.plug_vfio(device)) for device in passed.later]
    except BaseException:
        await vm.stop()
        raise
    return vm._replace(places=tuple(places))


def _open_share(site: Site, host: Host, owned: AsyncExitStack) -> tuple[Share, Virtiofsd]:
    record_resource(site.directory, Kind.TREE, f"{SHARE_BASE}/{site.id}")
    share = Share(SHARE_BASE, site.id)
    share.open()
    owned.callback(share.release)
    virtiofsd = _start_virtiofsd(site, share, connect=not host.capabilities.connects_shares)
    owned.push_async_callback(virtiofsd.stop)
    return share, virtiofsd


def _start_virtiofsd(site: Site, share: Share, *, connect: bool) -> Virtiofsd:
    config = site.config.hypervisor
    binary = find_virtiofsd(config.virtio_fs_daemon, state_directory=site.state)
    cache = config.virtio_fs_cache
    virtiofsd = start_virtiofsd(binary, share.export, site.directory, cache=cache, connect=connect)
    record_process(site.directory, virtiofsd.pid)
    set_oom_score(virtiofsd.pid, 0)
    return virtiofsd


def _keep_tap(card: NetDevice, sandbox: str, owned: AsyncExitStack) -> NetDevice:
    """Leave a card's tap to a VMM that opens it by name. It goes with the VM. Raise ConfigError for several queues."""
    if len(card.taps) > 1:
        raise ConfigError("network_queues is more than 1", hint="this hypervisor's cards have one pair of queues")
    name = keep_tap(card.taps[0], derive_user_id(sandbox))
    owned.callback(drop_tap, name)
    return card._replace(tap=name)


def _find_descriptor(virtiofsd: Virtiofsd) -> int:
    return -1 if virtiofsd.connection is None else virtiofsd.connection.fileno()


async def _plug_in(machine: Vm, host: Host, shared: Sequence[SharedFs], cards: Sequence[NetDevice]) -> list[PciAddress]:
    """Give a copy of a template what is its own, as far as it has not got it from its start."""
    slots = [await machine.plug_share(one) for one in shared]
    if host.capabilities.net_hotplug:
        slots += [await machine.plug_net(card) for card in cards]
    return slots


async def _take_over_cards(guest: Guest, cards: Sequence[NetDevice]) -> None:
    """Give the cards that a copy has from its template the addresses of its own, by which they are known from then on.

    The guest's kernel named them in the order in which they were there.
    """
    for number, card in enumerate(cards):
        await guest.update_interface(types.Interface(name=f"eth{number}", hwAddr=card.mac))
