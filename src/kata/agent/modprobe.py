"""Kernel modules that the host asks for by name, from the image's module tree."""

import os

from kata.errors import HostError, NotFoundError
from kata.protocol.messages.agent import KernelModule
from kata.sys.module import load_module


def load_kernel_module(module: KernelModule) -> None:
    """Load a module and those that it depends on, as modules.dep says. One that is built in or loaded is fine.

    Raise NotFoundError, HostError.
    """
    base = f"/lib/modules/{os.uname().release}"
    name = module.name.replace("-", "_")
    if os.path.isdir(f"/sys/module/{name}"):
        return
    needed = _find_needed(base, name)
    if needed is None:
        raise NotFoundError(f"the guest's kernel has no module {module.name}")
    for path in reversed(needed):
        parameters = " ".join(module.parameters) if path == needed[0] else ""
        try:
            load_module(f"{base}/{path}", parameters)
        except OSError as error:
            raise HostError(f"kernel module {module.name} cannot be loaded: {path}: {error.strerror}") from error


def _find_needed(base: str, name: str) -> list[str] | None:
    """The module's file and then those it needs, a file before what it needs. Source: depmod(8), modules.dep(5)."""
    try:
        with open(f"{base}/modules.dep", encoding="utf-8") as file:
            for line in file:
                path, _, rest = line.partition(":")
                stem = os.path.basename(path).partition(".ko")[0]
                if stem.replace("-", "_") == name:
                    return [path, *rest.split()]
    except FileNotFoundError:
        return None
    return None
