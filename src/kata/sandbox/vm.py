"""The VM of a sandbox with all that belongs to it on the host: share, virtiofsd, VMM, the line to the agent."""

import asyncio
import functools
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import NamedTuple

from kata.config.artifacts import Artifacts, find_artifacts
from kata.config.model import NO_PORT, NO_SHARED_FS, AgentConfig, Configuration, HypervisorConfig
from kata.errors import ConfigError, DeadlineError, GuestError, KataError, StartError, StateError, UnsupportedError
from kata.hypervisor.channel import AGENT_PORT, DEBUG_CONSOLE_PORT, LOG_PORT, choose_guest_channel
from kata.hypervisor.driver import Capabilities, Channel, Hypervisor, Vm, open_hypervisor
from kata.hypervisor.identity import derive_user_id
from kata.hypervisor.spec import Balloon, Device, NetDevice, PciAddress, Plugged, Rng, SharedFs, VfioDevice, VmSpec
from kata.network.tap import drop_tap, keep_tap, name_tap
from kata.observe.log import Log
from kata.observe.timeline import Timeline
from kata.protocol.messages import types
from kata.resources.cgroup import join_vcpus
from kata.resources.oom import HINT, OomWatch, set_oom_score
from kata.resources.size import VmSize
from kata.sandbox.guest import Guest
from kata.sandbox.ledger import Kind, record_process, record_resource
from kata.sandbox.line import Line, copy_agent_log, open_line
from kata.sandbox.pool import REMARK
from kata.sandbox.recipe import Recipe, start_maker
from kata.sandbox.store import SHARE_BASE
from kata.sandbox.template import drop_template, find_failure, find_template, make_key
from kata.sandbox.waiting import claim_waiting
from kata.sandbox.waking import FirstCall, describe_waking
from kata.storage.share import Share
from kata.storage.virtiofsd import Virtiofsd, find_virtiofsd, start_virtiofsd
from kata.sys.process import read_cpu_wait
from kata.transport.child import Ending

SHARE_TAG = "kataShared"
_MOST_PORTS = 15
_VMM_TIMEOUT = 30.0
_STOP_TIMEOUT = 2.0
_LEAST_WAIT = 0.5
_TEMPLATE_PORTS = 3
_LAST_WORDS_TIMEOUT = 1.0
"""Seconds that a VMM whose connections broke is given to be dead: why it ended says more than a closed socket."""


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
        unshared = asyncio.create_task(_wait_for_end(self.virtiofsd))
        lost = asyncio.create_task(self.guest.client.lost.wait())
        try:
            await asyncio.wait({exited, unshared, lost}, return_when=asyncio.FIRST_COMPLETED)
            # virtiofsd and the agent's line end with their VM, and may be seen to end first; it says what happened.
            await asyncio.wait({exited}, timeout=_LAST_WORDS_TIMEOUT)
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


async def _wait_for_end(virtiofsd: Virtiofsd | None) -> Ending:
    """Wait for the end of virtiofsd; for ever where there is none."""
    while virtiofsd is None:
        await asyncio.Event().wait()
    return await virtiofsd.wait()


class Sockets(NamedTuple):
    """What is plugged in later: `disks` that are known of, `roots` that are disks where no files are shared.

    With `more` any number of disks may come. `ports` are for other devices, and for those disks where each needs one.
    """

    ports: int = 0
    disks: int = 0
    roots: int = 0
    more: bool = False


class Passed(NamedTuple):
    """Devices of the host for a VM: there from its start where `cold`, else plugged in when its agent is up."""

    devices: tuple[VfioDevice, ...] = ()
    cold: bool = False

    @property
    def first(self) -> tuple[VfioDevice, ...]:
        """Those that are there from the start."""
        return tuple(device._replace(in_port=True) for device in self.devices) if self.cold else ()

    @property
    def later(self) -> tuple[VfioDevice, ...]:
        """Those that are plugged in."""
        return () if self.cold else self.devices


_NOTHING_PASSED = Passed()


class Plan(NamedTuple):
    """What becomes of the sockets in a VM: so many ports, and with `scsi` a controller for all disks.

    `devices` of the host are there from its start.
    """

    shares: bool
    ports: int
    scsi: bool
    devices: tuple[VfioDevice, ...] = ()


class Host(NamedTuple):
    """What the host has to start a VM with."""

    hypervisor: Hypervisor
    capabilities: Capabilities
    artifacts: Artifacts
    channel: Channel


class Site(NamedTuple):
    """The sandbox that a VM is started for: `directory` is its own, `state` is shared by all on this host."""

    id: str
    directory: str
    state: str
    config: Configuration
    timeline: Timeline
    log: Log
    vcpu_cgroup: str = ""
    """The pod's cgroup on the host, where this daemon is in another one."""


def make_plan(config: HypervisorConfig, capabilities: Capabilities, sockets: Sockets) -> Plan:
    """Say how a VM gets the host's files, and where its disks and other devices are plugged in."""
    shares = config.shared_fs != NO_SHARED_FS and capabilities.fs_share
    disks = sockets.disks + (0 if shares else sockets.roots)
    if takes_scsi(config, capabilities):
        return Plan(shares, min(sockets.ports, _MOST_PORTS), scsi=sockets.more or disks > 0)
    return Plan(shares, min(sockets.ports + disks, _MOST_PORTS), scsi=False)


def takes_scsi(config: HypervisorConfig, capabilities: Capabilities) -> bool:
    """Say whether disks are at a SCSI controller."""
    return config.block_device_driver == "virtio-scsi" and capabilities.scsi


async def start_vm(
    site: Site,
    size: VmSize,
    cards: Sequence[NetDevice] = (),
    sockets: Sockets | None = None,
    passed: Passed = _NOTHING_PASSED,
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
                size = _limit_growth(site, size, host.capabilities)
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
        reason = reason or _find_want_of_ports(site.config.hypervisor, plan, len(cards))
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


def _find_want_of_ports(config: HypervisorConfig, plan: Plan, cards: int) -> str:
    """Return why a copy of a template has too few ports for what is to be in them, or an empty string."""
    ports, devices = count_template_ports(config), plan.shares + cards + plan.ports
    return f"it needs {devices} hot-plug ports, and a template has {ports}" if devices > ports else ""


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
        obstacle = _find_want_of_ports(site.config.hypervisor, plan, cards)
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
    line = open_line_of(site, host)
    try:
        cards = list_template_cards(recipe.cards)
        key = make_key(*host.hypervisor.identify(describe_template(site, recipe.size, host, line, cards)))
    finally:
        line.close()
    saved = find_template(place, key)
    if saved is not None:
        return saved, ""
    failure = find_failure(place, key)
    if failure:
        return "", f"its template could not be made: {failure}"
    background.callback(os.close, start_maker(recipe))
    return "", "there is no template for it yet"


def open_line_of(site: Site, host: Host) -> Line:
    """Prepare the way to a guest. Raise HostError when the host's end cannot be opened."""
    return open_line(host.channel, site.directory, host.hypervisor.find_hybrid_socket(site.directory, site.id))


def find_obstacle(config: Configuration, size: VmSize, host: Host) -> str:
    """Return why VMs of this configuration and size cannot be copies of a template, or an empty string."""
    obstacles = (
        (not config.factory.enable_template, "enable_template is off"),
        (not host.capabilities.template, f"{host.hypervisor.name} has no templates"),
    )
    return _find_true(obstacles) or _find_saving_obstacle(config, size, host)


def find_checkpoint_obstacle(config: Configuration, size: VmSize, host: Host) -> str:
    """Return why VMs of this configuration and size cannot be saved while they run, or an empty string."""
    if not host.capabilities.checkpoint:
        return f"VMs of {host.hypervisor.name} are not saved while containers run"
    return _find_saving_obstacle(config, size, host)


def _find_saving_obstacle(config: Configuration, size: VmSize, host: Host) -> str:
    return _find_true(
        (
            (config.hypervisor.enable_hugepages, "its memory is of huge pages"),
            (config.hypervisor.confidential_guest, "nobody can save a confidential guest"),
            (bool(size.most_memory_mib or size.most_vcpus), "it is to grow and shrink with its containers"),
            (has_iommu(config), "it has an IOMMU for devices of the host"),
            (host.channel == "vsock", "the guest channel is vsock"),
        )
    )


def _find_true(obstacles: Sequence[tuple[bool, str]]) -> str:
    return next((reason for is_so, reason in obstacles if is_so), "")


def count_template_ports(config: HypervisorConfig) -> int:
    """Return the hot-plug ports of a template: for the share, two network cards, and what the configuration adds."""
    return _TEMPLATE_PORTS + config.pcie_root_port


def list_template_cards(count: int) -> list[NetDevice]:
    """Return the network cards of a template that has to have those of its copies: stand-ins, on taps of its own."""
    return [NetDevice(f"net{n}", f"02:00:00:00:00:{n:02x}", (), tap=name_tap(n)) for n in range(count)]


def describe_template(site: Site, size: VmSize, host: Host, line: Line, cards: Sequence[NetDevice]) -> VmSpec:
    """Describe the VM that is saved as a template: all of it that VMs of this configuration and size have in common."""
    ports = count_template_ports(site.config.hypervisor)
    scsi = takes_scsi(site.config.hypervisor, host.capabilities)
    return _describe_vm(site, size, host, line, cards)._replace(hotplug_ports=ports, savable=True, scsi=scsi)


def describe_saved(site: Site, size: VmSize, host: Host, line: Line, plan: Plan) -> VmSpec:
    """Describe the VM of a sandbox that was saved: as it began, and nothing in its ports."""
    return _describe_vm(site, size, host, line, ())._replace(hotplug_ports=plan.ports, scsi=plan.scsi)


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
                spec = _describe_booting(site, size, host, line, plan, [*shared, *_place_cards(cards, plan)])
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
                guest = await _reach_agent(site, machine, virtiofsd, line, first)
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


def _describe_booting(site: Site, size: VmSize, host: Host, line: Line, plan: Plan, own: Sequence[Device]) -> VmSpec:
    """Describe the VM of a sandbox that boots. It can be saved where that is of use: not with a share."""
    savable = not plan.shares and not find_checkpoint_obstacle(site.config, size, host)
    spec = _describe_vm(site, size, host, line, (*own, *plan.devices))
    return spec._replace(hotplug_ports=plan.ports, scsi=plan.scsi, savable=savable)


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


def _place_cards(cards: Sequence[NetDevice], plan: Plan) -> list[NetDevice]:
    """Have the network cards in ports, from which they can be taken out, where there is room for all."""
    in_port = plan.ports + len(plan.devices) + len(cards) <= _MOST_PORTS
    return [card._replace(in_port=in_port) for card in cards]


def _open_share(site: Site, host: Host, owned: AsyncExitStack) -> tuple[Share, Virtiofsd]:
    record_resource(site.directory, Kind.TREE, f"{SHARE_BASE}/{site.id}")
    share = Share(SHARE_BASE, site.id)
    share.open()
    owned.callback(share.release)
    virtiofsd = _start_virtiofsd(site, share, connect=not host.capabilities.connects_shares)
    owned.push_async_callback(virtiofsd.stop)
    return share, virtiofsd


def probe_host(site: Site) -> Host:
    """Find what VMs are started with. Raise KataError for what is missing."""
    config = site.config.hypervisor
    hypervisor = open_hypervisor(site.config.driver, config, site.state)
    if hypervisor.warning:
        site.log.write("warning", hypervisor.warning)
    capabilities = hypervisor.find_capabilities()
    channel = choose_guest_channel(capabilities, config.guest_channel)
    return Host(hypervisor, capabilities, find_artifacts(config), channel)


def _limit_growth(site: Site, size: VmSize, capabilities: Capabilities) -> VmSize:
    if not size.most_vcpus or (capabilities.vcpu_hotplug and capabilities.memory_hotplug):
        return size
    site.log.write("warning", "the VM keeps its size: nothing can be plugged into it while it runs")
    return VmSize(size.vcpus, size.memory_mib)


def _start_virtiofsd(site: Site, share: Share, *, connect: bool) -> Virtiofsd:
    config = site.config.hypervisor
    binary = find_virtiofsd(config.virtio_fs_daemon, state_directory=site.state)
    cache = config.virtio_fs_cache
    virtiofsd = start_virtiofsd(binary, share.export, site.directory, cache=cache, connect=connect)
    record_process(site.directory, virtiofsd.pid)
    set_oom_score(virtiofsd.pid, 0)
    return virtiofsd


def _describe_vm(site: Site, size: VmSize, host: Host, line: Line, own: Sequence[Device]) -> VmSpec:
    """Describe a VM, with what its sandbox has for its `own`."""
    config = site.config.hypervisor
    devices: list[Device] = [Rng(), *line.devices, *own]
    if config.reclaim_guest_freed_memory:
        devices.append(Balloon())
    return VmSpec(
        id=site.id,
        directory=site.directory,
        kernel=host.artifacts.kernel,
        image=host.artifacts.image or None,
        initrd=host.artifacts.initrd or None,
        vcpus=size.vcpus,
        memory_mib=size.memory_mib,
        max_vcpus=size.most_vcpus,
        max_memory_mib=size.most_memory_mib,
        hugepages=config.enable_hugepages,
        firmware=config.firmware if config.confidential_guest else "",
        iommu=has_iommu(site.config),
        kernel_parameters=tuple(list_kernel_parameters(site.config, host.artifacts, line.server)),
        devices=tuple(devices),
    )


def has_iommu(config: Configuration) -> bool:
    """Say whether a guest's processes are to have devices of the host by VFIO."""
    return config.runtime.vfio_mode == "vfio" and config.hypervisor.hot_plug_vfio != NO_PORT


def _keep_tap(card: NetDevice, sandbox: str, owned: AsyncExitStack) -> NetDevice:
    """Leave a card's tap to a VMM that opens it by name. It goes with the VM. Raise ConfigError for several queues."""
    if len(card.taps) > 1:
        raise ConfigError("network_queues is more than 1", hint="this hypervisor's cards have one pair of queues")
    name = keep_tap(card.taps[0], derive_user_id(sandbox))
    owned.callback(drop_tap, name)
    return card._replace(tap=name)


def _find_descriptor(virtiofsd: Virtiofsd) -> int:
    return -1 if virtiofsd.connection is None else virtiofsd.connection.fileno()


def list_kernel_parameters(config: Configuration, artifacts: Artifacts, server: str) -> list[str]:
    """Return the guest's kernel command line. `server` is where the agent is to listen.

    Source: Documentation/admin-guide/kernel-parameters.txt; `agent.*` are the agent's.
    """
    parameters = ["console=ttyS0", "panic=-1", "reboot=t", "no_timer_check", "random.trust_cpu=on"]
    parameters.append("ignore_loglevel" if config.hypervisor.enable_debug else "quiet")
    parameters += ["cgroup_no_v1=all", "pci=lastbus=0", "dummy.numdummies=0"]
    if artifacts.initrd:
        parameters.append("rdinit=/usr/sbin/kata-agent")
    else:
        parameters += ["root=/dev/vda", "rootfstype=erofs", "ro", "init=/usr/sbin/kata-agent"]
    if not config.runtime.static_sandbox_resource_mgmt:
        # Three quarters of what is plugged in, at most, is for what can be moved away when it is to be taken out.
        parameters.append("memory_hotplug.online_policy=auto-movable")
    parameters += [f"agent.server_addr={server}", *_list_agent_parameters(config.agent)]
    return parameters + config.hypervisor.kernel_params.split()


def _list_agent_parameters(config: AgentConfig) -> list[str]:
    parameters = [f"agent.log_vport={LOG_PORT}", f"agent.log={'debug' if config.enable_debug else 'info'}"]
    if config.debug_console_enabled:
        parameters += ["agent.debug_console", f"agent.debug_console_vport={DEBUG_CONSOLE_PORT}"]
    return parameters


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


async def _reach_agent(
    site: Site, machine: Vm, virtiofsd: Virtiofsd | None, line: Line, first: FirstCall = Guest.check
) -> Guest:
    """Wait for the agent's first answer, or for the end of the VM or of its share, whichever comes first."""
    reaching = asyncio.create_task(_open_guest(line, machine.pid, float(site.config.agent.dial_timeout), first))
    ending = asyncio.create_task(machine.wait_exit())
    # virtiofsd's worker process can outlive the one that we know, and a guest would boot on a share that is lost.
    unshared = asyncio.create_task(_wait_for_end(virtiofsd))
    try:
        await asyncio.wait({reaching, ending, unshared}, return_when=asyncio.FIRST_COMPLETED)
        if unshared.done() or (reaching.done() and isinstance(reaching.exception(), GuestError)):
            # A guest that dies hangs up first, and its share ends with it; how it died is what the operator needs.
            await asyncio.wait({ending}, timeout=_LAST_WORDS_TIMEOUT)
        if ending.done():
            raise GuestError(ending.result().reason)
        if unshared.done():
            raise GuestError(f"virtiofsd {unshared.result().describe()}")
        return reaching.result()
    finally:
        for task in (reaching, ending, unshared):
            task.cancel()


async def _open_guest(line: Line, pid: int, timeout: float, first: FirstCall) -> Guest:
    guest = Guest(await line.connect(AGENT_PORT, timeout=timeout))
    try:
        await _wait_for_agent(guest, pid, timeout, first)
    except KataError:
        guest.client.close()
        raise
    return guest


async def _wait_for_agent(guest: Guest, pid: int, timeout: float, first: FirstCall) -> None:
    """Wait for the agent's first answer. Time for which the VM wanted a CPU and got none does not count.

    Twenty VMs that start at once on two CPUs all get there, while one that hangs is given up in time.
    """
    left, waited = timeout, read_cpu_wait(pid)
    while True:
        try:
            return await first(guest, timeout=left)
        except DeadlineError as error:
            before, waited = waited, read_cpu_wait(pid)
            left = waited - before
            if left < _LEAST_WAIT:
                raise DeadlineError(f"the agent did not answer its first call within {timeout:g} s") from error
