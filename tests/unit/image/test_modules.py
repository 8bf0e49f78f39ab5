"""The order in which Debian's kernel modules load."""

import lzma

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import NotFoundError, ProtocolError
from kata.image.kernel.debian import LOAD_LIST, Modules, add_modules, decompress_module
from kata.image.kernel.modules import find_absent, format_dependencies, name_of, order_modules, parse_dependencies
from kata.image.rootfs.tree import Tree

_DEPENDENCIES = """\
kernel/fs/fuse/fuse.ko.xz:
kernel/fs/fuse/virtiofs.ko.xz: kernel/fs/fuse/fuse.ko.xz kernel/drivers/virtio/virtio.ko.xz
kernel/drivers/virtio/virtio.ko.xz:
kernel/drivers/block/loop.ko.xz:
"""


@st.composite
def _acyclic_graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    count = draw(st.integers(1, 12))
    files = [f"kernel/m{number}.ko" for number in range(count)]
    return {
        file: draw(st.lists(st.sampled_from(files[:number]), unique=True)) if number else []
        for number, file in enumerate(files)
    }


@given(_acyclic_graphs())
def test_every_module_stands_once_and_after_all_it_needs(graph: dict[str, list[str]]) -> None:
    ordered = order_modules(map(name_of, graph), graph, [])

    assert sorted(ordered) == sorted(graph)
    assert all(ordered.index(needed) < ordered.index(path) for path in graph for needed in graph[path])


def test_only_what_is_wanted_and_what_that_needs_is_taken() -> None:
    ordered = order_modules(["virtiofs"], parse_dependencies(_DEPENDENCIES), [])

    assert [name_of(path) for path in ordered] == ["fuse", "virtio", "virtiofs"]


def test_what_is_built_into_the_kernel_is_not_loaded() -> None:
    assert order_modules(["ext4"], {}, ["kernel/fs/ext4/ext4.ko"]) == []


def test_a_module_the_kernel_does_not_have_at_all_is_reported() -> None:
    dependencies = parse_dependencies(_DEPENDENCIES)

    assert find_absent(["fuse", "ext4", "9p"], dependencies, ["kernel/fs/ext4/ext4.ko"]) == ["9p"]


def test_dashes_and_underscores_are_the_same_in_a_modules_name() -> None:
    assert name_of("kernel/drivers/char/hw_random/virtio-rng.ko.xz") == "virtio_rng"


def test_modules_that_need_each_other_are_refused() -> None:
    circle = {"a.ko": ["b.ko"], "b.ko": ["a.ko"]}

    with pytest.raises(ProtocolError, match="needs itself"):
        order_modules(["a"], circle, [])


def test_a_dependency_that_is_not_listed_is_named_with_who_needs_it() -> None:
    with pytest.raises(NotFoundError, match=r"b\.ko, which a\.ko needs"):
        order_modules(["a"], {"a.ko": ["b.ko"]}, [])


def test_a_line_without_a_colon_is_refused() -> None:
    with pytest.raises(ProtocolError, match="without a colon"):
        parse_dependencies("kernel/fs/fuse.ko\n")


def test_a_compressed_module_is_stored_plain() -> None:
    assert decompress_module("kernel/a.ko.xz", lzma.compress(b"\x7fELF")) == ("kernel/a.ko", b"\x7fELF")


def test_the_load_list_names_the_files_in_order() -> None:
    tree = Tree()

    add_modules(tree, Modules({"lib/b.ko": b"b", "lib/a.ko": b"a", "lib/c.ko": b"c"}, ("lib/b.ko", "lib/a.ko")))

    assert tree.read(LOAD_LIST) == b"/lib/b.ko\n/lib/a.ko\n"
    assert tree.read("lib/c.ko") == b"c"


def test_the_guests_dependencies_name_the_files_it_has() -> None:
    dependencies = parse_dependencies(_DEPENDENCIES)

    text = format_dependencies(order_modules(["virtiofs"], dependencies, []), dependencies)

    assert parse_dependencies(text) == {
        "kernel/fs/fuse/fuse.ko": [],
        "kernel/drivers/virtio/virtio.ko": [],
        "kernel/fs/fuse/virtiofs.ko": ["kernel/fs/fuse/fuse.ko", "kernel/drivers/virtio/virtio.ko"],
    }
