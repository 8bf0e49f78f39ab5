from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import UsageError
from kata.protocol.messages import oci
from kata.protocol.oci.default import make_spec
from kata.protocol.oci.document import load_message

_KEYS = st.sampled_from(
    [
        "process",
        "Process",
        "args",
        "user",
        "uid",
        "linux",
        "resources",
        "memory",
        "limit",
        "rlimits",
        "hard",
        "root",
        "mounts",
        "options",
        "annotations",
        "hooks",
        "prestart",
        "ociVersion",
        "unified",
        "x",
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


def test_the_names_of_oci_find_the_fields_of_the_protocol() -> None:
    spec = load_message(oci.Spec, make_spec(["sh", "-c", "true"]), "config.json")
    assert spec.Version.startswith("1.")
    assert spec.Process is not None
    assert spec.Process.Args == ["sh", "-c", "true"]
    assert oci.Spec.decode(spec.encode()) == spec


def test_null_is_absent_and_what_has_no_field_is_left_out() -> None:
    assert load_message(oci.Spec, {"process": None, "x-unknown": [1]}, "f") == oci.Spec()


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ([], "f is list, not an object"),
        ({"process": 1}, "f.process is int, not an object"),
        ({"process": {"args": "sh"}}, "f.process.args is str, not a list"),
        ({"process": {"args": ["sh", None]}}, r"f.process.args\[1\] is null, not str"),
        ({"process": {"terminal": 1}}, "f.process.terminal is int, not bool"),
        ({"annotations": {"a": 1}}, "f.annotations.a is int, not str"),
        ({"process": {"user": {"uid": True}}}, "f.process.user.uid is bool, not int"),
        ({"process": {"user": {"uid": -1}}}, "f.process.user.uid is -1, outside 0 to 4294967295"),
        ({"process": {"user": {"uid": 1 << 32}}}, "f.process.user.uid is 4294967296, outside 0 to 4294967295"),
        (
            {"process": {"user": {"additionalGids": [0, 1 << 40]}}},
            r"additionalGids\[1\] is 1099511627776, outside 0",
        ),
        (
            {"process": {"rlimits": [{"hard": 1 << 64}]}},
            r"f.process.rlimits\[0\].hard is 1844.*, outside 0",
        ),
        ({"linux": {"resources": {"memory": {"limit": 1 << 63}}}}, "f.linux.resources.memory.limit is .*, outside -"),
    ],
)
def test_what_does_not_fit_its_field_is_named_by_its_place(document: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        load_message(oci.Spec, document, "f")


@given(_JSON)
def test_a_document_is_refused_by_its_place_or_crosses_the_wire_unchanged(document: Any) -> None:
    try:
        spec = load_message(oci.Spec, document, "f")
    except UsageError as error:
        assert error.message.startswith("f")  # noqa: PT017 - either outcome is right
        return
    assert oci.Spec.decode(spec.encode()) == spec


@given(st.integers())
def test_a_number_is_refused_or_crosses_the_wire_unchanged(number: int) -> None:
    for name in ("limit", "swap", "swappiness"):
        try:
            memory = load_message(oci.LinuxMemory, {name: number}, "f")
        except UsageError as error:
            assert f"f.{name} is {number}, outside" in error.message  # noqa: PT017 - either outcome is right
        else:
            assert getattr(oci.LinuxMemory.decode(memory.encode()), name.capitalize()) == number
