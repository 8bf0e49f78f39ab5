"""A saved VM as QEMU reads it: its memory from a file, all the rest from a stream."""

import fcntl
import os

from kata.errors import HostError, NotFoundError
from kata.hypervisor.memory import copy_memory
from kata.hypervisor.saved import MEMORY, STATE


class SavedVm:
    """The files of a saved VM, opened once: they stay what they are, whoever removes them meanwhile.

    `state` is the end of a pipe that a QEMU is to read from: newer ones take no plain file for a stream.
    """

    def __init__(self, directory: str) -> None:
        """Raise NotFoundError when there is no saved VM in the directory, HostError."""
        self._open: list[int] = []
        try:
            self._memory = self._keep(os.open(f"{directory}/{MEMORY}", os.O_RDONLY | os.O_CLOEXEC))
            self._source = self._keep(os.open(f"{directory}/{STATE}", os.O_RDONLY | os.O_CLOEXEC))
            self.state, self._sink = (self._keep(end) for end in os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
            self._size = os.fstat(self._source).st_size
            fcntl.fcntl(self._sink, fcntl.F_SETPIPE_SZ, max(self._size, 1 << 16))
        except OSError as error:
            self.close()
            if isinstance(error, FileNotFoundError):
                raise NotFoundError(f"there is no saved VM at {directory}") from error
            raise HostError(f"the saved VM at {directory} cannot be read: {error.strerror}") from error

    def _keep(self, descriptor: int) -> int:
        self._open.append(descriptor)
        return descriptor

    def fill(self, memory: int) -> None:
        """Put what the guest had in memory into `memory`, and the rest into the pipe. Raise HostError.

        Blocks for a millisecond or two a MiB, while QEMU starts on another processor.
        """
        try:
            copy_memory(self._memory, memory)
            sent = os.sendfile(self._sink, self._source, 0, self._size)
        except OSError as error:
            raise HostError(f"a saved VM cannot be copied: {error.strerror}") from error
        if sent != self._size:
            raise HostError(f"a saved VM cannot be copied: a pipe took {sent} of {self._size} bytes")
        self._open.remove(self._sink)
        os.close(self._sink)  # the end of what there is to read

    def close(self) -> None:
        """Close every descriptor. May be repeated."""
        while self._open:
            os.close(self._open.pop())
