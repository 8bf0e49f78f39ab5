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


_HOSTS = {
    True: ("a pod", "leave hostNetwork out of the pod, or choose a runtime class that runs it on the host"),
    False: ("a container", "give it a network of its own, or none (--network none), which is its loopback"),
}


def find_network_namespace(spec: Mapping[str, Any]) -> str | None:
    """Return the path of the network namespace of a spec, "" for a new one, None for a member of a pod that names none.

    Raise UnsupportedError for the host's network: what asks for that wants the host's interfaces, and a guest without
    any would only seem to run.
    """
    for namespace in (spec.get("linux") or {}).get("namespaces") or []:
        if namespace.get("type") == "network":
            return str(namespace.get("path") or "")
    role = find_role(spec.get("annotations") or {})
    if role is Role.MEMBER:
        return None
    what, hint = _HOSTS[role is Role.SANDBOX]
    raise UnsupportedError(f"{what} on the host's network cannot run in a VM", hint=hint)
