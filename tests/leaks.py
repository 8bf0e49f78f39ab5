"""What of a sandbox is still on this machine: everything whose name carries a token that only the test used."""

import contextlib
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_SHARES = Path("/run/kata-containers/shared/sandboxes")
_COPIES = Path("/var/lib/kata-containers/copies")
_NAMESPACES = Path("/run/netns")
_CGROUP_DEPTH = 4


def find_traces(token: str, root: Path) -> set[str]:
    """Return a line for each process, mount, cgroup, share, socket, network namespace and state file of `token`.

    `root` is the runtime's state directory; whatever a sandbox or container left in it counts.
    """
    return {
        *(f"process {pid}: {text}" for pid, text in list_processes(token)),
        *(f"process {pid}: {text}" for pid, text in _list_jailed()),
        *(f"mount: {line}" for line in _find_lines("/proc/self/mountinfo", token)),
        *(f"socket: {line}" for line in _find_lines("/proc/net/unix", token)),
        *(f"cgroup: {path}" for path in _find_cgroups(token)),
        *(f"share: {path}" for path in _list_directory(_SHARES) if token in path.name),
        *(f"copy: {path}" for path in _list_directory(_COPIES) if token in path.name),
        *(f"network namespace: {path}" for path in _list_directory(_NAMESPACES) if token in path.name),
        *(f"state: {path}" for name in ("sandboxes", "containers") for path in _list_directory(root / name)),
    }


def list_taps() -> set[str]:
    """Return the tap devices of this network namespace."""
    return {f"tap: {path.name}" for path in Path("/sys/class/net").iterdir() if (path / "tun_flags").exists()}


def list_descriptors() -> dict[int, str]:
    """Return the open files of this process by descriptor."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def wait_until_clean(token: str, root: Path, *, allowed: set[str] | None = None, timeout: float = 10.0) -> set[str]:
    """Wait until nothing but `allowed` is left, `timeout` seconds at most. Return what is left then."""
    deadline = time.monotonic() + timeout
    while True:
        reap_children()
        left = find_traces(token, root) - (allowed or set())
        if not left or time.monotonic() > deadline:
            return left
        _wait_for_some_end([int(line.split()[1].rstrip(":")) for line in left if line.startswith("process")])


def wait_until_gone(word: str, root: Path, *, timeout: float = 30.0) -> set[str]:
    """Do the same for what has `word` in its name, whatever else there is: engines clean up in the background too."""
    others = {line for line in find_traces(word, root) if word not in line}
    return {line for line in wait_until_clean(word, root, allowed=others, timeout=timeout) if word in line}


def _wait_for_some_end(pids: list[int]) -> None:
    """Wait until one of these processes ends; a short while where what is left is no process."""
    poller = select.poll()
    with contextlib.ExitStack() as stack:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                stack.callback(os.close, descriptor)
                poller.register(descriptor, select.POLLIN)
        poller.poll(500 if pids else 50)


def reap_children() -> None:
    """Collect orphans of the runtime that came to us, as engines that are subreapers do."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def list_processes(token: str) -> list[tuple[int, str]]:
    """Return pid and command line of each process that has `token` in its arguments, environment or directory."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = Path(f"/proc/{name}/environ").read_bytes().decode(errors="replace")
            if token in text or token in environment or token in os.readlink(f"/proc/{name}/cwd"):
                found.append((int(name), text.strip()))
    return found


def _list_jailed() -> Iterator[tuple[int, str]]:
    """Yield Firecrackers, whose jails hide all that could have a token: in the lab each of them counts."""
    if not os.environ.get("KATA_LAB"):
        return
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text() == "firecracker\n":
                yield int(path.parent.name), path.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode()


def _find_lines(path: str, token: str) -> Iterator[str]:
    for line in Path(path).read_text(errors="replace").splitlines():
        if token in line:
            # Reference counts, inode numbers and options of one object change; its path does not.
            yield next(word for word in line.split() if token in word)


def _find_cgroups(token: str) -> Iterator[Path]:
    for folder, names, _ in os.walk(_CGROUPS):
        place = Path(folder)
        if len(place.relative_to(_CGROUPS).parts) >= _CGROUP_DEPTH:
            names.clear()
        yield from (place / name for name in names if token in name)


def _list_directory(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else []
