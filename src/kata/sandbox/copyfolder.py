"""What copies of running sandboxes have on the host's disk: a folder each, for a bundle and for disks of their own.

A folder has the maker's pid beside what is in it, and whose it is, so that `gc` can tell which were left.
"""

import json
import os
from contextlib import suppress

from kata.errors import ExistsError, HostError
from kata.sandbox import store
from kata.sys.file import read_text
from kata.sys.process import is_alive, read_start_ticks
from kata.sys.tree import remove_tree

BASE = "/var/lib/kata-containers/copies"
_OWNER = "owner.json"


def find_folder(name: str) -> str:
    return f"{BASE}/{name}"


def make_folder(root: str, name: str) -> str:
    """Make an empty folder for what is called `name` under this root, and return its path.

    Raise ExistsError for one that is there, HostError.
    """
    folder = find_folder(name)
    try:
        os.makedirs(BASE, 0o700, exist_ok=True)
        os.mkdir(folder, 0o700)
        with open(f"{folder}/{_OWNER}", "w", encoding="utf-8") as file:
            json.dump({"root": os.path.abspath(root), "pid": os.getpid(), "ticks": read_start_ticks(os.getpid())}, file)
    except FileExistsError:
        raise ExistsError(f"a copy {name} exists already", hint=f"or run kata-runtime gc: {folder}") from None
    except OSError as error:
        raise HostError(f"{folder} cannot be made: {error.strerror}") from error
    return folder


def collect_folders(root: str, *, dry_run: bool) -> list[str]:
    """Remove the folders of this root that nobody makes or has any more; return a line for each."""
    lines = []
    with suppress(FileNotFoundError):
        for name in sorted(os.listdir(BASE)):
            folder = find_folder(name)
            if _is_left(root, folder, name):
                lines.append(f"copy {folder}")
                if not dry_run:
                    remove_tree(folder)
    return lines


def _is_left(root: str, folder: str, name: str) -> bool:
    try:
        owner = json.loads(read_text(f"{folder}/{_OWNER}"))
        is_ours = owner["root"] == os.path.abspath(root)
        is_made = is_alive(int(owner["pid"]), int(owner["ticks"]))
    except (ValueError, KeyError, TypeError):
        return False  # another root's, perhaps, in this moment
    return is_ours and not is_made and not os.path.isdir(store.find_sandbox_dir(root, name))
