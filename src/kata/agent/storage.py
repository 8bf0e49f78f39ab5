"""File systems that the host asks for, mounted in the guest: how each driver does it, and who still uses which."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from kata.agent import device
from kata.agent.hugepage import HugePages
from kata.agent.published import PublishedVolumes
from kata.agent.reaper import Reaper
from kata.agent.uevent import Uevents
from kata.errors import HostError, UnsupportedError, UsageError
from kata.protocol.messages.agent import Storage
from kata.sys import linux, mount
from kata.sys.beneath import open_without_links
from kata.sys.mountoption import parse_options

_SETGID = 0o2000
_OVERLAY_WRITABLE = "io.katacontainers.fs-opt.overlay-rw"
_CREATE_DIRECTORY = "io.katacontainers.volume.overlayfs.create_directory="
_MAKE_FILESYSTEM = ("mkfs.ext4", "-F", "-O", "^has_journal", "-m", "0", "-i", "163840", "-I", "128")
_MKFS_TIMEOUT = 120.0  # seconds


class _Use:
    """Who uses a storage. `shared` ones stay until the sandbox ends. `node` is the block device of one that has one.

    `done` is set when it is mounted, or has failed.
    """

    __slots__ = ("count", "done", "node", "shared", "unmount")

    def __init__(self, shared: bool) -> None:
        self.count = 1
        self.done = asyncio.Event()
        self.shared = shared
        self.unmount = False
        self.node = ""


class Storages:
    """Every storage of the sandbox by its mount point, counted."""

    def __init__(self, base: str, uevents: Uevents, reaper: Reaper, *, timeout: float) -> None:
        """`timeout` in seconds bounds the wait for a device that is being plugged in."""
        self._base = base
        self._uevents = uevents
        self._reaper = reaper
        self._timeout = timeout
        self.published = PublishedVolumes()
        self.huge_pages = HugePages()
        self._uses: dict[str, _Use] = {}
        self._drivers: dict[str, Callable[[Storage, str], Awaitable[bool]]] = {
            "virtio-fs": self._add_filesystem,
            "overlayfs": self._add_overlay,
            "ephemeral": self._add_ephemeral,
            "local": self._add_local,
            "watchable-bind": self._add_published,
            "beneath": self._add_beneath,
            "blk": self._add_block,
            "mmioblk": self._add_block,
            "scsi": self._add_block,
            "nvdimm": self._add_block,
        }

    @property
    def drivers(self) -> list[str]:
        """Names of the drivers that work."""
        return list(self._drivers)

    async def add(self, storages: Iterable[Storage], container_id: str) -> list[str]:
        """Mount storages in order. Return their mount points, for `release`. When one fails, none stays.

        Raise UsageError, UnsupportedError, HostError or DeadlineError.
        """
        done: list[str] = []
        try:
            for storage in storages:
                await self._add(storage, container_id)
                done.append(storage.mount_point)
        except BaseException:
            await self.release(done)
            raise
        return done

    async def _add(self, storage: Storage, container_id: str) -> None:
        driver = self._drivers.get(storage.driver)
        if driver is None:
            raise UnsupportedError(
                f"the guest has no storage driver {storage.driver!r} for {storage.mount_point}",
                hint=f"it has {', '.join(self._drivers)}",
            )
        point = storage.mount_point
        if not point.startswith("/") or ".." in point.split("/"):
            raise UsageError(f"the mount point {point!r} of a storage is no absolute path in the guest")
        use = self._uses.get(point)
        if use is not None:
            use.count += 1
            await use.done.wait()
            if self._uses.get(point) is not use:
                raise HostError(f"storage {storage.source} on {point} could not be mounted for another container")
            return
        use = self._uses[point] = _Use(storage.shared)
        try:
            use.unmount = await driver(storage, container_id)
        except OSError as error:
            del self._uses[point]
            raise HostError(
                f"storage {storage.source} of driver {storage.driver} cannot be mounted on {point}: {error.strerror}"
            ) from error
        except BaseException:
            del self._uses[point]
            raise
        finally:
            use.done.set()

    async def release(self, points: Iterable[str]) -> None:
        """Give up storages, the last added first. Those that nobody else uses are unmounted."""
        for point in reversed(list(points)):
            use = self._uses.get(point)
            if use is None:
                continue
            use.count -= 1
            if use.count <= 0 and not use.shared:
                await self._drop(point)

    async def release_all(self) -> None:
        for point in reversed(list(self._uses)):
            await self._drop(point)

    async def _drop(self, point: str) -> None:
        use = self._uses.pop(point)
        self.published.remove(point)
        self.huge_pages.release(point)
        if not use.unmount:
            return
        mount.unmount(point, detach=True)
        try:
            os.rmdir(point)
        except OSError as error:
            # Inside the read-only share the directory is the host's; a file as mount point is not ours either.
            if error.errno not in {errno.EROFS, errno.ENOTDIR, errno.ENOTEMPTY, errno.ENOENT, errno.EPERM, errno.EBUSY}:
                raise
        if use.node:
            await device.wait_unused(use.node)

    async def _add_filesystem(self, storage: Storage, _: str) -> bool:
        _mount(storage.source, storage, storage.options)
        _set_group(storage)
        return True

    async def _add_overlay(self, storage: Storage, container_id: str) -> bool:
        options = [option for option in storage.options if option != _OVERLAY_WRITABLE]
        if len(options) != len(storage.options):
            if not container_id:
                raise UsageError(f"the writable overlay on {storage.mount_point} belongs to no container")
            for option, name in (("upperdir", "upper"), ("workdir", "work")):
                directory = f"{self._base}/{container_id}/{name}"
                os.makedirs(directory, 0o755, exist_ok=True)
                options.append(f"{option}={directory}")
        for option in storage.driver_options:
            if option.startswith(_CREATE_DIRECTORY):
                os.makedirs(option.removeprefix(_CREATE_DIRECTORY), 0o755, exist_ok=True)
        _mount("overlay", storage, options, fstype="overlay")
        return True

    async def _add_ephemeral(self, storage: Storage, _: str) -> bool:
        """tmpfs or huge pages. Those of a volume with a size are set aside with it, all others with a container."""
        group = find_option(storage.options, "fsgid")
        options = [option for option in storage.options if not option.startswith("fsgid=")]
        if storage.fstype == "hugetlbfs":
            sizes = find_hugepages(storage)
            if sizes is not None:
                self.huge_pages.reserve(storage.mount_point, *sizes)
        else:
            options = _fit_memory(options)
        _mount(storage.source, storage, options)
        if group is not None:
            os.chown(storage.mount_point, -1, int(group))
            os.chmod(storage.mount_point, os.stat(storage.mount_point).st_mode & 0o7777 | _SETGID)
        return True

    async def _add_local(self, storage: Storage, _: str) -> bool:
        """A plain directory of the guest, on whatever file system is there."""
        os.makedirs(storage.mount_point, 0o755, exist_ok=True)
        group, mode = find_option(storage.options, "fsgid"), find_option(storage.options, "mode")
        if group is not None:
            os.chown(storage.mount_point, -1, int(group))
        if mode is not None:
            os.chmod(storage.mount_point, int(mode, 8) | (_SETGID if group is not None else 0))
        return False

    async def _add_beneath(self, storage: Storage, _: str) -> bool:
        """A path in another storage, whatever containers have made of that. Directories on the way are made."""
        directory = _open_beneath(storage.source, storage.options)
        try:
            _mount(f"/proc/self/fd/{directory}", storage, ["bind"])
        finally:
            os.close(directory)
        return True

    async def _add_published(self, storage: Storage, _: str) -> bool:
        return self.published.add(storage)

    async def _add_block(self, storage: Storage, _: str) -> bool:
        node = await device.find_node(storage.driver, storage.source, self._uevents, timeout=self._timeout)
        is_new = "create_filesystem" in storage.driver_options
        if is_new:
            await self._make_filesystem(node)
        if any(option.startswith("encryption_key=") for option in storage.driver_options):
            raise UnsupportedError(f"the guest cannot encrypt block storage {storage.source}")
        _mount(node, storage, storage.options)
        self._uses[storage.mount_point].node = node
        if is_new:
            _prepare_root(storage)
        _set_group(storage)
        return True

    async def _make_filesystem(self, node: str) -> None:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            argv = [*_MAKE_FILESYSTEM, node]
            status = await self._reaper.run(argv, stdio=(null, null, null), timeout=_MKFS_TIMEOUT)
        finally:
            os.close(null)
        if status:
            raise HostError(f"mkfs.ext4 of {node} ended with status {status}")


def _prepare_root(storage: Storage) -> None:
    """Have a new file system empty, and of the owner that the driver's options name."""
    with suppress(OSError):
        os.rmdir(f"{storage.mount_point}/lost+found")
    mode, user, group = (find_option(storage.driver_options, name) for name in ("mode", "uid", "gid"))
    os.chown(storage.mount_point, int(user or -1), int(group or -1))
    if mode is not None:
        os.chmod(storage.mount_point, int(mode, 8))


def _open_beneath(volume: str, options: Iterable[str]) -> int:
    """Return an O_PATH descriptor of the option `path` in a volume, made with `mode`, `uid` and `gid` where missing.

    Raise OSError, with ELOOP for a link.
    """
    mode, user, group = (find_option(options, name) or "0" for name in ("mode", "uid", "gid"))
    current = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in filter(None, (find_option(options, "path") or "").split("/")):
        try:
            try:
                below = open_without_links(current, part, os.O_PATH)
            except FileNotFoundError:
                os.mkdir(part, 0o700, dir_fd=current)
                below = open_without_links(current, part, os.O_PATH | os.O_DIRECTORY)
                os.chown(f"/proc/self/fd/{below}", int(user), int(group))
                os.chmod(f"/proc/self/fd/{below}", int(mode, 8))
        finally:
            os.close(current)
        current = below
    return current


def find_option(options: Iterable[str], name: str) -> str | None:
    """The value of `name=value` among options, None without one."""
    for option in options:
        for word in option.split(","):
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
    return None


def _mount(source: str, storage: Storage, options: Iterable[str], *, fstype: str = "") -> None:
    flags, data = parse_options(options)
    point = storage.mount_point
    if flags & linux.MS_BIND and not os.path.isdir(source):
        os.makedirs(os.path.dirname(point), 0o755, exist_ok=True)
        os.close(os.open(point, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    else:
        os.makedirs(point, 0o755, exist_ok=True)
    linux.mount(source, point, fstype or storage.fstype, flags, data)
    if flags & linux.MS_BIND and flags & ~(linux.MS_BIND | linux.MS_REC):
        linux.mount(source, point, "", flags | linux.MS_REMOUNT)  # a bind mount ignores every other flag


def _set_group(storage: Storage) -> None:
    """Give a volume to a group, as Kubernetes' fsGroup asks. Policy 1 leaves a root that is right already alone."""
    wanted = storage.fs_group
    if wanted is None:
        return
    status = os.stat(storage.mount_point)
    if wanted.group_change_policy == 1 and status.st_gid == wanted.group_id:
        return
    for directory, _, files in os.walk(storage.mount_point):
        for path in [directory, *(os.path.join(directory, name) for name in files)]:
            _set_group_of(path, wanted.group_id, writable="ro" not in storage.options)


def _set_group_of(path: str, group: int, *, writable: bool) -> None:
    os.lchown(path, -1, group)
    if os.path.islink(path):
        return
    mode = os.lstat(path).st_mode & 0o7777
    mode |= 0o660 if writable else 0o440
    if os.path.isdir(path):
        mode |= 0o110 | _SETGID
    os.chmod(path, mode)


def find_hugepages(storage: Storage) -> tuple[int, int] | None:
    """Return the size of the pages of a hugetlbfs and its own, in bytes; None without one. Raise UsageError."""
    page, size = find_option(storage.options, "pagesize"), find_option(storage.options, "size")
    if page is None or not page.isdecimal() or not (size or "0").isdecimal():
        raise UsageError(f"hugetlbfs on {storage.mount_point} needs the options pagesize and size in bytes")
    return None if size is None else (int(page), int(size))


def _fit_memory(options: list[str]) -> list[str]:
    """Drop a size of tmpfs that is more than all memory: the kernel then takes half of it, so that some is left."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = find_option(options, "size") or ""
    return [option for option in options if not (size.isdecimal() and int(size) >= memory and option == f"size={size}")]


def resize_ephemeral(storages: Iterable[Storage]) -> None:
    """Remount tmpfs storages with the options given, which carry the new size. Raise UsageError for other drivers."""
    for storage in storages:
        if storage.driver != "ephemeral":
            raise UsageError(f"storage {storage.mount_point} of driver {storage.driver} has no size that can change")
        options = [option for option in storage.options if not option.startswith("fsgid=")]
        if options:
            flags, data = parse_options(options)
            try:
                linux.mount(storage.source, storage.mount_point, storage.fstype, flags | linux.MS_REMOUNT, data)
            except OSError as error:
                raise HostError(f"tmpfs {storage.mount_point} cannot be resized: {error.strerror}") from error
