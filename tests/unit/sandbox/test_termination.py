"""Which file of a container's has its termination message."""

import pytest

from kata.protocol.messages import oci
from kata.sandbox.termination import find_message_file
from kata.sandbox.translation import Shared

_SHARE = "/run/kata-containers/shared/containers"
_KUBELETS = "/var/lib/kubelet/pods/uid/containers/main/0a1b2c3d"
_ANNOTATION = "io.kubernetes.container.terminationMessagePath"


@pytest.mark.parametrize(
    ("source", "annotations", "options", "found"),
    [
        (_KUBELETS, {}, ["rbind", "rw"], True),
        (_KUBELETS, {}, ["rbind", "ro"], False),
        (_KUBELETS, {_ANNOTATION: "/elsewhere"}, ["rbind", "rw"], False),
        ("/srv/message", {_ANNOTATION: "/dev/termination-log"}, ["rbind", "rw"], True),
        ("/srv/message", {}, ["rbind", "rw"], False),
    ],
)
def test_it_is_told_by_an_annotation_or_by_the_kubelets_place(
    source: str, annotations: dict[str, str], options: list[str], found: bool
) -> None:
    mount = oci.Mount(destination="/dev/termination-log", source=f"{_SHARE}/name", options=options)
    spec = oci.Spec(Mounts=[mount], Annotations=annotations)
    assert find_message_file(spec, (Shared(source, "name", readonly=False),)) == (source if found else "")
    assert (spec.Annotations.get(_ANNOTATION) == "/dev/termination-log") is found
