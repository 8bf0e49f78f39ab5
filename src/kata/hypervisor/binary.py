"""Where a VMM's program is, and whether it is new enough."""

import re
from typing import NamedTuple

from kata.errors import HostError, NotFoundError, UnsupportedError
from kata.sys.program import find_program
from kata.transport.toolversion import ask_version


class Product(NamedTuple):
    """A VMM as its vendor calls it. `table` is its configuration's, `printed` what `--version` says before the version.

    That is in numbers with dots. `oldest` is the first that does, and `package` says what to install.
    """

    name: str
    table: str
    printed: str
    oldest: tuple[int, ...]
    package: str = "it"


def find_binary(product: Product, path: str, state_directory: str | None) -> tuple[str, str]:
    """Path and version. Raise NotFoundError when there is none, UnsupportedError when it is too old, HostError."""
    found = find_program(path)
    if found is None:
        hint = f"install {product.package}, or set path in [hypervisor.{product.table}]"
        raise NotFoundError(f"there is no {product.name} at {path}", hint=hint)
    printed = ask_version(found, state_directory)
    match = re.search(rf"{re.escape(product.printed)}(\d+(?:\.\d+)+)", printed)
    if match is None:
        raise HostError(f"{found} --version printed no version of {product.name} but {printed!r}")
    version = match[1]
    if tuple(map(int, version.split("."))) < product.oldest:
        hint = f"{'.'.join(map(str, product.oldest))} or newer is needed"
        raise UnsupportedError(f"{product.name} {version} at {found} is too old", hint=hint)
    return found, version
