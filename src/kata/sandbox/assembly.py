"""The assembly of a VM: each of its parts is recorded, made and started in its turn, until the agent answers."""

import asyncio
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager

from kata.errors import ConfigError, GuestError, KataError, StartError
from kata.hypervisor.driver import Vm
from kata.hypervisor.spec import NetDevice, PciAddress, SharedFs, VmSpec
from kata.hypervisor.vmmuser import derive_user_id
from kata.network.tap import drop_tap, keep_tap
from kata.observe.timeline import Timeline
from kata.protocol.messages import types
from kata.resources.cgroup import join_vcpus
from kata.resources.oom import HINT, OomWatch, set_oom_score
from kata.resources.size import VmSize
from kata.sandbox.guest import Guest
from kata.sandbox.ledger import Kind, record_process, record_resource
from kata.sandbox.line import Line, copy_agent_log
from kata.sandbox.reach import reach_agent
from kata.sandbox.site import Host, Site, open_line_of
from kata.sandbox.store import SHARE_BASE
from kata.sandbox.vm import SHARE_TAG, SandboxVm
from kata.sandbox.waking import FirstCall, describe_waking
from kata.storage.share import Share
from kata.storage.virtiofsd import Virtiofsd, find_virtiofsd, start_virtiofsd

_VMM_TIMEOUT = 30.0
_STOP_TIMEOUT = 2.0

Describe = Callable[[Line, Sequence[SharedFs], Sequence[NetDevice]], VmSpec]
"""Describes a VM with this line to its agent, these shared file systems and these network cards."""


@contextmanager
def name_phase(timeline: Timeline, read_console: Callable[[], str] | None = None) -> Iterator[None]:
    """Have an error say in which phase of a start it came, with the end of the console. Raise StartError."""
    try:
        yield
    except StartError:
        raise
    except KataError as error:
        console = read_console() if read_console is not None else ""
        raise StartError(timeline.current, error.message, console=console, hint=error.hint) from error


async def assemble_vm(
    site: Site, size: VmSize, host: Host, cards: Sequence[NetDevice], describe: Describe, *, shares: bool
) -> SandboxVm:
    """Start a VM, with a share where it `shares` files, and wait for its agent. Raise KataError; nothing is left then.

    One that goes on from a saved VM finds what that had not in its ports, and is woken.
    """
    timeline = site.timeline
    oom = OomWatch()  # of this process: what it starts is in the same cgroup
    async with AsyncExitStack() as owned:
        share, virtiofsd = None, None
        shared: list[SharedFs] = []
        if shares:
            with timeline.measure("share"):
                share, virtiofsd = _open_share(site, host, owned)
                shared.append(_describe_share(site, virtiofsd))
        if host.capabilities.opens_taps:
            cards = [_keep_tap(card, site.id, owned) for card in cards]
        line = open_line_of(site, host)
        owned.callback(line.close)
        with timeline.measure("vmm"):
            spec = describe(line, shared, cards)
            machine = await _start_machine(site, host, spec, owned)
            if site.vcpu_cgroup:  # before the guest's first page: memory stays accounted where it was touched
                join_vcpus(site.vcpu_cgroup, machine.pid, (await machine.list_vcpu_threads()).values())
                oom = OomWatch(machine.pid)
        with name_phase(timeline, machine.read_console):
            first: FirstCall = Guest.check
            if spec.saved:
                with timeline.measure("plug in"):
                    first = describe_waking(await _plug_in(machine, host, shared, cards))
            if virtiofsd is not None:
                virtiofsd.hand_over()
            line.hand_over()
            with timeline.measure("guest restore" if spec.saved else "guest boot"):
                guest = await _reach_guest(site, machine, virtiofsd, line, first, oom)
                owned.callback(guest.client.close)
                if spec.saved and not host.capabilities.net_hotplug:
                    await _take_over_cards(guest, cards)
            await _listen_to_guest(site, line, owned)
        ports = spec.hotplug_ports + sum(isinstance(one, NetDevice) and one.in_port for one in spec.devices)
        return SandboxVm(
            guest, share, machine, virtiofsd, owned.pop_all(), line.agent_url, size, oom, ports, scsi=spec.scsi
        )


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


def _describe_share(site: Site, virtiofsd: Virtiofsd) -> SharedFs:
    descriptor = -1 if virtiofsd.connection is None else virtiofsd.connection.fileno()
    return SharedFs(SHARE_TAG, descriptor, site.config.hypervisor.virtio_fs_queue_size, virtiofsd.path)


async def _start_machine(site: Site, host: Host, spec: VmSpec, owned: AsyncExitStack) -> Vm:
    note = functools.partial(record_process, site.directory)
    machine = await host.hypervisor.start(spec, timeout=_VMM_TIMEOUT, started=note)
    owned.push_async_callback(machine.stop, timeout=_STOP_TIMEOUT)
    set_oom_score(machine.pid, 0)
    return machine


async def _plug_in(machine: Vm, host: Host, shared: Sequence[SharedFs], cards: Sequence[NetDevice]) -> list[PciAddress]:
    """Give a copy of a template what is its own, as far as it has not got it from its start."""
    slots = [await machine.plug_share(one) for one in shared]
    if host.capabilities.net_hotplug:
        slots += [await machine.plug_net(card) for card in cards]
    return slots


async def _reach_guest(
    site: Site, machine: Vm, virtiofsd: Virtiofsd | None, line: Line, first: FirstCall, oom: OomWatch
) -> Guest:
    """Wait for the agent's first answer. Where the host killed the VM for want of memory, that is the reason."""
    try:
        return await reach_agent(site, machine, virtiofsd, line, first)
    except KataError as error:
        if killed := oom.explain():
            raise GuestError(killed, hint=HINT) from error
        raise


async def _take_over_cards(guest: Guest, cards: Sequence[NetDevice]) -> None:
    """Give the cards that a copy has from its template the addresses of its own, by which they are known from then on.

    The guest's kernel named them in the order in which they were there.
    """
    for number, card in enumerate(cards):
        await guest.update_interface(types.Interface(name=f"eth{number}", hwAddr=card.mac))


async def _listen_to_guest(site: Site, line: Line, owned: AsyncExitStack) -> None:
    """Keep what the agent logs, and let users into its debug console."""
    logger = asyncio.create_task(copy_agent_log(line, f"{site.directory}/agent.log"))
    owned.callback(logger.cancel)
    if site.config.agent.debug_console_enabled and line.is_vsock:
        from kata.sandbox.consoleline import serve_console  # noqa: PLC0415 - few want it

        owned.callback((await serve_console(line)).close)
