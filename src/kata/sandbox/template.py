"""Templates on the host: VMs that were saved when their agent was up, for others to go on from.

<place>/<key>/         one template: what the driver saved, and `template.json`, which tells of it
<place>/making-<key>/  one that is being made
<place>/<key>.failed   why one could not be made
<place>/lock           whoever makes or removes one has it

A directory is whole from the moment on that it has its name: a reader needs no lock. One who opened its files has
them, whoever removes it.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from kata.errors import HostError
from kata.sandbox.ledger import release_resources
from kata.sys.digest import digest_bytes
from kata.sys.file import is_ours_alone, read_text, replace_file
from kata.sys.tree import remove_tree

MOST_TEMPLATES = 8
MOST_BYTES = 1 << 30
"""What all templates of a place may take; beyond that those that were used the longest ago go."""

PATIENCE = 600.0
"""Seconds before it is tried again to make one that could not be made."""

MAKER_LOG = "maker.log"
_LOCK = "lock"
_DESCRIPTION = "template.json"
_MAKING = "making-"
_FAILED = ".failed"


class Template(NamedTuple):
    """A saved VM. `size` is what it takes on the host, in bytes; `used` when it was last used, since the epoch."""

    key: str
    directory: str
    summary: str
    size: int
    used: float
    files: tuple[str, ...] = ()
    """What it was made of, as `describe_file` said it then."""

    @property
    def is_current(self) -> bool:
        """Whether what it was made of is still the same."""
        return are_unchanged(self.files)


def make_key(identity: str, files: tuple[str, ...]) -> str:
    """Return the name of the template of all VMs with this identity that are made of these files as they are now."""
    described = "\n".join([identity, *(describe_file(path) for path in files)])
    return digest_bytes(described.encode()).hex()[:16]


def describe_file(path: str) -> str:
    """Return a line that another content at the path would change, the path first."""
    try:
        status = os.stat(path)
    except OSError as error:
        return f"{path} {error.strerror}"
    return f"{path} {status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def are_unchanged(described: Iterable[str]) -> bool:
    """Say whether `describe_file` would say the same of each file again."""
    return all(describe_file(text.partition(" ")[0]) == text for text in described)


def find_template(place: str, key: str) -> str | None:
    """Return the directory of a template that can be used, None without one. It counts as used now.

    Raise HostError for a place in which others than its owner could put what all VMs would start from.
    """
    directory = f"{place}/{key}"
    if not os.path.exists(f"{directory}/{_DESCRIPTION}"):
        return None
    _check_place(place)
    with contextlib.suppress(OSError):  # removed in this moment
        os.utime(directory)
    return directory


def _check_place(place: str) -> None:
    if not is_ours_alone(os.stat(place)):
        raise HostError(
            f"templates at {place} are not used: others can write there",
            hint=f"chown {os.geteuid()} {place} && chmod 0700 {place}",
        )


def list_templates(place: str) -> list[Template]:
    """Return the templates, the one that was used last first."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(place):
            with contextlib.suppress(OSError, ValueError, KeyError):  # not whole, or removed in this moment
                found.append(_read(place, name))
    return sorted(found, key=lambda template: template.used, reverse=True)


def _read(place: str, name: str) -> Template:
    directory = f"{place}/{name}"
    document = json.loads(read_text(f"{directory}/{_DESCRIPTION}"))
    size = sum(os.stat(f"{directory}/{file}").st_blocks * 512 for file in os.listdir(directory))
    if name.startswith(_MAKING):
        raise KeyError(name)
    return Template(
        name, directory, str(document["summary"]), size, os.stat(directory).st_mtime, tuple(document["files"])
    )


@contextmanager
def lock_place(place: str, *, wait: bool = False) -> Iterator[bool]:
    """Make the place if need be, and say whether this process may make and remove templates there."""
    while True:
        # Whoever removes it all may be faster at each step: from the beginning then.
        with contextlib.suppress(FileNotFoundError):
            _make_place(place)
            _check_place(place)
            descriptor = os.open(f"{place}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                is_ours = _lock(descriptor, wait=wait)
                if not is_ours or os.path.samestat(os.fstat(descriptor), os.stat(f"{place}/{_LOCK}")):
                    break
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
    try:
        yield is_ours
    finally:
        os.close(descriptor)


def _make_place(place: str) -> None:
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
    except FileExistsError:  # also where it was there and has gone since
        if os.path.lexists(place):
            raise


def _lock(descriptor: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def begin_template(place: str, key: str) -> str:
    """Make an empty directory for a template to be made in. Call with the place's lock."""
    discard_unfinished(place)
    directory = f"{place}/{_MAKING}{key}"
    os.mkdir(directory, mode=0o700)
    return directory


def discard_unfinished(place: str) -> list[str]:
    """Remove what makers left that died, and end their VMMs. Call with the place's lock. Return the names."""
    names = _list_unfinished(place)
    for name in names:
        release_resources(f"{place}/{name}")
        remove_tree(f"{place}/{name}")
    return names


def _list_unfinished(place: str) -> list[str]:
    return sorted(name for name in os.listdir(place) if name.startswith(_MAKING))


def collect_unfinished(place: str, *, dry_run: bool) -> list[str]:
    """Remove what makers left that died, and return a line for each; with `dry_run` nothing is touched."""
    if not os.path.isdir(place):
        return []
    with lock_place(place) as is_ours:
        if not is_ours:
            return []
        names = _list_unfinished(place) if dry_run else discard_unfinished(place)
        return [f"template {place}/{name}: nobody makes it any more" for name in names]


def finish_template(place: str, key: str, summary: str, files: tuple[str, ...]) -> None:
    """Give a template that was made its name, and remove others that are too many or of no use any more."""
    directory = f"{place}/{_MAKING}{key}"
    replace_file(f"{directory}/{_DESCRIPTION}", json.dumps({"summary": summary, "files": files}))
    remove_template(place, key)
    os.rename(directory, f"{place}/{key}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{place}/{key}{_FAILED}")
    size = 0
    for number, template in enumerate(list_templates(place)):
        size += template.size
        is_other = template.key != key
        if is_other and (not template.is_current or number >= MOST_TEMPLATES or size > MOST_BYTES):
            remove_template(place, template.key)


def remove_template(place: str, key: str) -> None:
    """Remove a template, so that nobody finds it half removed. Call with the place's lock."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(f"{place}/{key}", f"{place}/{_MAKING}removed")
        remove_tree(f"{place}/{_MAKING}removed")


def drop_template(directory: str) -> None:
    """Remove a template that did not work, unless templates are being made just now: then it is tried again."""
    place, key = os.path.split(directory)
    with lock_place(place) as is_ours:
        if is_ours:
            remove_template(place, key)


def note_failure(place: str, key: str, reason: str) -> None:
    """Leave word why a template could not be made, so that not every sandbox tries it again."""
    with contextlib.suppress(OSError):  # a disk that is full
        replace_file(f"{place}/{key}{_FAILED}", reason)


def find_failure(place: str, key: str) -> str:
    """Return why a template could not be made lately, or an empty string."""
    path = f"{place}/{key}{_FAILED}"
    try:
        age = time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        return ""
    return read_text(path) if 0 <= age < PATIENCE else ""


def list_failures(place: str) -> list[tuple[str, str]]:
    """Return the keys of templates that could not be made, each with the reason."""
    with contextlib.suppress(FileNotFoundError):
        names = sorted(name for name in os.listdir(place) if name.endswith(_FAILED))
        return [(name.removesuffix(_FAILED), read_text(f"{place}/{name}").strip()) for name in names]
    return []


def destroy_templates(place: str) -> int:
    """Remove all templates and their place, and return how many there were. Waits for whoever makes one."""
    if not os.path.isdir(place):
        return 0
    with lock_place(place, wait=True):
        templates = list_templates(place)
        for template in templates:
            remove_template(place, template.key)
        discard_unfinished(place)
        for name in (*(f"{key}{_FAILED}" for key, _ in list_failures(place)), MAKER_LOG, _LOCK):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{place}/{name}")
        with contextlib.suppress(OSError):  # a mount point, or what is none of ours is in it
            os.rmdir(place)
        return len(templates)
