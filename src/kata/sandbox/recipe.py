"""What a template is made of, and the start of the process that makes it."""

import json
import os
import subprocess
from typing import Any, NamedTuple

from kata.config.model import AgentConfig, Configuration, FactoryConfig, HypervisorConfig, RuntimeConfig
from kata.resources.size import VmSize
from kata.sandbox.program import find_own_program
from kata.sandbox.template import MAKER_LOG


class Recipe(NamedTuple):
    """All that the maker of a template has to be told. `root` is the runtime's state directory.

    `cards` are the network cards of its copies, where a VM takes none while it runs.
    """

    root: str
    config: Configuration
    size: VmSize
    cards: int = 0


def write_recipe(recipe: Recipe) -> str:
    """Return it as JSON."""
    config = recipe.config
    tables = {name: getattr(config, name)._asdict() for name in _TABLES}
    size = recipe.size._asdict()
    own = {"root": recipe.root, "driver": config.driver, "size": size, "cards": recipe.cards}
    return json.dumps({**own, "config": tables})


def read_recipe(text: str) -> Recipe:
    """Return what `write_recipe` wrote."""
    document = json.loads(text)
    tables = {name: of(**_make_tuples(document["config"][name])) for name, of in _TABLES.items()}
    config = Configuration(**tables, driver=document["driver"])
    return Recipe(document["root"], config, VmSize(**document["size"]), document["cards"])


_TABLES: dict[str, Any] = {
    "hypervisor": HypervisorConfig,
    "agent": AgentConfig,
    "runtime": RuntimeConfig,
    "factory": FactoryConfig,
}


def _make_tuples(table: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def start_maker(recipe: Recipe) -> int:
    """Start a process of its own that makes a template, and return a descriptor: it begins when that is closed.

    It is as nice as can be, and no part of the pod that happened to be the first. Raise OSError.
    """
    place = recipe.config.factory.template_path
    os.makedirs(place, mode=0o700, exist_ok=True)
    log = os.open(f"{place}/{MAKER_LOG}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    theirs, ours = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(ours, write_recipe(recipe).encode())
        command = ["nice", "-n", "19", *find_own_program("maker")]
        subprocess.Popen(command, stdin=theirs, stdout=log, stderr=log, cwd="/", start_new_session=True)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
        os.close(log)
    return ours
