"""Which modules of Python an agent can load: found by reading its import statements, and theirs.

Reading, not running: a module that is imported inside a function is found too, before a guest misses it.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kata.errors import NotFoundError

# Imported by the standard library for things that an agent does not do, and guarded there by a fallback or by the
# function that needs them. Each would bring more of its kind, OpenSSL or a terminal library.
LEFT_OUT = frozenset(
    {
        "_bootstrap_external", "_hashlib", "_ssl", "argparse", "asyncio.windows_events",
        "asyncio.windows_utils", "bdb", "bz2", "cmd", "code", "codeop", "concurrent.futures.process",
        "ctypes.macholib", "curses", "decimal", "distutils", "doctest", "email", "fractions", "ftplib",
        "getopt", "gettext", "gzip", "html", "http", "importlib.metadata", "importlib.resources", "lzma",
        "multiprocessing", "netrc", "optparse", "pdb", "pickle", "pkgutil", "plistlib", "pydoc", "quopri",
        "readline", "rlcompleter", "runpy", "smtplib", "sqlite3", "ssl", "statistics", "tarfile", "tkinter",
        "tracemalloc", "turtle", "unittest", "urllib", "webbrowser", "xml", "xmlrpc", "zipfile", "zlib",
    }
)  # fmt: skip

OWN_PACKAGE = "kata"

# What the interpreter loads before it runs anything: encodings by name, the rest by its own start-up code.
START_UP = (
    "abc", "codecs", "encodings", "encodings.aliases", "encodings.ascii", "encodings.latin_1", "encodings.utf_8",
    "io", "os", "posixpath", "genericpath", "stat", "_collections_abc", "_sitebuiltins", "site", "zipimport",
    "importlib", "importlib._bootstrap", "importlib._bootstrap_external", "importlib.machinery", "importlib.util",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """A module's text (bytes of the .py file), and whether it is a package's `__init__`."""

    text: bytes
    is_package: bool


def find_closure(
    roots: Iterable[str],
    sources: Mapping[str, Source],
    compiled: Iterable[str],
    *,
    left_out: frozenset[str] = LEFT_OUT,
) -> set[str]:
    """Return the names of all modules that importing `roots` can load, the roots and parent packages with them.

    `sources` are the modules that exist as text, `compiled` those that exist as shared objects. Names that are neither
    are skipped: they are built in, or attributes, or belong to other systems. A module in `left_out` is taken only when
    a module of the package `kata` asks for it itself. Raises NotFoundError when a root is missing.
    """
    existing = set(sources) | set(compiled)
    waiting = list(roots)
    for root in waiting:
        if root not in existing:
            raise NotFoundError(f"there is no module {root} to put into the image")
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found or name not in existing:
            continue
        found.add(name)
        waiting += _parents(name)
        if source := sources.get(name):
            ours = name.partition(".")[0] == OWN_PACKAGE
            waiting += [wanted for wanted in find_imports(name, source) if ours or not _is_left_out(wanted, left_out)]
    return found


def find_imports(name: str, source: Source) -> set[str]:
    """The absolute names that the import statements in a module mention, wherever they stand."""
    package = name if source.is_package else name.rpartition(".")[0]
    found: set[str] = set()
    for node in _walk_imports(ast.parse(source.text).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            parent = package.split(".")
            parent = parent[: len(parent) - node.level + 1]
            base = ".".join([*parent, base] if base else parent)
        found.add(base)
        # `from package import name` may import the module package.name; if there is none it is skipped later.
        found |= {f"{base}.{alias.name}" for alias in node.names if alias.name != "*"}
    return found


def _walk_imports(block: Iterable[ast.AST]) -> Iterator[ast.Import | ast.ImportFrom]:
    # Statements only: an import never stands inside an expression, and those are nine tenths of a tree.
    for node in block:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and _never_runs(node.test):
            yield from _walk_imports(node.orelse)
        else:
            for inner in ("body", "handlers", "orelse", "finalbody", "cases"):
                if isinstance(statements := getattr(node, inner, None), list):
                    yield from _walk_imports(statements)


def _never_runs(test: ast.expr) -> bool:
    """`if TYPE_CHECKING:` and `if __name__ == "__main__":` are for others."""
    match test:
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return True
        case ast.Compare(left=ast.Name(id="__name__")):
            return True
    return False


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _is_left_out(name: str, left_out: frozenset[str]) -> bool:
    return any(part in left_out for part in [*_parents(name), name])
