"""How an engine says, by annotations, which containers share a pod and so a VM."""

from typing import Any, NamedTuple

from kata.errors import UsageError

_TYPE_KEYS = {
    "io.kubernetes.cri.container-type": "io.kubernetes.cri.sandbox-id",
    "io.kubernetes.cri-o.ContainerType": "io.kubernetes.cri-o.SandboxID",
    "io.kubernetes.docker.type": "io.kubernetes.sandbox.id",
}
_SANDBOX_TYPES = ("sandbox", "podsandbox")


class Place(NamedTuple):
    """The sandbox of a container, and whether it is there already (the container is not the pod's first)."""

    sandbox: str
    joins: bool


def find_place(spec: dict[str, Any], container: str) -> Place:
    """Return the sandbox that a container's annotations name; without any the container is alone in one of its own.

    Raise UsageError on a member of a pod that does not say of which.
    """
    annotations = spec.get("annotations") or {}
    for type_key, id_key in _TYPE_KEYS.items():
        kind = annotations.get(type_key)
        if kind in _SANDBOX_TYPES:
            return Place(container, joins=False)
        if kind == "container":
            sandbox = annotations.get(id_key)
            if not sandbox:
                raise UsageError(f"container {container} is of a pod by annotation {type_key}, but {id_key} is missing")
            return Place(sandbox, joins=True)
    return Place(container, joins=False)
