"""The shim's command line, as containerd writes it: flags in Go's manner, then an action.

Source: containerd's runtime/v2/README.md. argparse is not used: importing it costs as much as all that `start` does.
"""

from __future__ import annotations

from kata.errors import UsageError

_TEXTS = ("address", "namespace", "id", "bundle", "publish-binary", "socket")
_SWITCHES = ("debug", "info", "version", "v", "help", "h")
_PREFIX, _SUFFIX = "containerd-shim-kata-", "-v2"
_TRUE = ("1", "t", "T", "true", "TRUE", "True")


class Invocation:
    """What containerd asked for. `action` is `start`, `delete`, or empty: serve.

    `flavour` is what the program's name says beyond `kata`: `qemu` for io.containerd.kata-qemu.v2, often empty.
    """

    __slots__ = ("action", "flavour", "switches", "texts")

    def __init__(self) -> None:
        self.action = ""
        self.flavour = ""
        self.switches: set[str] = set()
        self.texts: dict[str, str] = dict.fromkeys(_TEXTS, "")

    def require(self, name: str) -> str:
        """Return the value of a flag. Raise UsageError where it was not given."""
        if not self.texts[name]:
            raise UsageError(f"the flag -{name} is missing", hint="containerd gives it; this program is not for people")
        return self.texts[name]


def parse_flags(program: str, words: list[str]) -> Invocation:
    """Read the program's path and the words after it. Raise UsageError for a flag that is not known or lacks its value.

    `-socket` is ours: the daemon is told its listening socket's path by it.
    """
    invocation = Invocation()
    invocation.flavour = find_flavour(program)
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            invocation.action = word
            break
        name, equals, value = word.lstrip("-").partition("=")
        if name in _SWITCHES:
            if not equals or value in _TRUE:
                invocation.switches.add(name)
        elif name in _TEXTS:
            if not equals:
                following = next(rest, None)
                if following is None:
                    raise UsageError(f"flag needs an argument: -{name}")
                value = following
            invocation.texts[name] = value
        else:
            raise UsageError(f"flag provided but not defined: -{name}")
    return invocation


def find_flavour(program: str) -> str:
    """Return `qemu` for `containerd-shim-kata-qemu-v2`, which is how containerd spells io.containerd.kata-qemu.v2."""
    name = program.rpartition("/")[2]
    if not (name.startswith(_PREFIX) and name.endswith(_SUFFIX)):
        return ""
    return name[len(_PREFIX) : -len(_SUFFIX)]
