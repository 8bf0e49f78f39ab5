"""The sandboxes of this node, as the monitor tells them apart: by id, containerd's namespace, and the pod's names."""

from dataclasses import dataclass, field

from kata.errors import NotFoundError, UsageError
from kata.sandbox import store
from kata.sandbox.management import SOCKET_NAME

_POD_KEYS = {
    "cri_uid": ("io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"),
    "cri_name": ("io.kubernetes.cri.sandbox-name", "io.kubernetes.cri-o.KubeName", "io.kubernetes.pod.name"),
    "cri_namespace": (
        "io.kubernetes.cri.sandbox-namespace",
        "io.kubernetes.cri-o.Namespace",
        "io.kubernetes.pod.namespace",
    ),
}
"""Labels of upstream's monitor, each with the annotations of containerd and CRI-O that hold its value."""


@dataclass(frozen=True, slots=True)
class MonitoredSandbox:
    """A sandbox with a living daemon. `key` is its name on the disk; `labels` tell its figures from others'."""

    key: str
    socket: str
    labels: dict[str, str] = field(default_factory=dict)


def list_monitored(root: str) -> list[MonitoredSandbox]:
    """Return the sandboxes under a state directory that somebody serves, by key."""
    annotations: dict[str, dict[str, str]] = {}
    for record in store.list_containers(root):
        key = store.make_key(record.sandbox, record.namespace)
        annotations.setdefault(key, {}).update(record.annotations or {})
    return [
        MonitoredSandbox(
            key, f"{store.find_sandbox_dir(root, key)}/{SOCKET_NAME}", _label(key, annotations.get(key, {}))
        )
        for key in store.list_sandboxes(root)
        if store.is_served(store.find_sandbox_dir(root, key))
    ]


def _label(key: str, annotations: dict[str, str]) -> dict[str, str]:
    """Return a sandbox's labels. The same id in two of containerd's namespaces is told apart by the namespace."""
    name, _, namespace = key.partition("+")
    labels = {"sandbox_id": name}
    if namespace:
        labels["containerd_namespace"] = namespace
    for label, keys in _POD_KEYS.items():
        value = next((annotations[key] for key in keys if annotations.get(key)), "")
        if value:
            labels[label] = value
    return labels


def choose_sandbox(sandboxes: list[MonitoredSandbox], word: str) -> MonitoredSandbox:
    """Return the sandbox of this key or id, or the only one whose id begins with it.

    Raise NotFoundError without one, UsageError where several fit.
    """
    exact = [one for one in sandboxes if word in (one.key, one.labels["sandbox_id"])]
    found = exact or [one for one in sandboxes if word and one.key.startswith(word)]
    if not found:
        raise NotFoundError(f"sandbox {word} does not run on this node")
    if len(found) > 1:
        raise UsageError(f"{word} is the beginning of {len(found)} sandboxes", hint="give more of the id")
    return found[0]
