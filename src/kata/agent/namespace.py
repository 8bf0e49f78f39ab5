"""Namespaces that the containers of a sandbox share: IPC and UTS, and processes if they ask for that."""

import os
import signal
import socket
from contextlib import suppress

from kata.sys import linux

DIRECTORY = "/run/kata-agent/ns"
_KINDS = {"ipc": linux.CLONE_NEWIPC, "uts": linux.CLONE_NEWUTS}


def make_shared_namespaces(hostname: str) -> dict[str, str]:
    """Make both and bind them to files, by which they stay alive. Return the paths by kind.

    The agent steps into the new ones and back; it has one thread, so nothing else runs meanwhile.
    Raise OSError.
    """
    os.makedirs(DIRECTORY, 0o755, exist_ok=True)
    paths = {}
    for kind, flag in _KINDS.items():
        path = f"{DIRECTORY}/{kind}"
        home = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
        try:
            linux.unshare(flag)
            try:
                if kind == "uts" and hostname:
                    socket.sethostname(hostname)
                linux.mount(f"/proc/self/ns/{kind}", path, flags=linux.MS_BIND)
            finally:
                linux.setns(home, flag)
        finally:
            os.close(home)
        paths[kind] = path
    return paths


def drop_shared_namespaces() -> None:
    """Undo `make_shared_namespaces`, also in part."""
    for kind in _KINDS:
        path = f"{DIRECTORY}/{kind}"
        if os.path.exists(path):
            try:
                linux.umount2(path, linux.MNT_DETACH)
            finally:
                os.unlink(path)


def hold_pid_namespace() -> int:
    """Make a process namespace and return the pid of its first process, which waits until it is killed.

    In a pod without a pause container no container may be that process: the others would end with it. Raise OSError.
    """
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.unshare(linux.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            _wait_for_ever()
        linux.setns(home, linux.CLONE_NEWPID)  # where the next children are to be
        return pid
    finally:
        os.close(home)


def _wait_for_ever() -> None:
    """Be the namespace's init: nothing of the agent's stays open, and orphans are reaped by the kernel."""
    with suppress(BaseException):
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with suppress(OSError):
                signal.signal(number, signal.SIG_IGN)
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write("pause")
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
        while True:
            signal.pause()
    os._exit(1)
