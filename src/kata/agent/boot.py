"""What PID 1 does before anything else can work: mounts, modules, cgroups, loopback, standard descriptors."""

import ctypes
import errno
import fcntl
import os
import resource
import socket
import struct

from kata.sys import linux, mount
from kata.sys.module import load_module

_SECURE = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
_QUIET = linux.MS_NOSUID | linux.MS_NODEV

# What, where, kind, flags, options. The order counts.
_MOUNTS = (
    ("proc", "/proc", "proc", _SECURE, ""),
    ("sysfs", "/sys", "sysfs", _SECURE, ""),
    ("devtmpfs", "/dev", "devtmpfs", linux.MS_NOSUID, "mode=0755"),
    ("tmpfs", "/dev/shm", "tmpfs", _QUIET, "mode=1777"),
    ("devpts", "/dev/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5"),
    ("tmpfs", "/run", "tmpfs", _QUIET, "mode=0755"),
    ("tmpfs", "/tmp", "tmpfs", _QUIET, "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", _SECURE, "nsdelegate"),
)
_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/dev/pts/ptmx", "/dev/ptmx"),
)
_CGROUPS = "/sys/fs/cgroup"
_RUNTIME = "/usr/bin/crun"
_MODULES = "/etc/kata/modules.load"

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# linux/sockios.h and linux/if.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_IFREQ = struct.Struct("16sH22x")

_MOST_FILES = 1 << 20


# mallopt(3): M_MMAP_THRESHOLD
_MMAP_THRESHOLD, _LARGE = -3, 1 << 17


def boot() -> None:
    """Make a bare kernel a place where containers can run. Raise OSError when something indispensable fails."""
    os.environ["PATH"] = _PATH
    for source, target, fstype, flags, options in _MOUNTS:
        _mount(source, target, fstype, flags, options)
    for target, link in _LINKS:
        if not os.path.lexists(link):
            os.symlink(target, link)
    _open_standard_descriptors()
    _protect_runtime()
    _load_modules()
    _enable_controllers()
    _raise_loopback()
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_FILES, _MOST_FILES))
    os.setsid()
    _return_large_buffers()


def _mount(source: str, target: str, fstype: str, flags: int, options: str) -> None:
    if not os.path.isdir(target):
        os.makedirs(target, 0o755)
    try:
        linux.mount(source, target, fstype, flags, options)
    except OSError as error:
        if error.errno != errno.EBUSY:  # the kernel mounts /dev itself (CONFIG_DEVTMPFS_MOUNT)
            raise


def _open_standard_descriptors() -> None:
    """An initrd without /dev/console starts PID 1 with none, and a socket as descriptor 1 gets what is printed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            try:
                opened = os.open("/dev/console", os.O_RDWR)
            except OSError:
                opened = os.open("/dev/null", os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)


def _protect_runtime() -> None:
    """Show crun read-only where the root is not.

    On a writable file system crun copies itself into memory at each start, lest a container overwrite it
    (CVE-2019-5736), and that takes as long as all the rest of its start.
    """
    if not os.path.exists(_RUNTIME) or os.statvfs(_RUNTIME).f_flag & os.ST_RDONLY:
        return
    mount.bind(_RUNTIME, _RUNTIME, recursive=False)
    linux.mount("none", _RUNTIME, flags=linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY)


def _load_modules() -> None:
    """Load what the image lists, one `path [parameters]` a line, in order of dependency."""
    try:
        with open(_MODULES, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        path, _, parameters = line.strip().partition(" ")
        if path and not path.startswith("#"):
            load_module(path, parameters)


def _enable_controllers() -> None:
    with open(f"{_CGROUPS}/cgroup.controllers", encoding="ascii") as file:
        controllers = file.read().split()
    for controller in controllers:
        with open(f"{_CGROUPS}/cgroup.subtree_control", "w", encoding="ascii") as file:
            file.write(f"+{controller}")


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0))
        flags = _IFREQ.unpack(answer)[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | _IFF_UP))


def _return_large_buffers() -> None:
    """Have glibc give large buffers back to the kernel for good.

    Left alone it raises its threshold to the largest buffer that was freed, and from then on frames of a few MiB
    live on the heap and pin it.
    """
    ctypes.CDLL(None).mallopt(ctypes.c_int(_MMAP_THRESHOLD), ctypes.c_int(_LARGE))
