"""A process of the pool: starts a copy of a template, waits with it, and becomes the daemon of who takes it.

It is the VM's parent all along, so that a sandbox's VM ends with its daemon, wherever that has come from. As long as
it waits it ends with the keeper.
"""

import asyncio
import importlib
import json
import os
import resource
import signal
import socket
import sys
from contextlib import ExitStack, suppress

from kata.config.annotations import apply_annotations
from kata.config.load import load_configuration
from kata.config.model import Configuration
from kata.errors import KataError
from kata.network.namespace import make_namespace, open_own_namespace
from kata.observe.log import Log
from kata.observe.timeline import Timeline
from kata.resources.cgroup import follow_cgroups
from kata.resources.host import measure_host
from kata.resources.oom import set_oom_score
from kata.resources.size import VmSize, size_sandbox
from kata.sandbox.bundle import read_bundle
from kata.sandbox.guestsandbox import describe_sandbox
from kata.sandbox.ledger import release_resources
from kata.sandbox.maker import make_template
from kata.sandbox.pool import END, MOST_DESCRIPTORS, SOCKET, TAKEN, Offer, decode_offer, find_pool
from kata.sandbox.recipe import Recipe
from kata.sandbox.site import Site
from kata.sandbox.start import copy_template
from kata.sandbox.store import lock_sandbox
from kata.sandbox.template import are_unchanged, describe_file
from kata.sandbox.waiting import CARD, TAKEN_MARK, WaitingVm, hold_waiting, list_descendants
from kata.sys import linux
from kata.sys.file import read_text, replace_file
from kata.sys.namespace import enter_private_mount_namespace
from kata.sys.title import show_arguments
from kata.sys.tree import remove_tree
from kata.sys.unixsocket import shorten_path
from kata.transport.loop import keep_loop
from kata.transport.readiness import wait_readable

_EXPENDABLE = 1000
"""The score by which the host's kernel kills this before anything else, and its VM: a pod can do without the pool."""

_DOORS = {"cli": ("kata.cli.main", "kata.cli.serve", "kata.sandbox.service"), "shim": ("kata.shim.main",)}
"""Programs that this process can become, the module with `main` first: by name, as imports point down."""

_BEFORE = ("kata.shim.daemon", "kata.sandbox.sandbox", "kata.sandbox.publisher", "kata.network.connection")
"""Modules that a sandbox's start needs, imported while nobody waits for it."""

_KINDS = ("cgroup", "ipc", "net", "pid", "user", "uts")
_RIGHTS = ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
_ANSWER_TIMEOUT = 5.0


def main() -> int:
    """Be a process of the pool: `root`, its own name, the configuration's path, a pipe to the keeper, and its pid."""
    root, name, config, keeper, parent = sys.argv[1:]
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it has ended before that
        return 1
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pipe = _reserve_descriptors(int(keeper))
    set_oom_score(os.getpid(), _EXPENDABLE)
    directory = f"{find_pool(root)}/{name}"
    os.mkdir(directory, 0o700)
    lock = lock_sandbox(directory)
    try:
        with asyncio.Runner() as runner:
            keep_loop(runner)
            waiter = Waiter(root, name, config, pipe)
            return waiter.run(runner)
    finally:
        if not release_resources(directory):
            with suppress(OSError):
                remove_tree(directory)
        os.close(lock)
        with suppress(OSError):  # where there is no keeper any more, and no other
            os.rmdir(find_pool(root))


def _reserve_descriptors(keeper: int) -> int:
    """Keep the low numbers free for what is handed over. Return the new number of the pipe to the keeper."""
    pipe = os.dup(keeper)
    while pipe < MOST_DESCRIPTORS:
        pipe = os.dup(pipe)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in range(3, MOST_DESCRIPTORS):
        os.dup2(null, number, inheritable=False)
    return pipe


class Waiter:
    """What the process does until it is taken, or has to go."""

    def __init__(self, root: str, name: str, config: str, keeper: int) -> None:
        self._root = root
        self._name = name
        self._directory = f"{find_pool(root)}/{name}"
        self._path = config or None
        self._config = Configuration()
        self._keeper = keeper
        self._files: tuple[str, ...] = ()
        self._is_spent = False  # to be given to nobody any more, or half given to somebody who has died

    def run(self, runner: asyncio.Runner) -> int:
        """Wait, and be the daemon of who took the VM. Return the exit code."""
        try:
            waiting = self._prepare(runner)
        except (KataError, OSError) as error:
            os.write(self._keeper, f"{error}\n".encode())
            return 1
        offer = runner.run(self._wait(waiting))
        if offer is None:
            linux.prctl(linux.PR_SET_PDEATHSIG, 0)  # the keeper need not stay for what is left to be done
            runner.run(waiting.stop())
            return 0
        hold_waiting(waiting)
        return _become(offer)

    def _prepare(self, runner: asyncio.Runner) -> WaitingVm:
        config = self._config = load_configuration(self._path)
        size = size_sandbox({}, config, measure_host())
        template = make_template(Recipe(self._root, config, size), wait=True)
        assert template is not None
        self._files = (*template.files, *map(describe_file, _list_own_files(config)))
        home = open_own_namespace()
        enter_private_mount_namespace()
        site = Site(
            self._name, self._directory, self._root, config, Timeline(f"{self._directory}/start"), Log("pool", "pool")
        )
        try:
            # Its processes are in a network of nobody's. Cards that are plugged in later keep that of their pod.
            own = make_namespace()
            linux.setns(own, linux.CLONE_NEWNET)
            os.close(own)
            waiting = runner.run(self._start(site, size))
        finally:
            linux.setns(home, linux.CLONE_NEWNET)
            os.close(home)
        for module in (*_BEFORE, *(module for modules in _DOORS.values() for module in modules)):
            importlib.import_module(module)
        return waiting

    async def _start(self, site: Site, size: VmSize) -> WaitingVm:
        vm = await copy_template(site, size)
        try:
            await vm.guest.rehearse(describe_sandbox(self._name, {}, site.config, shared=vm.share is not None))
            await vm.machine.pause()
        except BaseException:
            await vm.stop()
            raise
        for pid in list_descendants([os.getpid()]):
            set_oom_score(pid, _EXPENDABLE)
            _stop_being_nice(pid)
        summary = f"{size.vcpus} vCPUs, {size.memory_mib} MiB"
        card = {"summary": summary, "memory": size.memory_mib, "pids": list_descendants([os.getpid()])}
        replace_file(f"{self._directory}/{CARD}", json.dumps(card))
        return WaitingVm(vm, self._directory, site.config, self._keeper)

    async def _wait(self, waiting: WaitingVm) -> Offer | None:
        """Answer offers until one is taken. Return None where the VM is of no use any more."""
        with ExitStack() as undo:
            server = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC))
            path = f"{self._directory}/{SOCKET}"
            with shorten_path(path) as short:
                server.bind(short)
            server.listen(16)
            undo.callback(os.unlink, path)
            undo.callback(os.unlink, f"{self._directory}/{CARD}")
            os.write(self._keeper, b"ready\n")
            ending = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
            ended = asyncio.ensure_future(waiting.vm.wait_end())
            told = asyncio.ensure_future(ending.wait())
            try:
                while not self._is_spent:
                    readable = asyncio.ensure_future(wait_readable(server.fileno()))
                    await asyncio.wait({readable, ended, told}, return_when=asyncio.FIRST_COMPLETED)
                    readable.cancel()
                    if ended.done() or told.done():
                        return None
                    connection, _ = server.accept()
                    with connection:
                        connection.settimeout(_ANSWER_TIMEOUT)
                        offer = self._answer(connection, waiting)
                    if offer is not None and offer.door == END:
                        return None
                    if offer is not None:
                        return offer
            finally:
                ended.cancel()
                told.cancel()
                await asyncio.wait({ended, told})
                asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        return None

    def _answer(self, connection: socket.socket, waiting: WaitingVm) -> Offer | None:
        """Take one offer or say why not. Return it where it is taken."""
        received: list[int] = []
        try:
            _, received, _, _ = socket.recv_fds(connection, 16, 253)
            offer = decode_offer(_read_whole(received[0]), received[1:])
            if offer.door == END:
                return offer
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid = int.from_bytes(peer[:4], sys.byteorder, signed=True)
            reason = _find_strangeness(pid) or self._judge(offer, pid, waiting)
            if not reason:  # all that is to be learnt of the command, before it hears that it may end
                _resemble(pid)
                self._is_spent = True
                os.close(os.open(f"{self._directory}/{TAKEN_MARK}", os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection.send(reason.encode() or TAKEN + str(os.getpid()).encode())
            if not reason:
                os.close(received[0])
                return offer
        except (OSError, ValueError, KeyError, IndexError, KataError) as error:
            with suppress(OSError):
                connection.send(f"the process that waits failed: {error}".encode())
        for descriptor in received:
            os.close(descriptor)
        return None

    def _judge(self, offer: Offer, pid: int, waiting: WaitingVm) -> str:
        """Return why the VM is not for the program that was offered, or an empty string."""
        if not are_unchanged(self._files):
            self._is_spent = True
            return "those that wait are outdated: a file that they are made of has changed"
        for path in (f"{offer.bundle}/config.json", offer.config):
            if path and not _sees_the_same(pid, path):
                return f"{path} was mounted where what waits cannot see it"
        config = load_configuration(offer.config or None)
        spec = read_bundle(offer.bundle).spec
        config = apply_annotations(config, spec.get("annotations") or {})
        return waiting.find_difference(config, size_sandbox(spec, config, measure_host()))


def _list_own_files(config: Configuration) -> list[str]:
    """Return the other files that change what waits: the configuration's, and the runtime's own."""
    own = [os.path.abspath(__file__), os.path.dirname(os.path.abspath(__file__))]
    if config.source:
        own += [config.source, os.path.join(os.path.dirname(config.source), "config.d")]
    return own


def _stop_being_nice(pid: int) -> None:
    """Give all threads of a process that was started in the background what others have."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, int(thread), 0)


def _read_whole(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(os.dup(descriptor), "rb") as file:
        return file.read()


def _find_strangeness(pid: int) -> str:
    """Return what a process has that its child would have too, and this process has not; or an empty string."""
    for kind in _KINDS:
        if not os.path.samestat(os.stat(f"/proc/{pid}/ns/{kind}"), os.stat(f"/proc/self/ns/{kind}")):
            return f"the command is in another {kind} namespace than what waits"
    if _read_rights(pid) != _read_rights("self"):
        return "the command has other rights than what waits"
    if _read_label(pid) != _read_label("self"):
        return "the command has another security label than what waits"
    return ""


def _read_label(pid: int | str) -> str:
    """Return what a security module calls a process, nothing on a host without one."""
    try:
        return read_text(f"/proc/{pid}/attr/current")
    except OSError:
        return ""


def _read_rights(pid: int | str) -> list[str]:
    return [line for line in read_text(f"/proc/{pid}/status").splitlines() if line.partition(":")[0] in _RIGHTS]


def _sees_the_same(pid: int, path: str) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/root{path}"), os.stat(path))
    except OSError:
        return False


def _resemble(pid: int) -> None:
    """Be what a child of that process would be."""
    linux.prctl(linux.PR_SET_PDEATHSIG, 0)
    follow_cgroups(pid, os.getpid())
    set_oom_score(os.getpid(), int(read_text(f"/proc/{pid}/oom_score_adj")))
    for limit in range(resource.RLIMIT_CPU, resource.RLIMIT_RTPRIO + 1):
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, resource.prlimit(pid, limit))


def _become(offer: Offer) -> int:
    """Run the program with its descriptors and environment. Return the exit code."""
    for number in range(3, MOST_DESCRIPTORS):
        os.close(number)
    for number, descriptor in offer.descriptors.items():
        os.dup2(descriptor, number, inheritable=False)
    for descriptor in offer.descriptors.values():
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(offer.environment)
    sys.argv[:] = offer.words
    show_arguments(offer.words)
    module = importlib.import_module(_DOORS[offer.door][0])
    code: int = module.main()
    return code
