"""The host's files of containers, as the engine sees them when it asks for a container.

A daemon's own mounts are a copy of the host's from when it started. What is mounted later reaches it only where the
host's mounts propagate, which nothing promises, so files are looked up where the engine mounted them.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from kata.errors import HostError, NotFoundError
from kata.sandbox.bundle import Bundle
from kata.sandbox.translation import Shared, Translation, translate_spec
from kata.storage.share import Share
from kata.sys.mount import MountPoint, clone_trees_of, list_mounts, visit_namespace

Result = TypeVar("Result")


class HostFiles:
    """Looks up what is to be shared with the guest."""

    def __init__(self, engine: int | None = None) -> None:
        """`engine` is a descriptor of the mount namespace of an engine that has a shim.

        Without one, a container's files are as its stand-in sees them: that came when all was mounted.
        """
        self._engine = engine

    def translate(self, bundle: Bundle, container: str, pid: int) -> Translation:
        """Translate the spec of the container whose stand-in has the pid `pid`; raise what `translate_spec` raises."""
        if self._engine is None:
            mounts = partial(self.list_mounts, pid)
            return translate_spec(bundle.spec, container, bundle.path, f"/proc/{pid}/root", list_points=mounts)
        return visit_namespace(self._engine, partial(translate_spec, bundle.spec, container, bundle.path))

    def list_mounts(self, pid: int) -> list[MountPoint]:
        """Return what is mounted where the engine sees it.

        A stand-in's is read from outside: in its namespace something else than the kernel's is at /proc, soon at least.
        """
        return list_mounts(pid=pid) if self._engine is None else visit_namespace(self._engine, list_mounts)

    def open(self, pid: int, path: str, flags: int, *, local: bool = False) -> int:
        """Open a file as the engine sees it, or with `local` as the process `pid` does.

        Raise NotFoundError or HostError that names it.
        """

        def open_path() -> int:
            try:
                return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError as error:
                raise NotFoundError(f"{path} does not exist") from error
            except OSError as error:
                raise HostError(f"{path} cannot be opened: {error.strerror}") from error

        return self.visit(pid, open_path, local=local)

    def visit(self, pid: int, look: Callable[[], Result], *, local: bool = False) -> Result:
        """Do something where the host's files are as the engine sees them, or with `local` as the process `pid` does.

        Raise what `look` raised.
        """
        if self._engine is not None and not local:
            return visit_namespace(self._engine, look)
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return visit_namespace(namespace, look)
        finally:
            os.close(namespace)

    def put_into(self, share: Share, wanted: Sequence[Shared], pid: int, owner: str = "") -> None:
        """Put files into the share for an owner; those that are `local` as the process `pid` sees them in any case.

        Raise NotFoundError that names the one that is missing.
        """
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self._engine is None:
                _put_into(share, wanted, namespace, owner)
                return
            _put_into(share, [shared for shared in wanted if shared.local], namespace, owner)
            _put_into(share, [shared for shared in wanted if not shared.local], self._engine, owner)
        finally:
            os.close(namespace)


def _put_into(share: Share, wanted: Sequence[Shared], namespace: int, owner: str) -> None:
    if not wanted:
        return
    trees = clone_trees_of(namespace, [shared.source for shared in wanted])
    try:
        for shared, tree in zip(wanted, trees, strict=True):
            if share.hold(shared.name, owner):
                continue
            if isinstance(tree, OSError):
                raise NotFoundError(f"{shared.source} cannot be shared with the guest: {tree.strerror}") from tree
            if shared.follow:
                share.follow(tree, shared.name, readonly=shared.readonly, owner=owner)
            else:
                flags = {"readonly": shared.readonly, "top_only": shared.top_only}
                share.attach(tree, shared.name, **flags, owner=owner)
    finally:
        for tree in trees:
            if isinstance(tree, int):
                os.close(tree)
