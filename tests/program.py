"""A client's program, run to its end."""

import subprocess

from containerd.daemon import Done

TIMEOUT = 120.0


class Program:
    """What clients have in common; each says how its `command` begins."""

    def command(self, *words: str) -> list[str]:
        raise NotImplementedError

    def run(self, *words: str, stdin: str | None = None) -> Done:
        """Run the client to its end."""
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def succeed(self, *words: str, stdin: str | None = None) -> str:
        done = self.run(*words, stdin=stdin)
        assert done.code == 0, (words, done)
        return done.out
