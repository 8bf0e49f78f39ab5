"""What the host sees as a process's command line. Source: proc(5), /proc/PID/cmdline and fields 48 to 51 of stat."""

import ctypes
import os
from collections.abc import Sequence


def show_arguments(words: Sequence[str]) -> None:
    """Have /proc show other arguments than this process was started with. Call when its first environment is unused.

    For a process that becomes another program without exec: operators look for a sandbox's daemon by its command line.
    What does not fit into its old arguments is one word with spaces, which the kernel lets run on into the old
    environment, and cuts at its end.
    """
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end, last = int(fields[45]), int(fields[46]), int(fields[48])
    text = b"".join(os.fsencode(word) + b"\0" for word in words)
    if len(text) > end - start:
        text = text.rstrip(b"\0").replace(b"\0", b" ")[: last - start - 1] + b"\0"
    ctypes.memmove(start, text.ljust(end - start, b"\0"), max(len(text), end - start))
