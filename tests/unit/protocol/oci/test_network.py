"""Which network namespace a spec asks for."""

from typing import Any

import pytest

from kata.errors import UnsupportedError
from kata.protocol.oci.network import find_network_namespace

_POD = {"io.kubernetes.cri.container-type": "sandbox"}
_MEMBER = {"io.kubernetes.cri.container-type": "container"}


def _describe(*namespaces: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"linux": {"namespaces": [{"type": "mount"}, *namespaces]}, **more}


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (_describe(annotations=_MEMBER), None),
        (_describe({"type": "network"}), ""),
        (_describe({"type": "network", "path": "/run/netns/a"}), "/run/netns/a"),
        (_describe({"type": "network", "path": "/run/netns/a"}, annotations=_POD), "/run/netns/a"),
    ],
)
def test_the_namespace_of_a_spec_is_found(spec: dict[str, Any], wanted: str | None) -> None:
    assert find_network_namespace(spec) == wanted


@pytest.mark.parametrize(
    ("spec", "what"), [({}, "a container"), (_describe(), "a container"), (_describe(annotations=_POD), "a pod")]
)
def test_the_hosts_network_is_refused(spec: dict[str, Any], what: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{what} on the host's network cannot run in a VM"):
        find_network_namespace(spec)
