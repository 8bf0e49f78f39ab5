"""Directories that the agent made for itself."""

import os


def remove_tree(path: str) -> None:
    """Remove a directory and what is in it, which must hold no mount. What is not there is fine."""
    if not os.path.isdir(path) or os.path.islink(path):
        return
    for directory, subdirectories, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(directory, name))
        for name in subdirectories:
            entry = os.path.join(directory, name)
            if os.path.islink(entry):
                os.unlink(entry)
            else:
                os.rmdir(entry)
    os.rmdir(path)
