"""What a container left as its last words for Kubernetes: its termination message."""

from kata.errors import NotFoundError, UsageError
from kata.protocol.messages.oci import Spec

_ANNOTATION = "io.kubernetes.container.terminationMessagePath"
_LIMIT = 4096  # bytes; Kubernetes takes no more


def read_termination_log(container_id: str, spec: Spec) -> str:
    """The content of the file, empty when the container wrote none. Raise NotFoundError when it has no such file."""
    path = spec.Annotations.get(_ANNOTATION)
    source = next((entry.source for entry in spec.Mounts if path and entry.destination == path), None)
    if source is None:
        raise NotFoundError(f"container {container_id} has no mount for a termination message")
    try:
        with open(source, "rb") as file:
            return file.read(_LIMIT).decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UsageError(f"the termination message {source} cannot be read: {error.strerror}") from error
