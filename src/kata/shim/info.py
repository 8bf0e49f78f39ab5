"""`-info`: what containerd 2 asks a shim about itself."""

import sys

from kata import __version__
from kata.protocol.messages.task import RuntimeInfo, RuntimeVersion

RUNTIME = "io.containerd.kata.v2"


def print_info() -> int:
    """Write a RuntimeInfo message to standard output."""
    info = RuntimeInfo(name=RUNTIME, version=RuntimeVersion(version=__version__))
    sys.stdout.buffer.write(info.encode())
    return 0
