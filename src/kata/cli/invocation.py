"""What the user typed, as a command's function sees it."""

from kata.cli.flags import Value
from kata.cli.log import Log


class Invocation:
    """Global flags, the command's own, its arguments, how many of them came before `--` (-1 without), and the log."""

    __slots__ = ("arguments", "flags", "globals", "log", "root", "separated")

    def __init__(
        self, general: dict[str, Value], flags: dict[str, Value], arguments: list[str], separated: int, log: Log
    ) -> None:
        self.globals = general
        self.flags = flags
        self.arguments = arguments
        self.separated = separated
        self.log = log
        self.root = str(general["root"]).rstrip("/") or "/"

    def text(self, name: str) -> str:
        value = self.flags[name]
        assert isinstance(value, str)
        return value

    def texts(self, name: str) -> list[str]:
        value = self.flags[name]
        assert isinstance(value, list)
        return value

    def switch(self, name: str) -> bool:
        return self.flags[name] is True

    def number(self, name: str) -> int | None:
        value = self.flags[name]
        assert value is None or isinstance(value, int)
        return value
