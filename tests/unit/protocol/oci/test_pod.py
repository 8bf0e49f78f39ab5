import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.protocol.oci.pod import Role, find_role, find_sandbox_id

_CRI = "io.kubernetes.cri.container-type"
_CRIO = "io.kubernetes.cri-o.ContainerType"


@pytest.mark.parametrize(
    ("annotations", "role"),
    [
        ({}, Role.SINGLE),
        ({_CRI: "sandbox"}, Role.SANDBOX),
        ({_CRI: "container"}, Role.MEMBER),
        ({_CRIO: "sandbox"}, Role.SANDBOX),
        ({_CRIO: "container"}, Role.MEMBER),
        ({"io.kubernetes.docker.type": "podsandbox"}, Role.SANDBOX),
        ({_CRI: "something"}, Role.SINGLE),
        ({_CRI: "sandbox", _CRIO: "container"}, Role.SANDBOX),
    ],
)
def test_the_annotations_of_an_engine_give_the_role(annotations: dict[str, str], role: Role) -> None:
    assert find_role(annotations) is role


@pytest.mark.parametrize(
    ("kind", "key"),
    [(_CRI, "io.kubernetes.cri.sandbox-id"), (_CRIO, "io.kubernetes.cri-o.SandboxID")],
)
def test_a_member_is_in_the_sandbox_that_its_engine_names(kind: str, key: str) -> None:
    assert find_sandbox_id({kind: "container", key: "pod"}, "c") == "pod"
    assert find_sandbox_id({kind: "sandbox", key: "pod"}, "c") == "c"


def test_a_member_that_names_no_sandbox_is_its_own() -> None:
    assert find_sandbox_id({_CRI: "container", "io.kubernetes.cri.sandbox-id": ""}, "c") == "c"


@given(st.dictionaries(st.sampled_from([_CRI, _CRIO, "io.kubernetes.cri.sandbox-id", "x"]), st.text()))
def test_any_annotations_give_a_role_and_a_sandbox(annotations: dict[str, str]) -> None:
    assert isinstance(find_role(annotations), Role)
    assert find_sandbox_id(annotations, "c")
