"""Each vCPU on a processor of its own, where a pod was given as many processors as its VM has.

Source of the form of a list: cpuset(7), "List format".
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress

from kata.errors import HostError, UsageError

_MOST = 1 << 13
"""Processors that a kernel can be built for (NR_CPUS of x86)."""


def parse_cpus(text: str) -> set[int]:
    """Return the processors that a list such as `0-2,7` names. Raise UsageError for what is no list."""
    cpus: set[int] = set()
    for part in text.split(",") if text.strip() else ():
        first, dash, last = part.strip().partition("-")
        if not all(_is_number(word) for word in (first, last if dash else first)):
            raise UsageError(f"{text!r} is no list of processors", hint="such as 0-2,7")
        cpus |= set(range(int(first), int(last or first) + 1))
    return cpus


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= len(str(_MOST)) and int(word) < _MOST


def pin_threads(threads: Mapping[int, int], cpus: Iterable[int]) -> bool:
    """Keep each vCPU's thread on one of the processors, or all where as many as the vCPUs are not to be had.

    `threads` are thread ids by vCPU. Return whether they are pinned. Raise HostError.
    """
    allowed = os.sched_getaffinity(0)
    wanted = sorted(allowed.intersection(cpus))
    is_pinned = len(wanted) == len(threads)
    for index, thread in enumerate(threads[vcpu] for vcpu in sorted(threads)):
        with suppress(ProcessLookupError):  # the VM ends just now
            try:
                os.sched_setaffinity(thread, {wanted[index]} if is_pinned else allowed)
            except ProcessLookupError:
                raise
            except OSError as error:
                raise HostError(f"vCPU thread {thread} cannot be pinned: {error.strerror}") from error
    return is_pinned
