"""Compile Python modules in a process that does nothing else.

`marshal` writes an object that is referenced once in another way than one referenced twice, so the bytes depend on
whatever else the process holds. A fresh process with a fixed hash seed holds the same things every time.

Standard input: a JSON list of [name, path to show in tracebacks, optimisation level, path of the text].
Argument: the directory that gets `<name>.pyc`, never checked against a source (PEP 552, unchecked hash).
"""

import importlib.util
import json
import marshal
import sys
from pathlib import Path

_UNCHECKED_HASH = (1).to_bytes(4, "little")
_NO_HASH = bytes(8)


def compile_modules(requests: list[tuple[str, str, int, str]], directory: Path) -> None:
    header = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + _NO_HASH
    for name, shown, level, text in requests:
        code = compile(Path(text).read_bytes(), shown, "exec", dont_inherit=True, optimize=level)
        (directory / f"{name}.pyc").write_bytes(header + marshal.dumps(code))


if __name__ == "__main__":
    compile_modules(json.load(sys.stdin), Path(sys.argv[1]))
