"""The host cgroup of a sandbox: where engines look for what a container uses.

The VM's processes are put at the OCI cgroups path, in every hierarchy of cgroup v1 or in the one of v2. Limits are the
guest's to enforce; here they would hit the VMM.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from kata.errors import HostError
from kata.sys.file import read_text

_BASE = "/sys/fs/cgroup"
_REMOVE_TIMEOUT = 5.0
_RACES = 10

OVERHEAD = "/kata_overhead"
"""Upstream's name of the cgroup in which the sandboxes' other processes are, where they are not in the pods'."""

_BY_THREAD = ("cpu.shares", "cpuacct.usage", "cpuset.cpus")
"""Files of the controllers of version 1 that take single threads of a process to good purpose."""

_OWNER_MARK = "trusted.kata"
"""The extended attribute of a cgroup that this runtime made: whoever leaves it last may remove it."""


def translate_path(path: str) -> str:
    """Return the directory form of an OCI cgroups path.

    systemd's `slice:prefix:name` becomes the directories of the slice and of the scope in it, `prefix-name.scope`.
    """
    if path.count(":") == 2 and not path.startswith("/"):
        group, prefix, name = path.split(":")
        unit = f"{prefix}-{name}" if prefix else name
        path = f"{_expand_slice(group or 'system.slice')}/" + (
            name if name.endswith((".slice", ".scope")) else f"{unit}.scope"
        )
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)


def _expand_slice(name: str) -> str:
    """Return where systemd keeps a slice: `a-b.slice` is in `a.slice`, and `-.slice` is the root.

    Source: systemd.slice(5).
    """
    words = name.removesuffix(".slice").split("-")
    if not any(words):
        return ""
    return "/".join(f"{'-'.join(words[: count + 1])}.slice" for count in range(len(words)))


def list_hierarchies() -> list[str]:
    """Return the mount points of the cgroup hierarchies of this host."""
    if os.path.exists(f"{_BASE}/cgroup.controllers"):
        return [_BASE]
    with open("/proc/self/mounts") as mounts:
        rows = [line.split() for line in mounts]
    return [row[1] for row in rows if row[2] in ("cgroup", "cgroup2") and row[1].startswith(_BASE)]


def create_cgroup(path: str, before: Callable[[str], None], hierarchies: Sequence[str] | None = None) -> None:
    """Create the cgroup in every hierarchy of this host, or in those given.

    `before` is told each directory that is about to be made, parents first. Raise HostError.
    """
    for hierarchy in list_hierarchies() if hierarchies is None else hierarchies:
        directory = f"{hierarchy}/{translate_path(path)}"
        for left in reversed(range(_RACES)):
            try:
                _make_below(hierarchy, translate_path(path), before)
            except FileNotFoundError as error:  # another sandbox was the last in a parent, and removed it
                if not left:
                    raise HostError(f"cgroup {directory} cannot be made: {error.strerror}") from error
            except OSError as error:
                raise HostError(f"cgroup {directory} cannot be made: {error.strerror}") from error
            else:
                break


def _make_below(hierarchy: str, path: str, before: Callable[[str], None]) -> None:
    directory = hierarchy
    for part in path.split("/"):
        parent, directory = directory, f"{directory}/{part}"
        if not os.path.exists(directory):
            before(directory)
            _enable_controllers(parent)
            with suppress(FileExistsError):  # the engine, or the pod's next container, was faster
                os.mkdir(directory)
                with suppress(OSError):  # without the mark it stays for whoever made it in the ledger
                    os.setxattr(directory, _OWNER_MARK, b"1")
        _copy_cpuset(directory)


def _enable_controllers(parent: str) -> None:
    """Let a cgroup of version 2 account what is below it, as other runtimes do: without that nothing is counted there.

    One with processes of its own cannot (cgroup-v2.rst, "No Internal Process Constraint"), and stays as it is.
    """
    for controller in read_text(f"{parent}/cgroup.controllers").split():
        with suppress(OSError), open(f"{parent}/cgroup.subtree_control", "w") as file:
            file.write(f"+{controller}")


def _copy_cpuset(directory: str) -> None:
    """Give a new cpuset of cgroup v1 its parent's CPUs: it starts with none and then takes no process.

    Also one that another sandbox has made in this moment, and not given them yet.
    """
    if os.path.exists(f"{directory}/cgroup.controllers"):
        return
    for name in ("cpuset.cpus", "cpuset.mems"):
        if os.path.exists(f"{directory}/{name}") and not read_text(f"{directory}/{name}").strip():
            with open(f"{os.path.dirname(directory)}/{name}") as parent, open(f"{directory}/{name}", "w") as own:
                own.write(parent.read())


def join_cgroup(path: str, pid: int, hierarchies: Sequence[str] | None = None) -> None:
    """Move a process into the cgroup in every hierarchy that has it: of this host, or of those given. Raise HostError.

    A process that has ended meanwhile needs no cgroup.
    """
    for hierarchy in list_hierarchies() if hierarchies is None else hierarchies:
        directory = f"{hierarchy}/{translate_path(path)}"
        try:
            with (
                suppress(FileNotFoundError, ProcessLookupError),
                open(f"{directory}/cgroup.procs", "w") as file,
            ):
                file.write(str(pid))
        except OSError as error:
            raise HostError(f"process {pid} cannot enter the cgroup {directory}: {error.strerror}") from error


def join_vcpus(path: str, pid: int, threads: Iterable[int], hierarchies: Sequence[str] | None = None) -> None:
    """Move the vCPUs of a VMM into the cgroup: their threads by processor time and cpuset, with version 1 of cgroups.

    Version 2 accounts memory by process and keeps the threads of one together: there the whole VMM moves. Raise
    HostError.
    """
    for hierarchy in list_hierarchies() if hierarchies is None else hierarchies:
        directory = f"{hierarchy}/{translate_path(path)}"
        if os.path.exists(f"{directory}/cgroup.controllers"):
            join_cgroup(path, pid, [hierarchy])
        elif any(os.path.exists(f"{directory}/{name}") for name in _BY_THREAD):
            for thread in threads:
                try:
                    with suppress(ProcessLookupError), open(f"{directory}/tasks", "w") as file:
                        file.write(str(thread))
                except OSError as error:
                    reason = f"cannot enter the cgroup {directory}: {error.strerror}"
                    raise HostError(f"vCPU thread {thread} {reason}") from error


def leave_cgroup(path: str, pid: int) -> None:
    """Move a process from the cgroup, if it is in it, to the root of every hierarchy; then the cgroup can be removed.

    A pid that is somebody else's by now is not touched.
    """
    for hierarchy in list_hierarchies():
        with suppress(OSError):  # it ends just now, or the hierarchy has no such cgroup
            with open(f"{hierarchy}/{translate_path(path)}/cgroup.procs") as members:
                if str(pid) not in members.read().split():
                    continue
            with open(f"{hierarchy}/cgroup.procs", "w") as file:
                file.write(str(pid))


def drop_cgroup(path: str) -> bool:
    """Remove the cgroup from every hierarchy where nobody is in it. Return whether it is gone everywhere.

    Its parents stay: others may come to use them.
    """
    gone = True
    for hierarchy in list_hierarchies():
        try:
            os.rmdir(f"{hierarchy}/{translate_path(path)}")
        except FileNotFoundError:
            continue
        except OSError:
            gone = False
    return gone


def remove_cgroup(directory: str) -> None:
    """Remove one directory of a hierarchy, waiting a little for processes that are just ending.

    One that others use by now stays. Parents that a sandbox made and nobody uses any more go with it, whichever
    sandbox made them.
    """
    deadline = time.monotonic() + _REMOVE_TIMEOUT
    while True:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            break
        except OSError:
            if time.monotonic() > deadline or _has_children(directory):
                return
            time.sleep(0.01)
        else:
            break
    with suppress(OSError):  # the first that is gone, not this runtime's, or in use
        while os.getxattr(directory := os.path.dirname(directory), _OWNER_MARK):
            os.rmdir(directory)


def _has_children(directory: str) -> bool:
    try:
        with os.scandir(directory) as entries:
            return any(entry.is_dir() for entry in entries)
    except FileNotFoundError:  # another sandbox was the last in it, just now
        return False


def follow_cgroups(leader: int | str, pid: int) -> None:
    """Move a process into the cgroups that another is in, "self" for the caller's.

    Memory stays accounted where it was touched. Who has ended needs none, and who may not move it leaves it.
    """
    for line in read_text(f"/proc/{leader}/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        for hierarchy in list_hierarchies():
            is_unified = os.path.exists(f"{hierarchy}/cgroup.controllers")
            names = os.path.basename(hierarchy).split(",")
            if is_unified if number == "0" else not is_unified and set(names) == set(_name_controllers(controllers)):
                with suppress(OSError), open(os.path.normpath(f"{hierarchy}/{path}/cgroup.procs"), "w") as file:
                    file.write(str(pid))


def _name_controllers(text: str) -> list[str]:
    """Return the words of the second field of a line of /proc/PID/cgroup; `name=systemd` is mounted as `systemd`."""
    return [word.removeprefix("name=") for word in text.split(",")]
