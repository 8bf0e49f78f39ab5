"""Which network namespace an OCI spec asks for.

Source: OCI runtime specification, config-linux.md#namespaces.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def find_network_namespace(spec: Mapping[str, Any]) -> str | None:
    """Return the path of the network namespace of a spec, "" for a new one, None for the host's."""
    for namespace in (spec.get("linux") or {}).get("namespaces") or []:
        if namespace.get("type") == "network":
            return str(namespace.get("path") or "")
    return None
