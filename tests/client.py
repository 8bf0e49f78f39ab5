"""A client with Docker's words (docker, nerdctl), whichever daemon it drives: containers of busybox by one runtime."""

import contextlib
import itertools
from collections.abc import Iterator

from podman.engine import read_until
from program import Program


class Client(Program):
    """Runs `command` with more words. `token` is in the name of each container."""

    def __init__(self, command: list[str], runtime: str, image: str, token: str) -> None:
        self.prefix = command
        self.runtime = runtime
        self.image = image
        self.token = token
        self._numbers = itertools.count(1)

    def command(self, *words: str) -> list[str]:
        return [*self.prefix, *words]

    def name(self) -> str:
        return f"{self.token}-{next(self._numbers)}"

    def run_words(self, *words: str, flags: tuple[str, ...] = ()) -> list[str]:
        """Return the words of a `run` with the runtime under test."""
        return ["run", "--runtime", self.runtime, *flags, self.image, *words]

    @contextlib.contextmanager
    def hold(self, *words: str, flags: tuple[str, ...] = ()) -> Iterator[str]:
        """Have a detached container during the block, and yield its name."""
        name = self.name()
        try:
            self.succeed(*self.run_words(*words, flags=("-d", "--name", name, *flags)))
            yield name
        finally:
            self.run("rm", "--force", "--volumes", name)

    def read(self, container: str, template: str) -> str:
        """Return what `inspect` tells in the form of a template of Go."""
        return self.succeed("inspect", "--format", template, container).strip()

    def find_address(self, container: str) -> str:
        return self.read(container, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")

    def wait_for_log(self, container: str, text: str) -> None:
        """Follow the container's log until `text` is in it."""
        read_until(self.command("logs", "-f", container), text)
