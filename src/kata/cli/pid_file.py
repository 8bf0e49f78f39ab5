"""The file in which an engine finds the pid of a container's process."""

import os


def write_pid_file(path: str, pid: int) -> None:
    """Write the pid, so that a reader sees all of it or no file, as runc does."""
    directory, name = os.path.split(os.path.abspath(path))
    temporary = f"{directory}/.{name}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, str(pid).encode())
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
