"""Pods, as engines mark them in a container's annotations.

Sources: containerd pkg/cri/annotations, CRI-O pkg/annotations, Podman libpod (which uses CRI-O's for the members of a
pod and marks the infra container not at all).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar

TYPE_KEYS = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType", "io.kubernetes.docker.type")
_ID_KEYS = ("io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID", "io.kubernetes.sandbox.id")


class Role(str):
    """A container's part in its pod, in the words that the guest's agent is told. No enumeration, as Code is none."""

    __slots__ = ()

    SANDBOX: ClassVar[Role]
    MEMBER: ClassVar[Role]
    SINGLE: ClassVar[Role]


Role.SANDBOX = Role("pod_sandbox")
Role.MEMBER = Role("pod_container")
Role.SINGLE = Role("single_container")

_ROLES = {"sandbox": Role.SANDBOX, "podsandbox": Role.SANDBOX, "container": Role.MEMBER}


def find_role(annotations: Mapping[str, str]) -> Role:
    """Return the role that the annotations give; without any, the container stands alone."""
    for key in TYPE_KEYS:
        if key in annotations:
            return _ROLES.get(annotations[key], Role.SINGLE)
    return Role.SINGLE


def is_pod(spec: Mapping[str, Any]) -> bool:
    """Say whether the container of an OCI spec stands for its pod only."""
    return find_role(spec.get("annotations") or {}) is Role.SANDBOX


def find_sandbox_id(annotations: Mapping[str, str], container_id: str) -> str:
    """Return the id of the sandbox that a container belongs to: its own id unless it is a member of a pod."""
    if find_role(annotations) is Role.MEMBER:
        for key in _ID_KEYS:
            if annotations.get(key):
                return annotations[key]
    return container_id
