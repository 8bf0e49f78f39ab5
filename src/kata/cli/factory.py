"""`factory`: the templates that VMs are copies of, and the pool of copies that wait."""

import os
import time

from kata.cli.invocation import Invocation
from kata.cli.list import format_table
from kata.config.load import load_configuration
from kata.config.model import Configuration
from kata.errors import StateError, UsageError


def run_factory(invocation: Invocation) -> int:
    actions = {"init": _make, "status": _show, "destroy": _remove}
    wanted = invocation.arguments[0]
    if wanted not in actions:
        raise UsageError(f"factory has no {wanted!r}", hint=f"one of: {', '.join(actions)}")
    config = load_configuration(str(invocation.globals["config"] or invocation.globals["kata-config"]) or None)
    return actions[wanted](invocation, config)


def _make(invocation: Invocation, config: Configuration) -> int:
    """Make the template of a VM whose pod has no limits, and have as many copies wait as the configuration says."""
    from kata.resources.host import measure_host  # noqa: PLC0415 - what boots a VM is heavy, and for this alone
    from kata.resources.size import size_vm  # noqa: PLC0415 - the same
    from kata.sandbox.maker import make_template  # noqa: PLC0415 - the same
    from kata.sandbox.recipe import Recipe  # noqa: PLC0415 - the same

    if not config.factory.enable_template:
        raise StateError("templates are off", hint="set enable_template in [factory]")
    size = size_vm({}, config.hypervisor, measure_host())
    template = make_template(Recipe(invocation.root, config, size), wait=True)
    assert template is not None
    print(f"template {template.key} is there: {template.summary}, {template.size / 1e6:.0f} MB")
    return _fill_pool(invocation, config.factory.vm_cache_number)


def _fill_pool(invocation: Invocation, number: int) -> int:
    from kata.cli.daemon import find_configuration  # noqa: PLC0415 - only here
    from kata.sandbox.keeper import destroy_pool, list_members, start_keeper  # noqa: PLC0415 - only here

    root = os.path.abspath(invocation.root)
    if not number:
        destroy_pool(root)
        return 0
    reason = start_keeper(root, find_configuration(invocation), number)
    print(f"{len(list_members(root))} of {number} VMs wait{f': {reason}' if reason else ''}")
    return 1 if reason else 0


def _show(invocation: Invocation, config: Configuration) -> int:
    from kata.sandbox.template import list_failures, list_templates  # noqa: PLC0415 - only here

    place = config.factory.template_path
    rows: list[tuple[str, ...]] = [("TEMPLATE", "VM", "MB", "LAST USED", "STATE")]
    for template in list_templates(place):
        used = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(template.used))
        state = "usable" if template.is_current else "outdated"
        rows.append((template.key, template.summary, f"{template.size / 1e6:.0f}", used, state))
    rows += [(key, "", "", "", f"not made: {reason}") for key, reason in list_failures(place)]
    print(format_table(rows) if len(rows) > 1 else f"there are no templates at {place}")
    _show_pool(os.path.abspath(invocation.root), config.factory.vm_cache_number)
    return 0


def _show_pool(root: str, number: int) -> None:
    from kata.sandbox.keeper import find_keeper, list_members, read_note  # noqa: PLC0415 - only here

    members, is_kept = list_members(root), bool(find_keeper(root))
    if not (number or members or is_kept):
        return
    rows: list[tuple[str, ...]] = [("WAITING", "VM", "MB")]
    rows += [(one.name, one.summary, f"{one.measure() * 1.048576:.0f}") for one in members]
    if members:
        print(format_table(rows))
    reason = read_note(root) if is_kept else "nobody fills the pool: kata-runtime factory init does"
    print(f"{len(members)} of {number} VMs wait{f': {reason}' if reason else ''}")


def _remove(invocation: Invocation, config: Configuration) -> int:
    from kata.sandbox.keeper import destroy_pool  # noqa: PLC0415 - only here
    from kata.sandbox.template import destroy_templates  # noqa: PLC0415 - only here

    waiting = destroy_pool(os.path.abspath(invocation.root))
    removed = f"removed {destroy_templates(config.factory.template_path)} templates"
    print(f"{removed}, and {waiting} VMs that waited" if waiting else removed)
    return 0
