"""Huge pages of the guest's kernel, set aside for as long as somebody needs them.

Source: Documentation/admin-guide/mm/hugetlbpage.rst.
"""

from collections.abc import Iterable

from kata.errors import HostError, UsageError
from kata.protocol.messages.oci import LinuxHugepageLimit

_COUNT = "/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages"
_UNITS = {"KB": 10, "MB": 20, "GB": 30}


class HugePages:
    """What is set aside, by who needs it."""

    def __init__(self) -> None:
        self._held: dict[str, list[tuple[int, int]]] = {}

    def reserve(self, owner: str, page: int, size: int) -> None:
        """Set aside `size` bytes in pages of `page` bytes, beside what others have. Raise UsageError, HostError."""
        count = -(-size // page)
        before = _read(page)
        available = _read_available_memory()
        # The kernel would try, and take what all others need.
        if count * page > available:
            raise _refuse(owner, page, count, available // page)
        given = _write(page, before + count) - before
        if given < count:
            _write(page, before)
            raise _refuse(owner, page, count, given)
        self._held.setdefault(owner, []).append((page, count))

    def release(self, owner: str) -> None:
        """Give back what was set aside for an owner; pages that are in use go when they are not any more."""
        for page, count in self._held.pop(owner, ()):
            _write(page, max(_read(page) - count, 0))


def _refuse(owner: str, page: int, count: int, given: int) -> HostError:
    return HostError(
        f"the guest's kernel can give {given} of {count} huge pages of {page} bytes for {owner}",
        hint="they are of the VM's memory: give it more",
    )


def find_limits(limits: Iterable[LinuxHugepageLimit]) -> list[tuple[int, int]]:
    """Return sizes of pages, and how many bytes of them a container may have. Raise UsageError for no size."""
    found = []
    for limit in limits:
        shift = _UNITS.get(limit.Pagesize[-2:])
        number = limit.Pagesize[:-2]
        if shift is None or not number.isdecimal():
            raise UsageError(f"{limit.Pagesize!r} is no size of huge pages", hint="such as 2MB")
        if limit.Limit:
            found.append((int(number) << shift, limit.Limit))
    return found


def _read_available_memory() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))


def _read(page: int) -> int:
    try:
        with open(_COUNT.format(page >> 10), encoding="ascii") as file:
            return int(file.read())
    except FileNotFoundError as error:
        raise UsageError(f"the guest has no huge pages of {page} bytes") from error


def _write(page: int, count: int) -> int:
    with open(_COUNT.format(page >> 10), "w", encoding="ascii") as file:
        file.write(str(count))
    return _read(page)
