"""The directory of a VMM that opens files by itself: a small file system of its own, in which is what it may open.

Its user reaches nothing else: the directories above are closed to it, and it starts inside. Files of the host appear in
it as bind mounts, read-only, and disks as device nodes of its user's, so that nobody's permissions are changed. The
mounts are those of the calling process's mount namespace, and go with it.
"""

import io
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from kata.errors import ConfigError, HostError
from kata.hypervisor.spec import BlockDevice, VmSpec
from kata.sys import linux
from kata.sys.loop import attach_loop, update_size
from kata.sys.mount import bind, unmount
from kata.sys.unixsocket import listen_unix

KERNEL, INITRD, IMAGE, FIRMWARE, MEMORY = "kernel", "initrd", "image", "firmware", "memory"
API_SOCKET, VSOCK_SOCKET = "api.sock", "vsock.sock"
_ROOM_MIB = 64
"""For sockets and nodes, and for a copy of the VMM, which Firecracker's jailer makes. Only use takes memory."""


def name_disk(device_id: str) -> str:
    """The name of a disk's node in the cell."""
    return f"disk-{device_id}"


class Cell:
    """Files, disks and sockets by the names that the VMM knows them by.

    `below` is the part of the path that the VMM's own tools make of the mount at `mount_point`. `more_mib` is room for
    a guest's memory.
    """

    def __init__(self, mount_point: str, user: int, *, below: str = "", more_mib: int = 0) -> None:
        self.mount_point = mount_point
        self.path = os.path.join(mount_point, below) if below else mount_point
        self.user = user
        self._room = _ROOM_MIB + more_mib
        self._undo = ExitStack()
        self._loops: dict[str, int] = {}

    def open(self) -> None:
        """Make the directory and its file system. Raise HostError."""
        try:
            os.mkdir(self.mount_point, 0o700)
            self._undo.callback(_remove_directory, self.mount_point)
            flags = linux.MS_NOSUID
            linux.mount("cell", self.mount_point, "tmpfs", flags, f"size={self._room}m,mode=0700")
            self._undo.callback(unmount, self.mount_point, detach=True)
            os.makedirs(self.path, 0o700, exist_ok=True)
            os.chown(self.path, self.user, self.user)
        except OSError as error:
            self.release()
            raise HostError(f"the VMM's directory {self.mount_point} cannot be made: {error.strerror}") from error

    def show_vm(self, spec: VmSpec) -> None:
        """Show the files and disks of a VM. Raise ConfigError."""
        self.show_file(KERNEL, spec.kernel, sandbox=spec.id)
        for name, path in ((INITRD, spec.initrd), (IMAGE, spec.image), (FIRMWARE, spec.firmware)):
            if path:
                self.show_file(name, path, sandbox=spec.id)
        for device in spec.devices:
            if isinstance(device, BlockDevice):
                self.show_disk(name_disk(device.id), device.path, readonly=device.readonly)

    def show_file(self, name: str, path: str, *, sandbox: str) -> str:
        """Show a file of the host's, read-only. It has to be readable by all. Return its name in the cell.

        Raise ConfigError that names the sandbox and the file.
        """
        try:
            mode = os.stat(path).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"sandbox {sandbox} needs {path}, which is no file")
            if not mode & stat.S_IROTH:
                hint = f"chmod a+r {path}"
                raise ConfigError(f"sandbox {sandbox} needs {path}, which the VMM's user may not read", hint=hint)
            target = f"{self.path}/{name}"
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
            bind(path, target, recursive=False)
            self._undo.callback(unmount, target, detach=True)
            linux.mount("none", target, flags=linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NOSUID)
        except OSError as error:
            raise ConfigError(f"sandbox {sandbox} needs {path}, which cannot be opened: {error.strerror}") from error
        return name

    def show_disk(self, name: str, path: str, *, readonly: bool) -> str:
        """Make a node of a block device, or of a loop device for a file. Return its name in the cell.

        Raise ConfigError for what cannot be opened.
        """
        loop = -1
        try:
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode):
                loop, device = attach_loop(path, readonly=readonly)
                status = os.stat(device)
            elif not stat.S_ISBLK(status.st_mode):
                raise ConfigError(f"disk {path} is neither a file nor a block device")
            target = f"{self.path}/{name}"
            os.mknod(target, stat.S_IFBLK | (0o400 if readonly else 0o600), status.st_rdev)
            os.chown(target, self.user, self.user)
        except BaseException as error:
            if loop >= 0:
                os.close(loop)
            if isinstance(error, OSError):
                raise ConfigError(f"disk {path} cannot be opened: {error.strerror}") from error
            raise
        if loop >= 0:
            self._loops[name] = loop
        return name

    def grow_disk(self, name: str) -> None:
        """Let a disk have the size of the file that it is of, if it is of one. Raise HostError."""
        if name in self._loops:
            try:
                update_size(self._loops[name])
            except OSError as error:
                raise HostError(f"{name} cannot get its file's new size: {error.strerror}") from error

    def hide_disk(self, name: str) -> None:
        """Take a disk out again."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self.path}/{name}")
        if name in self._loops:
            os.close(self._loops.pop(name))

    def show_socket(self, name: str, path: str) -> str:
        """Show a Unix socket that somebody listens at, so that the VMM can connect to it."""
        target = f"{self.path}/{name}"
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        bind(path, target, recursive=False)
        self._undo.callback(unmount, target, detach=True)
        os.chown(target, self.user, self.user)
        return name

    def make_file(self, name: str, size: int) -> None:
        """Make a file of zeros that the VMM may read and write."""
        descriptor = os.open(f"{self.path}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(descriptor, size)
            os.fchown(descriptor, self.user, self.user)
        finally:
            os.close(descriptor)

    def make_directory(self, name: str) -> None:
        """Make a directory that the VMM may write to."""
        path = f"{self.path}/{name}"
        os.mkdir(path, 0o700)
        os.chown(path, self.user, self.user)

    @contextmanager
    def read_file(self, name: str) -> Iterator[int]:
        """Open a file that the VMM wrote, and nothing that it may have put in its place. Raise HostError."""
        path = f"{self.path}/{name}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"the VMM's file {path} cannot be opened: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise HostError(f"the VMM's file {path} is no file")
            yield descriptor
        finally:
            os.close(descriptor)

    def make_fifo(self, name: str) -> io.FileIO:
        """Make a named pipe that the VMM writes to, and open our end of it."""
        path = f"{self.path}/{name}"
        os.mkfifo(path, 0o600)
        os.chown(path, self.user, self.user)
        # For reading and writing: a pipe without a writer would look like one that ended (fifo(7)).
        return io.FileIO(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), "r")

    def listen(self, name: str) -> socket.socket:
        """A socket that listens in the cell, for the VMM to inherit."""
        return listen_unix(f"{self.path}/{name}")

    def release(self) -> None:
        """Take all of it away. May be repeated."""
        while self._loops:
            os.close(self._loops.popitem()[1])
        self._undo.close()


def _remove_directory(path: str) -> None:
    with suppress(OSError):
        os.rmdir(path)
