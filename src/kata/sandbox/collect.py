"""Removing what crashed sandboxes left behind."""

import os
from contextlib import suppress

from kata.errors import StateError
from kata.sandbox import store
from kata.sandbox.ledger import list_resources, release_resources
from kata.sys.tree import remove_tree


def collect(root: str, *, dry_run: bool) -> list[str]:
    """Release every sandbox under `root` that no daemon serves, and the records of their containers.

    Return one line for each thing found. With `dry_run` nothing is touched.
    """
    lines = []
    for sandbox in store.list_sandboxes(root):
        if not _is_in_use(root, sandbox):
            lines += release_sandbox(root, sandbox, dry_run=dry_run)
    for record in store.list_containers(root):
        # Asked again for each: a sandbox may have come since the list was made.
        if not _is_in_use(root, record.sandbox):
            lines.append(f"container {record.id}: its sandbox {record.sandbox} is gone")
            if not dry_run:
                store.remove_container(root, record.key)
    return lines


def _is_in_use(root: str, sandbox: str) -> bool:
    directory = store.find_sandbox_dir(root, sandbox)
    return store.is_served(directory) or store.is_being_made(directory)


def release_sandbox(root: str, sandbox: str, *, dry_run: bool = False) -> list[str]:
    """Release one sandbox that no daemon serves; return a line for each thing found and each failure.

    Where something could not be released its directory stays, so that it can be tried again.
    """
    return release_directory(f"sandbox {sandbox}", store.find_sandbox_dir(root, sandbox), dry_run=dry_run)


def release_directory(name: str, directory: str, *, dry_run: bool = False) -> list[str]:
    """Do the same of any directory that has a lock and a ledger as a sandbox's."""
    if not os.path.isdir(directory):
        return []
    lines = [f"{name}: {kind} {value}" for kind, value in list_resources(directory)]
    lines.append(f"{name}: directory {directory}")
    if dry_run:
        return lines
    try:
        lock = store.lock_sandbox(directory)
    except StateError:
        return [f"{name}: a daemon has come to serve it"]
    except FileNotFoundError:
        return []
    try:
        failures = release_resources(directory)
        if not failures:
            with suppress(FileNotFoundError):
                remove_tree(directory)
    except OSError as error:
        failures = [f"directory {directory} could not be removed: {error}"]
    finally:
        os.close(lock)
    return lines + [f"{name}: {failure}" for failure in failures]
