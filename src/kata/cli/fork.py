"""`fork`: copies of a running container, each with its VM, that begin where it is now."""

from __future__ import annotations

import contextlib
import json
import os

from kata.cli.bundle import open_bundle
from kata.cli.checkpoint import ask_for_checkpoint
from kata.cli.container_id import check_id
from kata.cli.control import start_container
from kata.cli.create import create_detached, raise_on_signals
from kata.cli.daemon import Origin
from kata.cli.invocation import Invocation
from kata.cli.records import find_record_path, read_record
from kata.errors import ExistsError, KataError, UsageError
from kata.sandbox.copyfolder import find_folder, make_folder
from kata.sys.tree import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from kata.cli.records import Record

_LONGEST_HOSTNAME = 64


def run_fork(invocation: Invocation) -> int:
    """Save the container, let it go on, and start the copies of it, all at once. Print the id of each that runs."""
    record = read_record(invocation.root, invocation.arguments[0])
    names = _choose_names(invocation, record["id"])
    namespaces: list[str] = invocation.texts("netns")
    if len(namespaces) not in (0, len(names)):
        raise UsageError(f"--netns is given {len(namespaces)} times for {len(names)} copies", hint="once for each copy")
    spec = open_bundle(record["bundle"]).spec
    image = make_folder(invocation.root, f"fork-{os.getpid()}")
    try:
        with raise_on_signals():
            ask_for_checkpoint(invocation, record, image, leave_running=True)
            copies = [
                _begin(invocation, record, spec, image, name, namespaces[number] if namespaces else "")
                for number, name in enumerate(names)
            ]
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in copies]
    finally:
        remove_tree(image)
    return 1 if any(codes) else 0


def _choose_names(invocation: Invocation, container: str) -> list[str]:
    names = invocation.arguments[1:]
    count = invocation.number("count") or 0
    if names and count not in (0, len(names)):
        raise UsageError(f"--count {count} does not fit {len(names)} new ids")
    if count < 0:
        raise UsageError(f"--count {count} is no number of copies")
    if not names:
        free = (f"{container}-{number}" for number in range(1, 1 << 30))
        names = []
        while len(names) < (count or 1):
            name = next(free)
            if not os.path.exists(find_record_path(invocation.root, name)) and not os.path.exists(find_folder(name)):
                names.append(name)
    for name in names:
        if os.path.exists(find_record_path(invocation.root, check_id(name))) or names.count(name) > 1:
            raise ExistsError(f"a container {name} exists already")
    return names


def _begin(invocation: Invocation, record: Record, spec: dict[str, Any], image: str, name: str, namespace: str) -> int:
    """Start a copy in a process of its own, which ends with 0 when it runs, and return its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _start_copy(invocation, record, spec, image, name, namespace)
        print(name, flush=True)
        code = 0
    except (KataError, OSError) as error:
        invocation.log.write_error(f"copy {name} of container {record['id']}: {error}")
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


def _start_copy(
    invocation: Invocation, record: Record, spec: dict[str, Any], image: str, name: str, namespace: str
) -> None:
    folder = make_folder(invocation.root, name)
    try:
        with open(f"{folder}/config.json", "w") as file:
            json.dump(change_spec(spec, record, name, namespace), file)
        flags = {**invocation.flags, "console-socket": "", "pid-file": ""}
        one = Invocation(invocation.globals, flags, [name], -1, invocation.log)
        with _have_streams(invocation.text("output"), name):
            create_detached(one, open_bundle(folder), name, Origin(image, copy=True))
    except BaseException:
        with contextlib.suppress(OSError):
            remove_tree(folder)
        raise
    start_container(invocation.root, read_record(invocation.root, name))


@contextlib.contextmanager
def _have_streams(directory: str, name: str) -> Iterator[None]:
    """Have the standard streams that a copy is to have during the block.

    Not this command's own: whoever reads what it prints waits for the end of that.
    """
    path = f"{directory}/{name}.log" if directory else os.devnull
    own = [os.dup(stream) for stream in (0, 1, 2)]
    theirs = [os.open(os.devnull, os.O_RDONLY), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)]
    try:
        for stream, descriptor in enumerate((theirs[0], theirs[1], theirs[1])):
            os.dup2(descriptor, stream)
        yield
    finally:
        for stream, descriptor in enumerate(own):
            os.dup2(descriptor, stream)
        for descriptor in (*own, *theirs):
            os.close(descriptor)


def change_spec(spec: dict[str, Any], record: Record, name: str, namespace: str) -> dict[str, Any]:
    """Return the config.json of a copy: of the same files, with a host name, a network and a cgroup of its own."""
    bundle, original = record["bundle"], record["id"]
    linux = dict(spec.get("linux") or {})
    linux["namespaces"] = [
        {"type": "network", **({"path": namespace} if namespace else {})} if one.get("type") == "network" else one
        for one in linux.get("namespaces") or []
    ]
    if cgroup := linux.get("cgroupsPath"):
        linux["cgroupsPath"] = cgroup.replace(original, name) if original in cgroup else f"{cgroup}-{name}"
    return {
        **spec,
        "hostname": name[:_LONGEST_HOSTNAME],
        "root": {**spec["root"], "path": os.path.join(bundle, spec["root"]["path"])},
        "process": {**spec["process"], "terminal": False},
        "mounts": [_find_source(mount, bundle) for mount in spec.get("mounts") or []],
        "linux": linux,
    }


def _find_source(mount: dict[str, Any], bundle: str) -> dict[str, Any]:
    if mount.get("type") not in (None, "", "bind", "none") or not mount.get("source"):
        return mount
    return {**mount, "source": os.path.join(bundle, mount["source"])}
