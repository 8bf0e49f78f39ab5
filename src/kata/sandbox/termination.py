"""The termination message of a Kubernetes container, taken back to the host where the guest has a copy of its file.

Kubernetes mounts the file where `terminationMessagePath` says, and reads it when the container has ended:

    <root>/pods/<uid>/containers/<name>/<id>

Source: Kubernetes, pkg/kubelet/kubelet_pods.go and kuberuntime_container.go.
"""

import os
import stat
from collections.abc import Callable
from functools import partial
from typing import Any

from kata.errors import HostError, KataError
from kata.observe.log import Log
from kata.protocol.messages import oci
from kata.sandbox.guest import Guest
from kata.sandbox.guestpaths import GUEST_SHARE
from kata.sandbox.translation import Shared

_ANNOTATION = "io.kubernetes.container.terminationMessagePath"
_MOST_BYTES = 4096
"""Kubernetes takes no more."""

Look = Callable[[Callable[[], Any]], Any]
"""Does something where the host's files are as the engine sees them."""


class TerminationMessage:
    """The file of one container, at `path` on the host."""

    def __init__(self, guest: Guest, container: str, path: str, look: Look, log: Log) -> None:
        self._guest = guest
        self._container = container
        self._path = path
        self._look = look
        self._log = log

    async def take_back(self) -> None:
        """Write to the host's file what the container wrote to its own, before anybody is told of its end."""
        try:
            text = await self._guest.read_termination_message(self._container)
            if text:
                self._look(partial(_write, self._path, text.encode(errors="replace")[:_MOST_BYTES]))
        except (KataError, OSError) as error:
            self._log.write("warning", f"the termination message of container {self._container} is lost: {error}")


def find_message_file(spec: oci.Spec, shared: tuple[Shared, ...]) -> str:
    """Return the host's file of a container's termination message, empty where it has none.

    The agent finds the guest's copy by an annotation, which engines leave out and this adds.
    """
    sources = {f"{GUEST_SHARE}/{one.name}": one.source for one in shared}
    place = spec.Annotations.get(_ANNOTATION)
    for mount in spec.Mounts:
        source = sources.get(mount.source, "")
        if source and "ro" not in mount.options and (mount.destination == place or (not place and _is_message(source))):
            spec.Annotations = {**spec.Annotations, _ANNOTATION: mount.destination}
            return source
    return ""


def _is_message(path: str) -> bool:
    parts = os.path.normpath(path).split("/")
    return len(parts) > 5 and (parts[-5], parts[-3]) == ("pods", "containers")


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise HostError(f"{path} is no file")
        os.truncate(descriptor, 0)
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
