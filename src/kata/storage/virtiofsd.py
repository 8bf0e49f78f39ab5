"""virtiofsd: serves a directory of the host to one VM.

There are two: the one in C that came with QEMU until 7.2 (Debian 12: /usr/lib/qemu/virtiofsd; options after -o), and
the one in Rust that followed it. Either keeps its own namespaces and its seccomp filter; there is no way to turn that
off here.
"""

import os
import resource
import socket
from contextlib import suppress
from typing import Literal, NamedTuple

from kata.errors import ConfigError, HostError, NotFoundError
from kata.sys.program import find_program
from kata.sys.unixsocket import connect_unix, listen_unix
from kata.transport.boundedlog import BoundedLog
from kata.transport.child import Child, Ending, start_child
from kata.transport.toolversion import ask_version

Kind = Literal["c", "rust"]

_PLACES = (
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/libexec/kata-qemu/virtiofsd",
)
_CACHES = ("never", "metadata", "auto", "always")
_CAP_SYS_RESOURCE = 24
_MOST_FILES = 1_000_000
_LOG_LIMIT = 256 << 10


class VirtiofsdBinary(NamedTuple):
    """A virtiofsd and whose options it takes."""

    path: str
    kind: Kind


def tell_kind(version: str) -> Kind:
    """Which of the two printed this for --version: `virtiofsd version 7.2.22 (…)` is C, `virtiofsd 1.13.0` Rust."""
    return "c" if version.startswith(("virtiofsd version", "QEMU")) else "rust"


def find_virtiofsd(path: str = "", *, state_directory: str | None = None) -> VirtiofsdBinary:
    """The configured virtiofsd, or the first of the usual places. Raise NotFoundError."""
    places = (path,) if path else (*_PLACES, "virtiofsd")
    for place in places:
        found = find_program(place)
        if found is not None:
            return VirtiofsdBinary(found, tell_kind(ask_version(found, state_directory)))
    where = path or "any of the usual places"
    raise NotFoundError(
        f"there is no virtiofsd at {where}",
        hint="install virtiofsd (Debian 12: qemu-system-common), or set virtio_fs_daemon",
    )


def build_virtiofsd_arguments(
    binary: VirtiofsdBinary, directory: str, listening: int, *, cache: str = "auto", files: int
) -> list[str]:
    """The command line. `listening` is the descriptor of the socket, `files` the limit of open files.

    Requests are handled one after the other. In the C version by the thread that takes them in: handing each to one
    worker costs a fifth of virtiofsd's processor time more, and nothing is quicker (docs/performance.md). Raise
    ConfigError for an unknown cache policy.
    """
    if cache not in _CACHES:
        raise ConfigError(f"virtio-fs cache policy {cache!r} is unknown", hint=f"one of: {', '.join(_CACHES)}")
    workers = 0 if binary.kind == "c" else 1
    common = [binary.path, f"--fd={listening}", f"--thread-pool-size={workers}", f"--rlimit-nofile={files}"]
    if binary.kind == "c":
        policy = {"never": "none", "metadata": "auto"}.get(cache, cache)
        options = ["sandbox=namespace", f"cache={policy}", "xattr", "announce_submounts", f"source={directory}"]
        return [*common, "-f", *(word for option in options for word in ("-o", option))]
    return [
        *common,
        *("--sandbox=namespace", "--seccomp=kill", f"--cache={cache}"),
        *("--xattr", "--announce-submounts", f"--shared-dir={directory}"),
    ]


def find_file_limit() -> int:
    """How many files virtiofsd may hold open: what it wants by itself where that can be granted, else our hard limit.

    It exits when it cannot raise the limit, and only CAP_SYS_RESOURCE goes above the hard one (setrlimit(2)).
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = min(_MOST_FILES, _read_number("/proc/sys/fs/nr_open"))
    if hard == resource.RLIM_INFINITY or hard >= wanted or _may_raise_limits():
        return wanted
    return hard


def _read_number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())


def _may_raise_limits() -> bool:
    with open("/proc/self/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return False


class Virtiofsd:
    """A running virtiofsd. `connection` goes into `SharedFs.socket`, or `path` where a VMM connects by itself.

    Call `hand_over` when the VMM has inherited the one, or has connected to the other.
    """

    def __init__(self, child: Child, connection: socket.socket | None, log: BoundedLog, path: str = "") -> None:
        self.pid = child.pid
        self.start_ticks = child.start_ticks
        self.connection = connection
        self.path = path
        self._child = child
        self._log = log

    def check(self) -> None:
        """Raise HostError with its last words when it has ended."""
        if self._child.ending is not None:
            raise HostError(f"virtiofsd {self._child.ending.describe()}")

    async def wait(self) -> Ending:
        """Wait for its end. It ends by itself when the VM does."""
        return await self._child.wait()

    def hand_over(self) -> None:
        """Let go of the connection, and of the path, which nobody else shall connect to. May be repeated."""
        if self.connection is not None:
            self.connection.close()
        elif self.path:
            with suppress(FileNotFoundError):
                os.unlink(self.path)

    async def stop(self) -> Ending:
        """End it and release what it held. May be repeated."""
        self.hand_over()
        try:
            return await self._child.stop()
        finally:
            self._log.close()


def start_virtiofsd(
    binary: VirtiofsdBinary,
    export: str,
    directory: str,
    *,
    cache: str = "auto",
    name: str = "virtiofsd",
    connect: bool = True,
) -> Virtiofsd:
    """Serve `export` on a connected socket, or on one to connect to. `directory` is the sandbox's own, for the log.

    Does not wait until it serves: the VMM does that by talking to it. The socket is bound and connected before the
    daemon exists (the connection waits in the backlog), and its path is gone again before anyone else could find it.
    """
    path = os.path.join(directory, f"{name}.sock")
    with listen_unix(path, backlog=1) as server:
        connection = None
        if connect:
            try:
                connection = connect_unix(path)
            finally:
                os.unlink(path)
        log = BoundedLog(os.path.join(directory, f"{name}.log"), limit=_LOG_LIMIT)
        try:
            arguments = build_virtiofsd_arguments(binary, export, server.fileno(), cache=cache, files=find_file_limit())
            argv = ["setpriv", "--pdeathsig", "KILL", "--", *arguments]
            child = start_child("virtiofsd", argv, descriptors=(server.fileno(),), log=log)
        except BaseException:
            if connection is not None:
                connection.close()
            log.close()
            raise
    return Virtiofsd(child, connection, log, "" if connect else path)
