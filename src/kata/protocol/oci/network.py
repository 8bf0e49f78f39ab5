"""Which network namespace an OCI spec asks for.

Source: OCI runtime specification, config-linux.md#namespaces.
"""

from __future__ import annotations

from kata.errors import UnsupportedError
from kata.protocol.oci.pod import Role, find_role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def find_network_namespace(spec: Mapping[str, Any]) -> str | None:
    """Return the path of the network namespace of a spec, "" for a new one, None for the host's.

    Raise UnsupportedError for a pod on the host's network: what asks for that wants the host's interfaces, and a guest
    without any would only seem to run.
    """
    for namespace in (spec.get("linux") or {}).get("namespaces") or []:
        if namespace.get("type") == "network":
            return str(namespace.get("path") or "")
    if find_role(spec.get("annotations") or {}) is Role.SANDBOX:
        raise UnsupportedError(
            "a pod on the host's network cannot run in a VM",
            hint="leave hostNetwork out of the pod, or choose a runtime class that runs it on the host",
        )
    return None
