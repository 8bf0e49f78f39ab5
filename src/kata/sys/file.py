"""Files that must be whole or absent, and nobody else's."""

import os

_WRITABLE_BY_OTHERS = 0o022


def replace_file(path: str, text: str, mode: int = 0o600) -> None:
    """Put `text` in place of what `path` holds, so that a reader sees the old or the new and never a part."""
    temporary = f"{path}.{os.getpid()}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_text(path: str) -> str:
    """Return what the file holds, or an empty string where there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def is_ours_alone(status: os.stat_result) -> bool:
    """Say whether a file or directory is this process's user's, and no other can write to it."""
    return status.st_uid == os.geteuid() and not status.st_mode & _WRITABLE_BY_OTHERS
