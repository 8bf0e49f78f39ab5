"""What `start` is told on its standard input, and the form in which its answer is expected: both changed over time.

| containerd | input | answer |
|---|---|---|
| 1.6 | runtime options | the plain address |
| 1.7 to 2.2 | runtime options | JSON; it sets MAX_SHIM_VERSION, which 1.6 does not |
| CRI-O | nothing | the plain address; it sets MAX_SHIM_VERSION, but has no address for events |
| 2.3 and newer | BootstrapParams with the options among its extensions | BootstrapResult |

The Task service is told as version 3 where containerd is known to understand it: 1.7 refuses more than 2, and nothing
tells it from 2.0 but the bundle of a sandbox, which has another place since 2.0.

Source: containerd's runtime/v2/binary.go and shim.go of these versions, and runtime/v2/command.go of 2.4; CRI-O's
internal/oci/runtime_vm.go.
"""

from __future__ import annotations

import os
import select

from kata.errors import DeadlineError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from kata.protocol.messages.bootstrap import BootstrapParams

_INPUT_TIMEOUT_MS = 5000
_INPUT_LIMIT = 4 << 20
_CHUNK = 1 << 16
_SANDBOX_PLACE = "/io.containerd.sandbox.controller.v1.shim/"


class Bootstrap:
    """What containerd said. `options` is an encoded `google.protobuf.Any`, or empty; `form` is that of the answer."""

    __slots__ = ("debug", "form", "options", "socket_dir", "ttrpc_address")

    def __init__(self, form: str, options: bytes) -> None:
        self.form = form
        self.options = options
        self.debug = False
        self.socket_dir = ""
        self.ttrpc_address = ""


def read_input(descriptor: int) -> bytes:
    """Return all that is on standard input, nothing from a terminal. Raise DeadlineError, or UsageError over 4 MiB."""
    if os.isatty(descriptor):
        return b""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    data = b""
    while True:
        if not poller.poll(_INPUT_TIMEOUT_MS):
            raise DeadlineError("standard input does not end", hint="end it, or give /dev/null")
        chunk = os.read(descriptor, _CHUNK)
        if not chunk:
            return data
        data += chunk
        if len(data) > _INPUT_LIMIT:
            raise UsageError(f"standard input has more than {_INPUT_LIMIT} bytes")


def parse_input(data: bytes, container: str, namespace: str, environment: Mapping[str, str]) -> Bootstrap:
    """Tell by the input and the environment which containerd this is.

    Options parse as BootstrapParams too, so those count only with the id and the namespace that the flags gave.
    """
    if container.encode() in data and namespace.encode() in data:
        from kata.protocol.messages.bootstrap import LEVEL_DEBUG, BootstrapParams  # noqa: PLC0415 - not all need it

        params = BootstrapParams.decode(data)
        if (params.instance_id, params.namespace) == (container, namespace):
            bootstrap = Bootstrap("protobuf", _find_options(params))
            bootstrap.debug = params.log_level <= LEVEL_DEBUG
            bootstrap.socket_dir = params.socket_dir
            bootstrap.ttrpc_address = params.containerd_ttrpc_address
            return bootstrap
    reads_json = "MAX_SHIM_VERSION" in environment and environment.get("TTRPC_ADDRESS")
    return Bootstrap("json" if reads_json else "address", data)


def _find_options(params: BootstrapParams) -> bytes:
    for extension in params.extensions:
        if extension.value is not None and extension.value.type_url.endswith("Options"):
            return extension.value.encode()
    return b""


def format_answer(form: str, address: str, bundle: str) -> bytes:
    """Return what `start` prints."""
    if form == "protobuf":
        from kata.protocol.messages.bootstrap import BootstrapResult  # noqa: PLC0415 - not all need it

        return BootstrapResult(version=3, address=address, protocol="ttrpc").encode()
    if form == "json":
        version = 3 if _SANDBOX_PLACE in bundle else 2
        return f'{{"version":{version},"address":"{address}","protocol":"ttrpc"}}'.encode()
    return address.encode()
