"""Bundles that `run` makes by itself, of a directory or an image, for the length of one container.

They are at <root>/bundles/<container>, with the maker's pid beside config.json, so that `gc` can tell which were left.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kata.cli.bundle import open_bundle
from kata.cli.container_id import check_id
from kata.cli.invocation import Invocation
from kata.cli.records import find_record_path
from kata.cli.run import run_bundle
from kata.cli.update import parse_size
from kata.cli.user import find_user
from kata.errors import ExistsError, NotFoundError, UnsupportedError, UsageError
from kata.protocol.oci.default import IMAGE_CAPABILITIES, PATH, make_spec
from kata.storage.oci_layout import ImageConfig, unpack_image
from kata.sys.tree import remove_tree

_CPU_PERIOD = 100_000
_LONGEST_HOSTNAME = 64


def run_made_bundle(invocation: Invocation) -> int:
    if invocation.text("rootfs") and invocation.text("oci-layout"):
        raise UsageError("--rootfs and --oci-layout exclude each other")
    if invocation.switch("detach") or invocation.switch("keep"):
        raise UnsupportedError(
            "--detach and --keep need a bundle of yours: one made for --rootfs or --oci-layout ends with the command",
            hint="make one with kata-runtime spec",
        )
    container, args = split_arguments(invocation.arguments, separated=invocation.separated)
    container = check_id(container or f"run-{os.urandom(6).hex()}")
    if os.path.exists(find_record_path(invocation.root, container)):
        raise ExistsError("container with given ID already exists")
    with _own_directory(invocation.root, container) as directory:
        spec = _make_spec(invocation, directory, args)
        spec["hostname"] = invocation.text("hostname") or container[:_LONGEST_HOSTNAME]
        with open(f"{directory}/config.json", "w") as file:
            json.dump(spec, file, indent=2)
        return run_bundle(invocation, open_bundle(directory), container)


def split_arguments(arguments: list[str], *, separated: int) -> tuple[str, list[str]]:
    """Split `[ID] [-- COMMAND…]`. `separated` counts the arguments before `--`, -1 where there is none.

    Without `--` there is no id: all is the command.
    """
    if separated < 0:
        return "", arguments
    if separated > 1:
        raise UsageError(f"one container id may stand before --, not {separated} arguments")
    return (arguments[0] if separated else ""), arguments[separated:]


@contextmanager
def _own_directory(root: str, container: str) -> Iterator[str]:
    directory = f"{root}/bundles/{container}"
    os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        raise ExistsError(
            "container with given ID already exists", hint=f"or run kata-runtime gc: {directory}"
        ) from None
    try:
        with open(f"{directory}/owner.json", "w") as file:
            json.dump({"pid": os.getpid(), "started": _read_start_time(os.getpid())}, file)
        yield directory
    finally:
        remove_tree(directory)


def _read_start_time(pid: int) -> str:
    """Return a process's start in clock ticks since boot: with the pid it names a process for good. Source: proc(5)."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[19]
    return ""


def collect_bundles(root: str, *, dry_run: bool) -> list[str]:
    """Remove the bundles whose makers are gone; return a line for each."""
    try:
        names = sorted(os.listdir(f"{root}/bundles"))
    except FileNotFoundError:
        return []
    lines = []
    for name in names:
        directory = f"{root}/bundles/{name}"
        try:
            with open(f"{directory}/owner.json") as file:
                owner = json.load(file)
        except (OSError, ValueError):
            owner = {}
        if owner.get("started") and owner["started"] == _read_start_time(int(owner["pid"])):
            continue
        lines.append(f"bundle {directory}")
        if not dry_run:
            remove_tree(directory)
    return lines


def _make_spec(invocation: Invocation, directory: str, args: list[str]) -> dict[str, Any]:
    rootfs, config = _find_rootfs(invocation, directory)
    args = choose_args(config, args)
    spec = make_spec(
        args,
        terminal=invocation.switch("tty"),
        rootfs=rootfs,
        readonly=invocation.switch("read-only"),
        capabilities=IMAGE_CAPABILITIES,
    )
    process = spec["process"]
    given = invocation.texts("env")
    environment = [*(config.environment or (PATH,)), *(["TERM=xterm"] if process["terminal"] else [])]
    process["env"] = merge_environment(environment, given)
    process["cwd"] = invocation.text("cwd") or config.working_directory
    process["user"] = find_user(os.path.join(directory, rootfs), invocation.text("user") or config.user)
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": 1 << 20, "soft": 1 << 20}]
    spec["mounts"] += [parse_volume(volume) for volume in invocation.texts("volume")]
    spec["linux"]["resources"] |= _read_limits(invocation)
    return spec


def _find_rootfs(invocation: Invocation, directory: str) -> tuple[str, ImageConfig]:
    if invocation.text("rootfs"):
        rootfs = os.path.abspath(invocation.text("rootfs"))
        if not os.path.exists(rootfs):
            raise NotFoundError(f"--rootfs {rootfs}: no such file or directory")
        return rootfs, ImageConfig()
    config = unpack_image(invocation.text("oci-layout"), f"{directory}/rootfs", f"{directory}/layout")
    with suppress(FileNotFoundError):
        remove_tree(f"{directory}/layout")
    return "rootfs", config


def choose_args(config: ImageConfig, args: list[str]) -> list[str]:
    """Return what to run: arguments replace the image's Cmd, never its Entrypoint."""
    chosen = [*config.entrypoint, *(args or config.command)]
    if not chosen:
        raise UsageError("nothing to run: neither a command after -- nor one in the image")
    return chosen


def merge_environment(base: list[str], given: list[str]) -> list[str]:
    """Return the variables, later ones in place of earlier ones. NAME alone takes the value from our environment."""
    merged = {}
    for variable in [*base, *given]:
        name, equals, value = variable.partition("=")
        if not equals:
            if name not in os.environ:
                continue
            value = os.environ[name]
        merged[name] = f"{name}={value}"
    return list(merged.values())


def parse_volume(volume: str) -> dict[str, Any]:
    """Return the mount for SOURCE:DESTINATION[:OPTION,…], options being ro and rw."""
    source, _, rest = volume.partition(":")
    destination, _, options = rest.partition(":")
    words = [word for word in options.split(",") if word]
    if not source or not destination.startswith("/") or not set(words) <= {"ro", "rw"}:
        raise UsageError(f"--volume {volume!r} is malformed", hint="SOURCE:DESTINATION[:ro]")
    source = os.path.abspath(source)
    if not os.path.exists(source):
        raise NotFoundError(f"--volume: {source} does not exist")
    return {"destination": destination, "type": "bind", "source": source, "options": ["rbind", *(words or ["rw"])]}


def _read_limits(invocation: Invocation) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if invocation.text("memory"):
        limits["memory"] = {"limit": parse_size("memory", invocation.text("memory"))}
    if invocation.text("cpus"):
        try:
            cpus = float(invocation.text("cpus"))
        except ValueError:
            cpus = 0.0
        if not 0.01 <= cpus <= 1024:
            raise UsageError(f"--cpus {invocation.text('cpus')!r} is not a number from 0.01 to 1024")
        limits["cpu"] = {"period": _CPU_PERIOD, "quota": int(cpus * _CPU_PERIOD)}
    return limits
