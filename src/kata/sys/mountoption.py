"""Mount options in words, as fstab(5) and the OCI specification have them, to mount(2)'s flags and data."""

from collections.abc import Iterable

from kata.sys import linux

_NOATIME, _NODIRATIME, _RELATIME, _STRICTATIME = 0x400, 0x800, 1 << 21, 1 << 24
_SYNCHRONOUS, _DIRSYNC, _MANDLOCK = 0x10, 0x80, 0x40

# Word: flags to set, flags to clear.
_WORDS = {
    "defaults": (0, 0),
    "ro": (linux.MS_RDONLY, 0),
    "rw": (0, linux.MS_RDONLY),
    "nosuid": (linux.MS_NOSUID, 0),
    "suid": (0, linux.MS_NOSUID),
    "nodev": (linux.MS_NODEV, 0),
    "dev": (0, linux.MS_NODEV),
    "noexec": (linux.MS_NOEXEC, 0),
    "exec": (0, linux.MS_NOEXEC),
    "noatime": (_NOATIME, 0),
    "atime": (0, _NOATIME),
    "nodiratime": (_NODIRATIME, 0),
    "diratime": (0, _NODIRATIME),
    "relatime": (_RELATIME, 0),
    "norelatime": (0, _RELATIME),
    "strictatime": (_STRICTATIME, 0),
    "nostrictatime": (0, _STRICTATIME),
    "sync": (_SYNCHRONOUS, 0),
    "async": (0, _SYNCHRONOUS),
    "dirsync": (_DIRSYNC, 0),
    "mand": (_MANDLOCK, 0),
    "nomand": (0, _MANDLOCK),
    "remount": (linux.MS_REMOUNT, 0),
    "bind": (linux.MS_BIND, 0),
    "rbind": (linux.MS_BIND | linux.MS_REC, 0),
}


def parse_options(options: Iterable[str]) -> tuple[int, str]:
    """Flags, and what is the file system's own business, joined by commas."""
    flags = 0
    data = []
    for option in options:
        if option in _WORDS:
            enable, clear = _WORDS[option]
            flags = flags & ~clear | enable
        elif option:
            data.append(option)
    return flags, ",".join(data)
