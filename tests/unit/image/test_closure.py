"""Which modules an agent can load."""

import pytest

from kata.errors import NotFoundError
from kata.image.rootfs.closure import Source, find_closure, find_imports


def _module(text: str) -> Source:
    return Source(text.encode(), is_package=False)


def _package(text: str = "") -> Source:
    return Source(text.encode(), is_package=True)


def test_an_import_inside_a_function_is_found() -> None:
    assert "json" in find_imports("a", _module("def f():\n    try:\n        import json\n    finally:\n        pass\n"))


def test_an_import_in_a_match_a_with_and_an_except_is_found() -> None:
    text = "match x:\n case 1:\n  import a1\nwith y:\n import b1\ntry:\n pass\nexcept E:\n import c1\n"

    assert find_imports("m", _module(text)) == {"a1", "b1", "c1"}


def test_imports_for_type_checkers_and_scripts_are_not_counted() -> None:
    text = "if TYPE_CHECKING:\n import a1\nelse:\n import b1\nif __name__ == '__main__':\n import c1\n"

    assert find_imports("m", _module(text)) == {"b1"}


def test_relative_imports_are_made_absolute() -> None:
    assert find_imports("p.q.m", _module("from . import a\nfrom ..r import b\n")) == {"p.q", "p.q.a", "p.r", "p.r.b"}
    assert find_imports("p.q", _package("from .m import *\n")) == {"p.q.m"}


def test_parents_and_what_they_import_come_along() -> None:
    sources = {"kata": _package("import base"), "kata.agent": _module(""), "base": _module(""), "other": _module("")}

    assert find_closure(["kata.agent"], sources, []) == {"kata", "kata.agent", "base"}


def test_shared_objects_are_part_of_it() -> None:
    assert find_closure(["a"], {"a": _module("import _fast, sys")}, ["_fast"]) == {"a", "_fast"}


def test_the_standard_library_does_not_bring_what_is_left_out() -> None:
    sources = {"kata": _package("import shutil"), "shutil": _module("import zipfile"), "zipfile": _module("")}

    assert find_closure(["kata"], sources, [], left_out=frozenset({"zipfile"})) == {"kata", "shutil"}


def test_our_own_module_may_ask_for_what_is_left_out() -> None:
    sources = {"kata": _package("import zipfile"), "zipfile": _module("")}

    assert find_closure(["kata"], sources, [], left_out=frozenset({"zipfile"})) == {"kata", "zipfile"}


def test_a_missing_root_is_named() -> None:
    with pytest.raises(NotFoundError, match=r"kata\.agent\.main"):
        find_closure(["kata.agent.main"], {}, [])
