"""Removing what crashed sandboxes left behind."""

from kata.sandbox import store
from kata.sandbox.ledger import list_resources, release_resources
from kata.sys.tree import remove_tree


def collect(root: str, *, dry_run: bool) -> list[str]:
    """Release every sandbox under `root` that no daemon serves, and the records of their containers.

    Return one line for each thing found. With `dry_run` nothing is touched.
    """
    lines = []
    served = set()
    for sandbox in store.list_sandboxes(root):
        directory = store.find_sandbox_dir(root, sandbox)
        if store.is_served(directory):
            served.add(sandbox)
        else:
            lines += release_sandbox(root, sandbox, dry_run=dry_run)
    for record in store.list_containers(root):
        if record.sandbox not in served:
            lines.append(f"container {record.id}: its sandbox {record.sandbox} is gone")
            if not dry_run:
                store.remove_container(root, record.id)
    return lines


def release_sandbox(root: str, sandbox: str, *, dry_run: bool = False) -> list[str]:
    """Release one sandbox that no daemon serves; return a line for each thing found and each failure."""
    directory = store.find_sandbox_dir(root, sandbox)
    lines = [f"sandbox {sandbox}: {kind} {value}" for kind, value in list_resources(directory)]
    lines.append(f"sandbox {sandbox}: directory {directory}")
    if not dry_run:
        lines += [f"sandbox {sandbox}: {failure}" for failure in release_resources(directory)]
        remove_tree(directory)
    return lines
