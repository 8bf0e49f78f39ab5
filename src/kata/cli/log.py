"""Log lines as `runc` writes them, which conmon and Podman read back to tell the user why a container did not start."""

import os
import sys
import time

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+")


class Log:
    """Where diagnostics go. Without a file they go to stderr as log lines; with one, stderr gets the bare text too."""

    def __init__(self, path: str = "", form: str = "text") -> None:
        self.path = path
        self.form = form

    def write_error(self, message: str) -> None:
        self._write(message)
        if self.path:
            print(message, file=sys.stderr)

    def _write(self, message: str) -> None:
        line = format_line(self.form, "error", message, time.gmtime()) + "\n"
        if not self.path:
            sys.stderr.write(line)
            return
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            sys.stderr.write(f"cannot write to the log {self.path}: {error.strerror}\n{line}")
            return
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def format_line(form: str, level: str, message: str, moment: time.struct_time) -> str:
    """Return one log line without its newline, in the form `text` or `json`. `moment` is UTC."""
    import json  # noqa: PLC0415 - only on the way out with an error

    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", moment)
    if form == "json":
        return json.dumps({"level": level, "msg": message, "time": stamp}, separators=(",", ":"), ensure_ascii=False)
    quoted = message if message and set(message) <= _PLAIN else json.dumps(message, ensure_ascii=False)
    return f'time="{stamp}" level={level} msg={quoted}'
