"""Randomness from the host: random(4). A VM that is a clone must not draw the numbers that its template drew."""

import fcntl
import os
import struct
import sys

from kata.errors import HostError, UsageError

# linux/random.h
_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207


def reseed(data: bytes) -> None:
    """Mix the host's bytes into the kernel's generator, count each as eight bits, and make it start anew.

    Python's own generator then starts anew too, by the kernel's. Raise UsageError without data, HostError.
    """
    if not data:
        raise UsageError("the host sent no bytes to seed the guest's random number generator with")
    try:
        descriptor = os.open("/dev/urandom", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _RNDADDENTROPY, struct.pack(f"ii{len(data)}s", len(data) * 8, len(data), data))
            fcntl.ioctl(descriptor, _RNDRESEEDCRNG)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(f"the guest's random number generator cannot be seeded: {error.strerror}") from error
    if "random" in sys.modules:
        sys.modules["random"].seed()
