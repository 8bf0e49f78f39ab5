"""The build cache, the artefacts, and what apt says."""

import json
import sys
from pathlib import Path

import pytest

from kata.errors import HostError, NotFoundError, UnsupportedError
from kata.image import artefact
from kata.image.apt import Package, parse_plan
from kata.image.kernel.source import choose_package
from kata.image.rootfs.agent import read_sources
from kata.image.rootfs.build import write_erofs
from kata.image.rootfs.bytecode import DROP_DOCSTRINGS, KEEP_ALL, Library, check_interpreter, compile_library
from kata.image.rootfs.closure import Source
from kata.image.rootfs.tree import Tree, make_file
from kata.image.store import Store, hash_inputs
from kata.image.tool import require_tools, run_tool


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def produce(directory: Path) -> None:
        made.append(directory)
        (directory / "file").write_text("x")

    store = Store(tmp_path)
    first, second = store.fill("kernel", "k", produce), store.fill("kernel", "k", produce)

    assert first == second
    assert (first / "file").read_text() == "x"
    assert len(made) == 1


def test_a_build_that_failed_leaves_no_entry_and_no_scraps(tmp_path: Path) -> None:
    def produce(directory: Path) -> None:
        (directory / "half").write_text("x")
        raise HostError("the compiler died")

    store = Store(tmp_path)
    with pytest.raises(HostError):
        store.fill("kernel", "k", produce)

    assert store.find("kernel", "k") is None
    assert [path.name for path in (tmp_path / "kernel").iterdir()] == [".lock"]


def test_the_order_of_inputs_does_not_change_their_hash() -> None:
    assert hash_inputs({"a": 1, "b": [2]}) == hash_inputs({"b": [2], "a": 1})
    assert hash_inputs({"a": 1}) != hash_inputs({"a": 2})


def test_a_published_artefact_is_what_its_sidecar_says(tmp_path: Path) -> None:
    (tmp_path / "built").write_bytes(b"kernel")
    target = tmp_path / "share" / "vmlinuz.container"

    made = artefact.publish(tmp_path / "built", target, kind="kernel-bzimage", version="6.12", inputs={"a": 1})

    assert artefact.find_artefacts(target.parent) == {target: made}
    artefact.verify(target, made)
    assert sorted(path.name for path in target.parent.iterdir()) == ["vmlinuz.container", "vmlinuz.container.json"]


def test_an_artefact_that_was_changed_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "built").write_bytes(b"kernel")
    target = tmp_path / "image"
    made = artefact.publish(tmp_path / "built", target, kind="initrd", version="1", inputs={})
    target.write_bytes(b"Kernel")

    with pytest.raises(HostError, match="its sidecar says"):
        artefact.verify(target, made)


def test_a_sidecar_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.json").write_text(json.dumps({"name": "image"}))

    with pytest.raises(HostError, match="is not the sidecar"):
        artefact.load_sidecar(tmp_path / "image")


def test_the_plan_of_apt_is_read() -> None:
    plan = (
        "Inst libc6 (2.36-9 Debian:12/stable [amd64])\nInst gcc-12-base (12.2 Debian:12 [amd64]) []\nConf libc6 (x)\n"
    )

    assert parse_plan(plan) == [Package("gcc-12-base", "12.2", "amd64"), Package("libc6", "2.36-9", "amd64")]


def test_the_newest_kernel_source_that_is_new_enough_is_chosen() -> None:
    assert choose_package(["linux-source-6.1", "linux-source-6.12", "linux-source-6.9"]) == "linux-source-6.12"
    assert choose_package(["linux-source-6.1"]) is None


def test_missing_programs_are_named_all_at_once_with_their_packages() -> None:
    with pytest.raises(HostError, match=r"no-such-a, no-such-b \(apt-get install one two\)"):
        require_tools({"no-such-a": "one", "no-such-b": "two", "sh": "dash"})


def test_the_end_of_what_a_failing_tool_said_is_quoted() -> None:
    with pytest.raises(HostError, match=r"cannot test: sh exited with status 3 \(it said:\nthe reason\)"):
        run_tool(["sh", "-c", "echo the reason >&2; exit 3"], purpose="test", timeout=30)


def test_a_tool_that_hangs_is_given_up() -> None:
    with pytest.raises(HostError, match="did not end within"):
        run_tool(["tail", "-f", "/dev/null"], purpose="test", timeout=0.1)


def test_a_tree_without_an_agent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()

    with pytest.raises(NotFoundError, match=r"no agent/main\.py"):
        read_sources(tmp_path)


def test_only_what_the_guest_may_have_is_read(tmp_path: Path) -> None:
    for path in ("__init__.py", "agent/__init__.py", "agent/main.py", "cli/__init__.py", "cli/main.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()

    assert set(read_sources(tmp_path)) == {"kata", "kata.agent", "kata.agent.main"}


def test_another_python_than_the_guests_does_not_compile_for_it() -> None:
    with pytest.raises(UnsupportedError, match=r"3\.4"):
        check_interpreter((3, 4))


_TEXT = b'''"""Documentation that takes room."""

NAMES = ("a", "b")


def find(name):
    "More of it."
    return name in {1, "x"}
'''


@pytest.mark.parametrize("level", [KEEP_ALL, DROP_DOCSTRINGS])
def test_bytecode_is_the_same_in_every_build(tmp_path: Path, level: int) -> None:
    library = Library("usr/lib/x", {"p": Source(b"", is_package=True), "p.m": Source(_TEXT, is_package=False)})

    builds = [compile_library(Store(tmp_path / name), library, {"p", "p.m"}, level) for name in ("a", "b")]

    assert builds[0] == builds[1]
    assert set(builds[0]) == {"usr/lib/x/p/__init__.pyc", "usr/lib/x/p/m.pyc"}


def test_bytecode_without_its_source_is_imported(tmp_path: Path) -> None:
    library = Library("lib", {"sample": Source(_TEXT, is_package=False)})
    for path, code in compile_library(Store(tmp_path / "cache"), library, {"sample"}, DROP_DOCSTRINGS).items():
        (tmp_path / Path(path).name).write_bytes(code)

    said = run_tool(
        [sys.executable, "-S", "-c", "import sample; print(sample.NAMES, sample.__doc__)"],
        purpose="import",
        timeout=30,
        cwd=tmp_path,
    )

    assert said == b"('a', 'b') None\n"


def test_two_images_of_the_same_tree_are_the_same_bytes(tmp_path: Path) -> None:
    require_tools({"mkfs.erofs": "erofs-utils"})
    tree = Tree()
    tree.add("usr/bin/tool", make_file(b"tool" * 5000, 0o755))
    tree.add("etc/hostname", make_file(b"kata\n"))

    for name in ("one", "two"):
        write_erofs(tree, tmp_path / name, "none")

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
