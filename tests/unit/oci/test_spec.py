"""config.json: what is taken, and how what is not taken is named."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata import __version__
from kata.errors import UsageError
from kata.protocol.oci.default import make_spec
from kata.protocol.oci.features import describe_features
from kata.protocol.oci.spec import parse_process, parse_resources, parse_spec

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def change(path: str, value: Any) -> str:
    """Return the default specification with one value replaced; `...` removes it."""
    spec: Any = make_spec(["sh"])
    place = spec
    *folders, last = path.split(".")
    for name in folders:
        place = place[int(name) if name.isdigit() else name]
    key: Any = int(last) if last.isdigit() else last
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return json.dumps(spec)


def test_the_default_specification_is_valid_and_comes_back_as_it_was() -> None:
    spec = make_spec(["sh"]) | {"x-unknown": {"kept": True}}
    assert parse_spec(json.dumps(spec), "f") == spec


def test_two_default_specifications_share_nothing() -> None:
    first = make_spec(["sh"])
    untouched = copy.deepcopy(first)
    second = make_spec(["sh"])
    second["mounts"].clear()
    second["process"]["capabilities"]["bounding"].clear()
    assert first == untouched


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("ociVersion", ..., "ociVersion is missing"),
        ("ociVersion", "2.0.0", "ociVersion is 2.0.0; this runtime implements 1.x"),
        ("ociVersion", "one", "ociVersion is 'one', not a semantic version"),
        ("ociVersion", 1, "ociVersion must be a string, not a number"),
        ("root", ..., "root is missing"),
        ("root.path", "", "root.path is empty"),
        ("root.path", None, "root.path is missing"),
        ("process", ..., "process is missing"),
        ("process.args", [], "process.args is empty"),
        ("process.args.0", 7, "process.args[0] must be a string, not a number"),
        ("process.args.0", "a\0b", "process.args[0] holds a NUL character"),
        ("process.cwd", "tmp", "process.cwd must be an absolute path, not 'tmp'"),
        ("process.env", ["PATH"], "process.env[0] must be NAME=VALUE, not 'PATH'"),
        ("process.terminal", "yes", "process.terminal must be true or false, not a string"),
        ("process.user.uid", -1, "process.user.uid is -1, outside 0 to 4294967295"),
        ("process.user.uid", True, "process.user.uid must be an integer, not a boolean"),
        ("process.rlimits.0.hard", "9", "process.rlimits[0].hard must be an integer, not a string"),
        ("mounts.1.destination", ..., "mounts[1].destination is missing"),
        ("mounts", {}, "mounts must be an array, not an object"),
        ("linux", ..., "linux is missing"),
        ("linux.namespaces.0.type", "pod", "linux.namespaces[0].type is 'pod', not one of "),
        ("linux.namespaces.1", {"type": "pid"}, "linux.namespaces[1].type lists pid a second time"),
        (
            "linux.resources",
            {"memory": {"limit": "1G"}},
            "linux.resources.memory.limit must be an integer, not a string",
        ),
        ("annotations", {"a": 1}, 'annotations["a"] must be a string, not a number'),
        ("hooks", {"prestart": [{"path": "x"}]}, "hooks.prestart[0].path must be an absolute path, not 'x'"),
    ],
)
def test_an_error_names_the_file_the_path_and_the_problem(path: str, value: Any, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_spec(change(path, value), "/b/config.json")
    assert caught.value.message.startswith(f"/b/config.json: {problem}")


@pytest.mark.parametrize("text", ["", "{", "nonsense", b"\xff"])
def test_what_is_not_json_is_named(text: str | bytes) -> None:
    with pytest.raises(UsageError, match="f is not JSON"):
        parse_spec(text, "f")


@given(JSON)
def test_any_document_is_taken_or_refused_with_a_sentence(document: Any) -> None:
    for parse in (parse_spec, parse_process, parse_resources):
        try:
            parse(json.dumps(document), "f")
        except UsageError as error:
            assert error.message.startswith("f: ")  # noqa: PT017 - either outcome is right


@given(st.data(), JSON)
def test_any_change_to_a_valid_document_is_taken_or_refused_with_a_sentence(data: st.DataObject, value: Any) -> None:
    spec: Any = make_spec(["sh"])
    place = spec
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    try:
        parse_spec(json.dumps(spec), "f")
    except UsageError as error:
        assert error.message.startswith("f: ")  # noqa: PT017 - either outcome is right


def test_null_counts_as_absent_where_absence_is_allowed() -> None:
    parse_spec(change("mounts", None), "f")
    parse_spec(change("process.user", None), "f")


def test_features_name_the_versions_and_all_hooks() -> None:
    features = describe_features(__version__)
    assert features["ociVersionMax"].startswith("1.")
    assert len(features["hooks"]) == 6
    assert {"ro", "rro", "rslave"} <= set(features["mountOptions"])
    assert len(features["linux"]["capabilities"]) == 41
