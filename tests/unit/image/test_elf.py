"""Shared libraries of programs, read from real ones."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import NotFoundError, ProtocolError
from kata.image.rootfs.elf import find_libraries, parse_needs
from kata.image.rootfs.tree import Tree, make_file, make_link

_PYTHON = Path(sys.executable).resolve().read_bytes()


def test_a_real_program_needs_the_c_library_and_a_loader() -> None:
    needs = parse_needs(_PYTHON)

    assert "libc.so.6" in needs.libraries
    assert needs.interpreter == "/lib64/ld-linux-x86-64.so.2"


@given(st.integers(0, 5000))
def test_a_file_that_is_cut_short_is_refused_or_understood(length: int) -> None:
    try:
        parse_needs(_PYTHON[:length])
    except ProtocolError:
        return
    assert length >= 64


@given(st.binary(max_size=200))
def test_bytes_after_the_magic_never_raise_anything_else(noise: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_needs(b"\x7fELF\x02\x01" + noise[:20])


def test_a_library_that_no_package_has_is_named_with_who_needs_it() -> None:
    tree = Tree()
    tree.add("usr/bin/python3", make_file(_PYTHON))

    with pytest.raises(NotFoundError, match=r"/usr/bin/python3 needs the library lib"):
        find_libraries(tree, ["usr/bin/python3"])


def test_a_script_needs_no_library() -> None:
    tree = Tree()
    tree.add("usr/bin/run", make_file(b"#!/bin/sh\n"))
    tree.add("usr/bin/alias", make_link("run"))

    assert find_libraries(tree, ["usr/bin/alias"]) == {}
