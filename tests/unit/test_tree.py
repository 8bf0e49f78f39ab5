"""What holds for every file of the tree."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from kata.config.load import load_configuration
from kata.config.model import Configuration

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for folder in ("src", "tests", "bench") for path in (ROOT / folder).rglob("*.py"))
VAGUE = {"utils", "util", "helpers", "common", "misc", "manager"}


def test_no_module_is_longer_than_800_lines() -> None:
    long = {str(path.relative_to(ROOT)): count for path in MODULES if (count := _count_lines(path)) > 800}

    assert not long


def test_each_promise_of_the_specification_names_a_test_that_exists() -> None:
    promises = re.findall(r"\| `(tests/[^`]+)` \|$", (ROOT / "SPECIFICATION.md").read_text(), re.MULTILINE)

    assert len(promises) > 10
    for promise in promises:
        path, _, name = promise.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text() or not name, promise


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not [path for path in MODULES if path.stem in VAGUE]


def test_the_product_needs_nothing_but_the_standard_library() -> None:
    import sys  # noqa: PLC0415 - its list of names is what this test is about

    other_versions = {"_sha256", "_sha2"}  # the second is the first since Python 3.12
    allowed = set(sys.stdlib_module_names) | other_versions | {"kata"}
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in MODULES
        if path.is_relative_to(ROOT / "src")
        for name in _list_imports(path)
        if name not in allowed
    }

    assert not found


def test_the_installed_configuration_names_every_key_at_its_default(tmp_path: Path) -> None:
    text = (ROOT / "packaging" / "configuration.toml").read_text()
    path = tmp_path / "configuration.toml"
    path.write_text(re.sub(r"^#(?=\w)", "", text, flags=re.MULTILINE))

    assert load_configuration(str(path)) == Configuration(source=str(path))

    default = Configuration()
    missing = [
        key
        for table in (default.hypervisor, default.agent, default.runtime)
        for key in table._fields
        if f"\n#{key} = " not in text
    ]
    assert not missing


def test_the_configurations_documentation_is_what_its_model_says() -> None:
    done = subprocess.run(
        ["/usr/bin/python3", "-I", ROOT / "tools" / "write-config-docs", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_each_advisory_of_upstreams_has_a_test_that_exists() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs/reference/advisories.md").read_text())

    assert named
    assert not [(path, name) for path, name in named if f"def {name}(" not in (ROOT / path).read_text()]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"])
def test_the_file_that_visitors_look_for_is_there(name: str) -> None:
    assert (ROOT / name).read_text().strip()


def _count_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def _list_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found
