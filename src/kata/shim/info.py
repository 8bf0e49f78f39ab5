"""`-info`: what containerd 2 asks a shim about itself."""

import json
import sys

from kata import __version__
from kata.protocol.messages.google import Any
from kata.protocol.messages.task import RuntimeInfo, RuntimeVersion
from kata.protocol.oci.features import describe_features
from kata.shim.bootstrap import read_input
from kata.shim.flags import Invocation
from kata.shim.layers import CLAIM

_FEATURES_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"


def print_info(invocation: Invocation) -> int:
    """Write a RuntimeInfo message to standard output; the runtime's options on standard input come back in it."""
    options = read_input(0)
    name = f"kata-{invocation.flavour}" if invocation.flavour else "kata"
    info = RuntimeInfo(
        name=f"io.containerd.{name}.v2",
        version=RuntimeVersion(version=__version__),
        options=Any.decode(options) if options else None,
        annotations=dict([CLAIM]),
        features=Any(type_url=_FEATURES_TYPE, value=json.dumps(describe_features(__version__)).encode()),
    )
    sys.stdout.buffer.write(info.encode())
    return 0
