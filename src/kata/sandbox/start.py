"""How a sandbox gets its VM: one that waited, a copy of a template, one that goes on from a sandbox's, or a boot."""

import os
from collections.abc import Sequence
from contextlib import ExitStack

from kata.errors import KataError, StateError, UnsupportedError
from kata.hypervisor.spec import NetDevice, Plugged, SharedFs, VmSpec
from kata.observe.timeline import Timeline
from kata.resources.size import VmSize
from kata.sandbox.assembly import assemble_vm, name_phase
from kata.sandbox.description import (
    describe_booting,
    describe_saved,
    describe_template,
    identify_template,
    list_template_cards,
)
from kata.sandbox.line import Line
from kata.sandbox.needs import Needs
from kata.sandbox.obstacle import find_obstacle
from kata.sandbox.plan import (
    NOTHING_PASSED,
    Passed,
    Plan,
    find_want_of_ports,
    limit_growth,
    make_plan,
    place_cards,
)
from kata.sandbox.pool import REMARK
from kata.sandbox.recipe import Recipe, start_maker
from kata.sandbox.site import Host, Site, probe_host
from kata.sandbox.template import drop_template, find_failure, find_template, make_key
from kata.sandbox.vm import SandboxVm
from kata.sandbox.waiting import claim_waiting


async def start_vm(
    site: Site,
    size: VmSize,
    cards: Sequence[NetDevice] = (),
    needs: Needs | None = None,
    passed: Passed = NOTHING_PASSED,
) -> SandboxVm:
    """Start a VM with these network cards, devices of the host and places for devices to come; wait for its agent.

    It is the one that this process waited with where there is one, or a copy of a template, and boots otherwise; the
    timeline says why. Raise StartError that names the phase and quotes the end of the console; nothing is left then.
    """
    with name_phase(site.timeline), ExitStack() as background:
        with site.timeline.measure("probe host"):
            host = probe_host(site)
            size = limit_growth(site, size, host.capabilities)
            plan = make_plan(site.config.hypervisor, host.capabilities, needs or Needs())
            plan = plan._replace(devices=passed.first)
            if passed.devices and not host.capabilities.vfio:
                raise UnsupportedError(f"VMs of {host.hypervisor.name} get no devices of the host")
        vm = await _take_waiting(site, size, cards, plan, background)
        if vm is None:
            vm = await _try_copying(site, size, host, cards, plan, background)
        if vm is None:
            vm = await _boot(site, size, host, cards, plan)
        return await _pass_devices(vm, passed, site.timeline)


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


async def _try_copying(
    site: Site, size: VmSize, host: Host, cards: Sequence[NetDevice], plan: Plan, background: ExitStack
) -> SandboxVm | None:
    """Return a copy of the template of such VMs, None where there is none; the timeline says why.

    A template that fails is dropped. One that is missing is made when `background` is closed.
    """
    saved, obstacle = _look_for_own_template(site, size, host, plan, len(cards), background)
    if saved:
        try:
            return await _copy(site, size, host, cards, plan, saved)
        except KataError as error:
            site.log.write("error", "a VM could not be a copy of its template, which goes", error=str(error))
            obstacle = f"its template failed: {error}"
            drop_template(saved)
    site.timeline.remark(f"boots: {obstacle}")
    return None


def _look_for_own_template(
    site: Site, size: VmSize, host: Host, plan: Plan, cards: int, background: ExitStack
) -> tuple[str, str]:
    """Return the directory of the template for a VM with so many network cards, or why there is none."""
    obstacle = find_obstacle(site.config, size, host)
    if plan.devices:
        obstacle = "it has a device of the host from its start"
    if not obstacle and host.capabilities.ports:
        obstacle = find_want_of_ports(site.config.hypervisor, plan, cards)
    if obstacle:
        return "", obstacle
    own = 0 if host.capabilities.net_hotplug else cards
    try:
        return _look_for_template(Recipe(site.state, site.config, size, own), site, host, background)
    except (KataError, OSError) as error:
        site.log.write("warning", "there are no templates", error=str(error))
        return "", str(error)


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


async def copy_template(site: Site, size: VmSize) -> SandboxVm:
    """Start a copy of a template that belongs to no sandbox yet. Raise KataError; nothing is left then."""
    host = probe_host(site)
    plan = make_plan(site.config.hypervisor, host.capabilities, Needs())
    with ExitStack() as background:
        saved, obstacle = "", find_obstacle(site.config, size, host)
        if host.capabilities.opens_taps or not host.capabilities.net_hotplug:
            obstacle = f"a VM of {host.hypervisor.name} gets no network cards later"
        if not obstacle:
            saved, obstacle = _look_for_template(Recipe(site.state, site.config, size), site, host, background)
    if not saved:
        raise StateError(f"no VM can wait: {obstacle}")
    return await _copy(site, size, host, (), plan, saved)


async def _copy(site: Site, size: VmSize, host: Host, cards: Sequence[NetDevice], plan: Plan, saved: str) -> SandboxVm:
    def describe(line: Line, _: Sequence[SharedFs], cards: Sequence[NetDevice]) -> VmSpec:
        cold = () if host.capabilities.net_hotplug else cards
        return describe_template(site, size, host, line, cold)._replace(savable=False, saved=saved)

    return await assemble_vm(site, size, host, cards, describe, shares=plan.shares)


async def _boot(site: Site, size: VmSize, host: Host, cards: Sequence[NetDevice], plan: Plan) -> SandboxVm:
    def describe(line: Line, shared: Sequence[SharedFs], cards: Sequence[NetDevice]) -> VmSpec:
        return describe_booting(site, size, host, line, plan, [*shared, *place_cards(cards, plan)])

    return await assemble_vm(site, size, host, cards, describe, shares=plan.shares)


async def restore_vm(
    site: Site, size: VmSize, host: Host, plan: Plan, directory: str, plugged: Sequence[Plugged]
) -> SandboxVm:
    """Start a VM that goes on from one which was saved in a directory, with what was `plugged` into that.

    Its containers are held. Raise StartError that names the phase and quotes the end of the console.
    """

    def describe(line: Line, _: Sequence[SharedFs], __: Sequence[NetDevice]) -> VmSpec:
        return describe_saved(site, size, host, line, plan)._replace(saved=directory, plugged=tuple(plugged))

    with name_phase(site.timeline):
        return await assemble_vm(site, size, host, (), describe, shares=plan.shares)


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
