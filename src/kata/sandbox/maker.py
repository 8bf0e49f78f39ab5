"""The maker of templates: boots a VM, lets its agent get ready, and saves it. A process of its own, or a command."""

import asyncio
import functools
import os
import sys
from contextlib import AsyncExitStack

from kata.errors import Code, GuestError, KataError, UnsupportedError
from kata.hypervisor.channel import AGENT_PORT
from kata.hypervisor.spec import NetDevice
from kata.hypervisor.vmmuser import derive_user_id
from kata.network.tap import drop_tap, keep_tap, open_tap
from kata.observe.log import Log
from kata.observe.timeline import Timeline
from kata.resources.cgroup import join_cgroup
from kata.resources.oom import set_oom_score
from kata.sandbox.description import describe_template, identify_template, list_template_cards
from kata.sandbox.guest import Guest
from kata.sandbox.ledger import find_ledger, record_process
from kata.sandbox.obstacle import find_obstacle
from kata.sandbox.recipe import Recipe, read_recipe
from kata.sandbox.site import Host, Site, open_line_of, probe_host
from kata.sandbox.template import (
    Template,
    begin_template,
    describe_file,
    discard_unfinished,
    find_template,
    finish_template,
    list_templates,
    lock_place,
    make_key,
    note_failure,
)
from kata.sys import linux
from kata.sys.namespace import enter_private_mount_namespace

_START_TIMEOUT = 30.0
_SAVE_TIMEOUT = 60.0
_STOP_TIMEOUT = 2.0
_FAREWELL = 0.5
_EXPENDABLE = 1000
"""The score by which the host's kernel kills this before anything else, and its VM: a pod boots without a template."""

_PATIENCE = 4.0
"""How much longer the guest of a nice process may take than another."""


def main() -> int:
    """Make the template of the recipe that standard input is, once that is at its end. Return the exit code."""
    join_cgroup("/", os.getpid())
    set_oom_score(os.getpid(), _EXPENDABLE)
    # Nothing of the pod's, which may end before this does.
    linux.unshare(linux.CLONE_NEWNET)
    enter_private_mount_namespace()
    try:
        make_template(read_recipe(sys.stdin.read()))
    except KataError as error:
        print(f"no template was made: {error}", file=sys.stderr)
        return 1
    return 0


def make_template(recipe: Recipe, *, wait: bool = False) -> Template | None:
    """Make a template unless it is there already; return it.

    None means that somebody else makes one at the same place, and nobody was to `wait` for him. Raise KataError, and
    leave word of it.
    """
    place = recipe.config.factory.template_path
    with lock_place(place, wait=wait) as is_ours:
        if not is_ours:
            return None
        timeline = Timeline(f"{place}/timeline.json")
        site = Site("template", place, recipe.root, recipe.config, timeline, Log("template", "maker"))
        host = probe_host(site)
        identity, files = identify_template(site, recipe.size, host, list_template_cards(recipe.cards))
        key = make_key(identity, files)
        if find_template(place, key) is None:
            try:
                making = site._replace(id=f"template-{key}", directory=begin_template(place, key))
                _make(making, recipe, host, key, files)
            except (KataError, OSError) as error:
                discard_unfinished(place)  # before a word is left of it: the disk may be full
                note_failure(place, key, str(error))
                raise
        return next((template for template in list_templates(place) if template.key == key), None)


def _make(site: Site, recipe: Recipe, host: Host, key: str, files: tuple[str, ...]) -> None:
    obstacle = find_obstacle(site.config, recipe.size, host)
    if obstacle:
        raise UnsupportedError(f"no template can be made: {obstacle}")
    described = tuple(describe_file(path) for path in files)
    asyncio.run(_save(site, recipe, host))
    # Else it would be told by its name to be made of what is there now.
    if described != tuple(describe_file(path) for path in files):
        raise GuestError("no template was made: a file that it is made of changed meanwhile")
    size, kernel = recipe.size, host.artifacts.kernel
    summary = f"{size.vcpus} vCPUs, {size.memory_mib} MiB, {os.path.basename(kernel)}"
    os.unlink(find_ledger(site.directory))  # what it names has ended
    _remove_logs(site.directory)
    finish_template(site.config.factory.template_path, key, summary, described)


async def _save(site: Site, recipe: Recipe, host: Host) -> None:
    async with AsyncExitStack() as owned:
        line = open_line_of(site, host)
        owned.callback(line.close)
        cards = list_template_cards(recipe.cards)
        spec = describe_template(site, recipe.size, host, line, cards)
        for card in cards:
            _make_tap(card, site.id, owned)
        note = functools.partial(record_process, site.directory)
        machine = await host.hypervisor.start(spec, timeout=_START_TIMEOUT, started=note)
        owned.push_async_callback(machine.stop, timeout=_STOP_TIMEOUT)
        timeout = _PATIENCE * site.config.agent.dial_timeout
        guest = Guest(await line.connect(AGENT_PORT, timeout=timeout))
        try:
            await guest.check(timeout=timeout)
            await guest.prepare_template()
        except GuestError as error:
            if error.status == Code.UNIMPLEMENTED:
                raise UnsupportedError("the guest's agent cannot be a template") from error
            raise
        finally:
            guest.client.close()
        # The agent is to see that nobody is there any more. Should it be late, its copies see it in its place.
        await asyncio.sleep(_FAREWELL)
        await machine.save(site.directory, timeout=_SAVE_TIMEOUT)


def _make_tap(card: NetDevice, sandbox: str, owned: AsyncExitStack) -> None:
    """Make the tap of a card, for the VMM to open by name."""
    taps = open_tap(card.tap)
    owned.callback(drop_tap, keep_tap(taps[0], derive_user_id(sandbox)))
    owned.callback(os.close, taps[0])


def _remove_logs(directory: str) -> None:
    for name in os.listdir(directory):
        if name.endswith((".log", ".log.1")):
            os.unlink(f"{directory}/{name}")
