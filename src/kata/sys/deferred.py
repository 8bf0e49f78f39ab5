"""Modules of the standard library that asyncio imports at its start and a healthy daemon or agent hardly uses.

They are stood in for: what is asked of them at import (constants, a function to keep for later) is here, and the first
use of anything else loads the real module. That halves the processor time of asyncio's import.
Python's own way, importlib.util.LazyLoader, loads at the first access already, and asyncio has one of those for each of
them at import.

TLS, which nothing here speaks, is left out for good: OpenSSL would cost each daemon 4 MB of memory.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

_FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "asyncio.sslproto": (),
    "asyncio.staggered": (),
    "concurrent.futures": (),
    "inspect": ("isgenerator",),
    "linecache": (),
    "logging": (),
    "subprocess": (),
    "traceback": ("extract_stack",),
}
_CONSTANTS: Mapping[str, Mapping[str, object]] = {
    "concurrent.futures": {name: name for name in ("FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED")},
    "logging": {"DEBUG": 10},
    "subprocess": {"PIPE": -1, "STDOUT": -2, "DEVNULL": -3},
}

_CO_COROUTINE = 0x80  # Include/cpython/code.h


class DeferredModule(ModuleType):
    """Stands in for a module until it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks of every module
            raise AttributeError(name)
        return getattr(load_real(self.__name__), name)


class DeferredLogger:
    """A logger that is made when somebody logs."""

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, *_: object) -> None:
        """Drop it, as the real one does while nobody has asked for it: each event loop says which selector it uses."""

    def __getattr__(self, name: str) -> Any:
        return getattr(load_real("logging").getLogger(self._name), name)


def is_coroutine_function(value: Any) -> bool:
    """Answer for inspect.iscoroutinefunction, which the event loop asks of each signal handler."""
    while hasattr(value, "func"):  # functools.partial
        value = value.func
    code = getattr(value, "__code__", None)
    return code is not None and bool(code.co_flags & _CO_COROUTINE)


_REPLACEMENTS: Mapping[str, Mapping[str, object]] = {
    "inspect": {"iscoroutinefunction": is_coroutine_function},
    "logging": {"getLogger": DeferredLogger},
}


def defer_modules() -> None:
    """Stand in for the modules that are not imported yet. Call it before asyncio is imported."""
    # None makes an import fail, as where Python was built without TLS. Source: The Python Language Reference, 5.3.1.
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # typeshed knows modules only
    for name, functions in _FUNCTIONS.items():
        if name in sys.modules:
            continue
        module = DeferredModule(name)
        module.__dict__.update(_CONSTANTS.get(name, {}))
        module.__dict__.update({function: _forward(name, function) for function in functions})
        module.__dict__.update(_REPLACEMENTS.get(name, {}))
        sys.modules[name] = module
        if name == "concurrent.futures":
            # Found as an attribute; those of asyncio are found by name, since their package is still being imported.
            import_module("concurrent").__dict__["futures"] = module


def _forward(module: str, function: str) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(load_real(module), function)(*arguments, **options)

    return call


def load_real(name: str) -> ModuleType:
    """Import the real module in place of what stands for it."""
    if isinstance(sys.modules.get(name), DeferredModule):
        del sys.modules[name]
    return import_module(name)
