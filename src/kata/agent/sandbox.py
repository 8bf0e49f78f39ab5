"""The sandbox in the guest: its containers and what they share."""

import os
import signal
from collections.abc import Mapping

from kata.agent.bundle import Bundle, find_string_user, fit_spec
from kata.agent.change import Changes
from kata.agent.container import Container, check_name
from kata.agent.crun import Runtime
from kata.agent.device import add_devices
from kata.agent.hook import append_hooks, find_hooks
from kata.agent.hugepage import find_limits
from kata.agent.log import Log
from kata.agent.namespace import drop_shared_namespaces, hold_pid_namespace, make_shared_namespaces
from kata.agent.oom import OomEvents
from kata.agent.options import Options
from kata.agent.spans import SPANS
from kata.agent.storage import Storages, find_hugepages
from kata.agent.submount import Submounts
from kata.agent.uevent import Uevents
from kata.errors import ExistsError, HostError, KataError, NotFoundError, StateError, UsageError
from kata.protocol.messages import agent
from kata.protocol.messages.oci import Hook, Linux, LinuxNamespace, Mount, Process, Root, Spec
from kata.sys import mount
from kata.sys.tree import remove_tree

BASE = "/run/kata-containers"
SHARE = f"{BASE}/shared/containers"
_REHEARSAL = "rehearsal"
_RESOLV_CONF = "/etc/resolv.conf"
_CONTAINER_TYPE = "io.katacontainers.pkg.oci.container_type"


class Sandbox:
    """One per guest. `create` comes first; `destroy` ends it."""

    def __init__(
        self, options: Options, runtime: Runtime, storages: Storages, changes: Changes, uevents: Uevents, log: Log
    ) -> None:
        self.id = ""
        self.storages = storages
        self.oom = OomEvents()
        self._options = options
        self._runtime = runtime
        self._changes = changes
        self._uevents = uevents
        self._log = log
        self._created = False
        self._namespaces: dict[str, str] = {}
        self._hooks: dict[str, list[Hook]] = {}
        self._pid_namespace = ""
        self._pid_holder = 0
        self._containers: dict[str, Container | None] = {}
        self._held: dict[str, list[str]] = {}
        self._submounts = Submounts(SHARE)

    async def create(self, request: agent.CreateSandboxRequest) -> None:
        """Make what the containers will share. Raise ExistsError the second time."""
        if self._created:
            raise ExistsError(f"the guest has the sandbox {self.id} already")
        self._created = True
        self.id = self._log.sandbox = request.sandbox_id
        mount.unmount_below(BASE)
        remove_tree(BASE)
        os.makedirs(f"{BASE}/sandbox", 0o755)
        for module in request.kernel_modules:
            from kata.agent.modprobe import load_kernel_module  # noqa: PLC0415 - few pods need modules

            load_kernel_module(module)
        try:
            self._namespaces = make_shared_namespaces(request.hostname)
        except OSError as error:
            raise HostError(f"the sandbox's shared namespaces cannot be made: {error}") from error
        await self.storages.add(request.storages, "")
        if request.guest_hook_path:
            self._hooks = find_hooks(request.guest_hook_path)
        _set_name_servers(request.dns)
        self._log.write("info", "sandbox created")

    async def rehearse(self, request: agent.CreateSandboxRequest) -> None:
        """Run a container once and leave nothing of it, so that the first one finds at hand what it needs.

        Its sandbox has the storages of `request`. It sees the guest's own root and runs crun in it. Raise ExistsError
        when there is a sandbox, HostError.
        """
        await self.create(agent.CreateSandboxRequest(sandbox_id=_REHEARSAL, storages=request.storages))
        try:
            namespaces = [LinuxNamespace(Type=kind) for kind in ("ipc", "uts", "mount", "pid")]
            spec = Spec(
                Process=Process(Args=["/usr/bin/crun", "--version"]),
                Root=Root(Path="/", Readonly=True),
                Mounts=[Mount(destination="/proc", type="proc", source="proc")],
                Linux=Linux(Namespaces=namespaces),
            )
            await self.create_container(agent.CreateContainerRequest(container_id=_REHEARSAL, OCI=spec))
            await self.start_container(_REHEARSAL)
            await self.wait_process(_REHEARSAL, "")
        finally:
            await self.destroy()
            self.id = self._log.sandbox = ""
            SPANS.clear()
            self._log.clear()

    async def destroy(self) -> None:
        """Remove every container and storage. What fails is logged, and the rest is done."""
        for container_id, container in list(self._containers.items()):
            if container is not None:
                try:
                    await self.remove_container(container_id, timeout=0)
                except (KataError, OSError) as error:
                    self._log.write("warn", "container not removed", container=container_id, error=error)
        await self.storages.release_all()
        drop_shared_namespaces()
        if self._pid_holder:
            os.kill(self._pid_holder, signal.SIGKILL)
        self._pid_holder, self._pid_namespace = 0, ""
        self._created = False
        self._log.write("info", "sandbox destroyed")

    def find_container(self, container_id: str) -> Container:
        """Raise NotFoundError."""
        container = self._containers.get(container_id)
        if container is None:
            raise NotFoundError(f"the guest has no container {container_id!r}")
        return container

    @property
    def containers(self) -> list[Container]:
        return [container for container in self._containers.values() if container is not None]

    async def create_container(self, request: agent.CreateContainerRequest) -> None:
        """Mount its storages, make its bundle, and run crun. When something fails, nothing is left of it.

        Raise UsageError, ExistsError, UnsupportedError, HostError, DeadlineError.
        """
        container_id = check_name(request.container_id)
        if container_id in self._containers or container_id in {"shared", "sandbox"}:
            raise ExistsError(f"the guest has a container {container_id} already")
        if request.shared_mounts:
            raise StateError("mounts shared between containers are not supported in this guest")
        self._containers[container_id] = None
        bundle = Bundle(BASE, container_id)
        container: Container | None = None
        try:
            with SPANS.measure("storages"):
                self._held[container_id] = await self.storages.add(request.storages, container_id)
                self._reserve_hugepages(request)
            with SPANS.measure("bundle"):
                container = await self._prepare(request, bundle)
            await container.create()
        except BaseException:
            await self._undo(container_id, bundle, container)
            raise
        self._containers[container_id] = container
        if not self._pid_namespace and not _is_member(container.spec):
            self._pid_namespace = f"/proc/{container.init.pid}/ns/pid"
        self._log.write("info", "container created", container=container_id, pid=container.init.pid)

    def _reserve_hugepages(self, request: agent.CreateContainerRequest) -> None:
        """Set aside the huge pages that a container may have, but for those that came with its volumes."""
        resources = request.OCI.Linux.Resources if request.OCI is not None and request.OCI.Linux is not None else None
        if resources is None or not resources.HugepageLimits:
            return
        volumes = [find_hugepages(storage) for storage in request.storages if storage.fstype == "hugetlbfs"]
        there = {sizes[0] for sizes in volumes if sizes is not None}
        for page, size in find_limits(resources.HugepageLimits):
            if page not in there:
                self.storages.huge_pages.reserve(request.container_id, page, size)

    async def _prepare(self, request: agent.CreateContainerRequest, bundle: Bundle) -> Container:
        spec = request.OCI
        if spec is None or spec.Process is None or spec.Root is None:
            raise UsageError(f"the request to create container {bundle.container_id} has no specification")
        await add_devices(request.devices, spec, self._uevents, timeout=self._options.hotplug_timeout)
        if request.sandbox_pidns and not self._pid_namespace and _is_member(spec):
            self._hold_pid_namespace()
        fit_spec(spec, bundle.container_id, self._find_namespaces(request.sandbox_pidns))
        append_hooks(spec, self._hooks)
        self._submounts.hold(bundle.container_id, [mounted.source for mounted in spec.Mounts])
        bundle.make(spec.Root)
        find_string_user(request.string_user, spec.Process, bundle.rootfs)
        bundle.write(spec)
        return Container(bundle, spec, self._runtime, self._changes, self._options.container_pipe_size)

    def _hold_pid_namespace(self) -> None:
        try:
            self._pid_holder = hold_pid_namespace()
        except OSError as error:
            raise HostError(f"the process namespace of the pod cannot be made: {error.strerror}") from error
        self._pid_namespace = f"/proc/{self._pid_holder}/ns/pid"

    def _find_namespaces(self, share_pids: bool) -> Mapping[str, str]:
        """A container that is its pod's first has the process namespace that those after it share, if they do."""
        if share_pids and self._pid_namespace:
            return {**self._namespaces, "pid": self._pid_namespace}
        return self._namespaces

    async def _undo(self, container_id: str, bundle: Bundle, container: Container | None) -> None:
        del self._containers[container_id]
        try:
            if container is not None:
                await self._runtime.delete(container_id, bundle.directory, hooks=False)
                container.cgroup.kill()
                container.cgroup.remove()
            bundle.remove()
            await self._release(container_id)
        except (KataError, OSError) as error:
            self._log.write("warn", "leftovers of a failed container", container=container_id, error=error)

    async def _release(self, container_id: str) -> None:
        self._submounts.release(container_id)
        await self.storages.release(self._held.pop(container_id, ()))
        self.storages.huge_pages.release(container_id)

    async def start_container(self, container_id: str) -> None:
        container = self.find_container(container_id)
        self.oom.watch(container)
        await container.start()

    async def wait_process(self, container_id: str, exec_id: str) -> int:
        container = self.find_container(container_id)
        status = await container.wait(exec_id)
        self.oom.look(container)
        return status

    async def remove_container(self, container_id: str, *, timeout: float) -> None:
        """Kill and forget a container. `timeout` is in seconds, 0 for the agent's own."""
        container = self.find_container(container_id)
        await container.remove(timeout=timeout)
        del self._containers[container_id]
        await self._release(container_id)
        self._log.write("info", "container removed", container=container_id)


def _is_member(spec: Spec) -> bool:
    """Whether the container has others beside it and is not the one that stands for the pod."""
    return spec.Annotations.get(_CONTAINER_TYPE) == "pod_container"


def _set_name_servers(lines: list[str]) -> None:
    """Write the pod's resolv.conf, and show it at the guest's own place if the image has one."""
    if not lines:
        return
    path = f"{BASE}/sandbox/resolv.conf"
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    if os.path.isfile(_RESOLV_CONF) and not os.path.islink(_RESOLV_CONF):
        mount.bind(path, _RESOLV_CONF, recursive=False)
