"""A container's cgroup (version 2). File names: Documentation/admin-guide/cgroup-v2.rst of the kernel."""

import errno
import os
import posixpath

from kata.errors import UsageError

ROOT = "/sys/fs/cgroup"


def find_path(wanted: str, container_id: str) -> str:
    """The path below the guest's root cgroup for what the host wrote in `linux.cgroupsPath`.

    systemd's form `slice:prefix:name` becomes one plain name, for there is no systemd in the guest.
    Raise UsageError for a path that climbs.
    """
    if not wanted:
        return f"/{container_id}"
    if wanted.count(":") == 2 and not wanted.startswith("/"):
        _, prefix, name = wanted.split(":")
        wanted = f"{prefix}-{name}" if prefix else name
    if ".." in wanted.split("/"):
        raise UsageError(f"the cgroup path {wanted} of container {container_id} climbs out of the guest's root cgroup")
    path = posixpath.normpath("/" + wanted.strip("/"))
    return f"/{container_id}" if path == "/" else path


class Cgroup:
    """One directory of the cgroup tree, with everything below it."""

    def __init__(self, path: str, root: str = ROOT) -> None:
        """`path` is absolute, below the root cgroup."""
        self.path = path
        self.directory = root + path
        self._root = root

    def read(self, name: str) -> str:
        """The content of a file, empty when there is none: its controller may be absent."""
        try:
            with open(f"{self.directory}/{name}", encoding="ascii") as file:
                return file.read()
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP}:
                return ""
            raise

    def write(self, name: str, value: str) -> None:
        with open(f"{self.directory}/{name}", "w", encoding="ascii") as file:
            file.write(value)

    def read_oom_kills(self) -> int:
        """How many processes the kernel has killed here for want of memory."""
        for line in self.read("memory.events").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0

    def list_pids(self) -> list[int]:
        """Every process here and in the cgroups below, which a container may have made for itself."""
        folders = [folder for folder, _, _ in os.walk(self.directory)]
        inner = [Cgroup(self.path + folder.removeprefix(self.directory), self._root) for folder in folders]
        return [int(pid) for cgroup in inner for pid in cgroup.read("cgroup.procs").split()]

    def kill(self) -> bool:
        """Kill every process, also frozen ones and ones that fork meanwhile. False when there is no such cgroup."""
        try:
            self.write("cgroup.kill", "1")
        except FileNotFoundError:
            return False
        return True

    def freeze(self, frozen: bool) -> None:
        self.write("cgroup.freeze", "1" if frozen else "0")

    def is_frozen(self) -> bool:
        """Whether somebody has frozen it."""
        return self.read("cgroup.freeze").strip() == "1"

    def stands_still(self) -> bool:
        """Whether every process has come to a halt, or there is none."""
        return "frozen 1" in self.read("cgroup.events").splitlines()

    def remove(self) -> bool:
        """Remove the directories, deepest first. False while processes are dying in them."""
        try:
            for directory, _, _ in os.walk(self.directory, topdown=False):
                os.rmdir(directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True
