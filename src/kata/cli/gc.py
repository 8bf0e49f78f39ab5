"""`gc`: remove what crashed sandboxes left behind."""

from kata.cli.invocation import Invocation
from kata.cli.made_bundle import collect_bundles
from kata.config.load import load_configuration


def run_gc(invocation: Invocation) -> int:
    from kata.sandbox.collect import collect  # noqa: PLC0415 - heavy, and this command's alone
    from kata.sandbox.copyfolder import collect_folders  # noqa: PLC0415 - the same
    from kata.sandbox.keeper import collect_dead  # noqa: PLC0415 - the same
    from kata.sandbox.template import collect_unfinished  # noqa: PLC0415 - the same

    dry_run = invocation.switch("dry-run")
    lines = [*collect(invocation.root, dry_run=dry_run), *collect_bundles(invocation.root, dry_run=dry_run)]
    lines += collect_folders(invocation.root, dry_run=dry_run)
    config = load_configuration(str(invocation.globals["config"] or invocation.globals["kata-config"]) or None)
    lines += collect_dead(invocation.root, dry_run=dry_run)
    lines += collect_unfinished(config.factory.template_path, dry_run=dry_run)
    for line in lines:
        print(f"{'would remove' if dry_run else 'removed'} {line}")
    if not lines:
        print("nothing to remove")
    return 0
