"""A sandbox: one VM and the containers in it, from its start to the release of everything."""

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kata.config.annotations import apply_annotations
from kata.config.load import load_configuration
from kata.config.model import NO_PORT, Configuration
from kata.errors import DeadlineError, ExistsError, KataError, NotFoundError, StateError, UnsupportedError
from kata.hypervisor.spec import NetDevice
from kata.observe.durations import Durations
from kata.observe.log import Log
from kata.observe.timeline import Timeline
from kata.protocol.messages import agent as wire
from kata.protocol.oci.pod import is_pod
from kata.resources.host import measure_host
from kata.resources.size import VmSize, check_huge_pages, check_memory_limit, find_resources, read_limits, size_sandbox
from kata.sandbox import store
from kata.sandbox.attach import Attachments
from kata.sandbox.bundle import Bundle, read_bundle
from kata.sandbox.clock import GuestClock
from kata.sandbox.container import Container, name_moment
from kata.sandbox.diskroot import DiskRoot, OfferedRoot
from kata.sandbox.guest import LOST_STATUS
from kata.sandbox.guestsandbox import describe_sandbox, find_host_name
from kata.sandbox.hostfiles import HostFiles
from kata.sandbox.ledger import release_resources
from kata.sandbox.management import Management
from kata.sandbox.needs import Needs, count_needs
from kata.sandbox.network import PodNamespace, SandboxNetwork
from kata.sandbox.oom import OomNews, set_oom_scores
from kata.sandbox.plan import Passed
from kata.sandbox.podcgroups import PodCgroups
from kata.sandbox.portforward import PortForward
from kata.sandbox.provision import Provisioner
from kata.sandbox.site import Site
from kata.sandbox.start import start_vm
from kata.sandbox.states import SandboxState, Status, move_sandbox
from kata.sandbox.vm import SandboxVm

if TYPE_CHECKING:
    from kata.sandbox.checkpoint import Checkpoint
    from kata.sandbox.resizing import Resizing
    from kata.sandbox.restoring import Origin, Restored

_STAND_IN_TIMEOUT = 10.0
_CHECK_TIMEOUT = 5.0
_FLUSH_TIMEOUT = 20.0


class Sandbox:
    """Owns the VM and the containers.

    `ended` becomes set when the VM has ended, and `is_lost` says that nobody had asked for it. `gone` becomes set when
    all is done; `is_released` says that nothing is left then.
    """

    def __init__(
        self,
        root: str,
        sandbox_id: str,
        attachments: Attachments,
        log: Log,
        on_oom: "Callable[[Container], None] | None" = None,
        *,
        namespace: str = "",
        durations: Durations | None = None,
        files: HostFiles | None = None,
    ) -> None:
        """`on_oom` is told each container that ran out of memory, after a file `oom` was made in its bundle.

        `namespace` is containerd's: ids are unique within one. `durations` counts the calls that come to this daemon.
        `files` finds the host's files; by default it looks from the containers' stand-ins.
        """
        self.id = store.make_key(sandbox_id, namespace)
        self.directory = store.find_sandbox_dir(root, self.id)
        self._namespace = namespace
        self.containers: dict[str, Container] = {}
        self.ended = asyncio.Event()
        self.gone = asyncio.Event()
        self.timeline = Timeline(f"{self.directory}/timeline.json")
        self.network = SandboxNetwork(self.id, self.directory, log)
        self._root = root
        self._config = Configuration()
        self._attachments = attachments
        self._files = files or HostFiles()
        self._log = log
        self._oom_news = OomNews(on_oom)
        self._state = SandboxState.CREATED
        self.durations = durations or Durations()
        self.management = Management(self, log)
        self._vm: SandboxVm | None = None
        self._provisioner: Provisioner | None = None
        self._started: asyncio.Task[SandboxVm] | None = None
        self._followers: list[asyncio.Task[None]] = []
        self._forwarding: PortForward | None = None
        self._cgroups = PodCgroups(self.id, self.directory)
        self._stopped: asyncio.Task[None] | None = None
        self._creations: dict[str, asyncio.Task[None]] = {}
        self._deletions: dict[str, asyncio.Task[None]] = {}
        self._is_lasting = False
        self._resizing: Resizing | None = None
        self._site: Site | None = None
        self._restored: Restored | None = None
        self._saving = False
        self.is_lost = False
        self.is_released = False

    @property
    def state(self) -> SandboxState:
        return self._state

    def _move(self, then: SandboxState) -> None:
        self._state = move_sandbox(self.id, self._state, then)

    def start(
        self,
        bundle: str,
        config: str | None,
        namespace: PodNamespace | None = None,
        *,
        lasting: bool = False,
        disks: int = 0,
        origin: "Origin | None" = None,
    ) -> None:
        """Begin to start the VM, sized for the spec of `bundle`. `create_container` waits for it.

        `config` is the path of a configuration file, None for the usual places. `disks` is how many the engine offers
        for the first container's root. This process moves into the network
        `namespace` and closes its descriptor. A `lasting` sandbox stays until `stop`; any other goes with its last
        container. With an `origin` the VM goes on from that, and the first container is the one that was saved.
        """
        self._move(SandboxState.STARTING)
        self._is_lasting = lasting
        self.management.open()
        self._started = asyncio.create_task(self._start(bundle, config, namespace, disks, origin))

    async def _start(
        self, bundle: str, config: str | None, namespace: PodNamespace | None, disks: int, origin: "Origin | None"
    ) -> SandboxVm:
        first = read_bundle(bundle)
        self._config = self._configure(config, first.spec)
        host = measure_host()
        size = size_sandbox(first.spec, self._config, host)
        with self.timeline.measure("host cgroup"):
            self._cgroups.enter(first.spec, whole=self._config.runtime.sandbox_cgroup_only)
        site = self._site = Site(
            self.id, self.directory, self._root, self._config, self.timeline, self._log, vcpu_cgroup=self._cgroups.vcpus
        )
        cards: list[NetDevice] = []
        if namespace is not None:
            with self.timeline.measure("network"):
                cards = self.network.join(namespace, self._config, size.vcpus)
        if origin is None:
            pod = is_pod(first.spec) or self._is_lasting
            needs = count_needs(first, self._config, disks, pod=pod, links=namespace is not None)
            vm = await self._start_vm(site, size, cards, needs)
        else:
            vm = await self._restore_vm(site, origin, first, cards)
        self._vm = vm
        # Of a lasting sandbox's spec no container is made, so what it mounts is for all.
        mounts = first.spec.get("mounts") or [] if self._is_lasting else []
        self._provisioner = Provisioner(site, vm, self._files, mounts)
        if vm.size.most_vcpus:
            from kata.sandbox.resizing import Resizing  # noqa: PLC0415 - most VMs keep their size

            self._resizing = Resizing(vm, self._config.hypervisor, host, self.containers, self._log)
        clock = GuestClock(vm.guest)
        await self._set_up_guest(vm, clock, first.spec, origin, linked=bool(cards))
        self._move(SandboxState.RUNNING)
        self.timeline.write()
        self._follow(vm, clock, namespace)
        return vm

    async def _start_vm(self, site: Site, size: VmSize, cards: list[NetDevice], needs: Needs) -> SandboxVm:
        passed = Passed(tuple(self.network.passed), cold=self._config.hypervisor.cold_plug_vfio != NO_PORT)
        return await start_vm(site, size, cards, needs._replace(ports=needs.ports + len(passed.later)), passed)

    async def _restore_vm(self, site: Site, origin: "Origin", first: Bundle, cards: list[NetDevice]) -> SandboxVm:
        if self.network.passed:
            raise UnsupportedError(f"sandbox {self.id} goes on from a saved one, and gets no devices of the host")
        from kata.sandbox.restoring import restore_sandbox  # noqa: PLC0415 - few sandboxes were saved

        self._restored = await restore_sandbox(site, origin, first, self._files, self.network, cards)
        return self._restored.vm

    async def _set_up_guest(
        self, vm: SandboxVm, clock: GuestClock, spec: dict[str, Any], origin: "Origin | None", *, linked: bool
    ) -> None:
        """Give the guest the time, its name and its share, and its network where it is `linked` to one."""
        self.network.locate(vm.places)
        self.network.close_taps()
        with self.timeline.measure("guest sandbox"):  # both at once: a guest that is slow answers in one go
            await asyncio.gather(clock.set(), self._introduce(vm, spec, origin))
        if linked or self.network.passed:
            with self.timeline.measure("guest network"):
                await self.network.configure(vm.guest, whole=origin is not None)

    def _follow(self, vm: SandboxVm, clock: GuestClock, namespace: PodNamespace | None) -> None:
        """Begin what goes on as long as the VM runs."""
        if namespace is not None and namespace.path:
            self._forwarding = PortForward(vm.guest, self._log)
            self._forwarding.open()
        following = [self._watch_vm(vm), self._oom_news.follow(vm.guest, self.containers), clock.follow()]
        if namespace is not None:
            following.append(self.network.watch(vm.machine, vm.guest))
        self._followers = [asyncio.create_task(task) for task in following]

    def _configure(self, path: str | None, spec: dict[str, Any]) -> Configuration:
        """Read the configuration, with what of it the annotations of the sandbox's first container may change."""
        config = load_configuration(path)
        if config.runtime.enable_debug:
            self._log.show_all()
        for remark in config.remarks:
            self._log.write("warning", f"the configuration has an option without effect: {remark}")
        return apply_annotations(config, spec.get("annotations") or {})

    async def _introduce(self, vm: SandboxVm, spec: dict[str, Any], origin: "Origin | None") -> None:
        """Tell the guest who it is, unless it knows since before it was saved."""
        if origin is None:
            await vm.guest.create_sandbox(describe_sandbox(self.id, spec, self._config, shared=vm.share is not None))
        elif origin.copy:
            from kata.sandbox.restoring import make_identity  # noqa: PLC0415 - few sandboxes are copies

            await vm.guest.renew(make_identity(find_host_name(spec)))

    async def _watch_vm(self, vm: SandboxVm) -> None:
        """End every process when the VM ends before it was told to.

        Where the host killed it for want of memory, that is what happened to the containers.
        """
        verdict = vm.guest.verdict = asyncio.get_running_loop().create_future()
        status = LOST_STATUS
        try:
            reason = await vm.wait_end()
            is_needed = any(one.status != Status.STOPPED for one in self.containers.values())
            self._log.write(
                "error" if is_needed else "info", f"the VM ended: {reason}", console=vm.machine.read_console()
            )
            if vm.oom.explain():
                status = 128 + signal.SIGKILL
                for container in self.containers.values():
                    if container.status != Status.STOPPED:
                        self._oom_news.tell(container)
        except KataError as error:
            self._log.write("error", "the VM ended and resists its release", error=str(error))
        finally:
            verdict.set_result(status)
        self.is_lost = True
        self.ended.set()
        for container in self.containers.values():
            container.lose(status)

    async def create_container(
        self, container_id: str, bundle: str, pid: int, offered: OfferedRoot | None = None
    ) -> None:
        """Create a container whose stand-in has the pid `pid`, this daemon's where it has none.

        Its root is in its bundle, unless the engine has `offered` it on disks.
        On any failure nothing of it is left. A sandbox that has no container then is of no use and goes too.
        """
        if container_id in self.containers or container_id in self._creations:
            raise ExistsError(f"container {container_id} exists already")
        if self._stopped is not None:
            raise StateError(f"sandbox {self.id} is stopping; container {container_id} cannot join it")
        creation = asyncio.create_task(self._create_within_time(container_id, bundle, pid, offered))
        self._creations[container_id] = creation
        try:
            await asyncio.wait({creation})
        finally:
            if not creation.done():
                creation.cancel()
                await asyncio.wait({creation})
            del self._creations[container_id]
            await self._stop_unused()
        # A deletion cancels the creation, and that must reach the caller as an answer, not as its own end.
        if creation.cancelled():
            raise StateError(f"container {container_id} was deleted while it was created")
        creation.result()

    async def _create_within_time(self, container_id: str, bundle: str, pid: int, offered: OfferedRoot | None) -> None:
        resources = find_resources(read_bundle(bundle).spec)
        check_memory_limit(container_id, resources)  # no need to wait for that
        vm = await self.wait_started()
        if self._resizing is None:
            check_huge_pages(container_id, read_limits(resources), vm.size.memory_mib)
        seconds = self._config.runtime.create_container_timeout
        try:
            async with asyncio.timeout(seconds) as patience:
                await self._create(vm, container_id, read_bundle(bundle), pid, offered)
        except TimeoutError as error:
            if not patience.expired():
                raise
            hint = "create_container_timeout says how long it may take"
            raise DeadlineError(f"container {container_id} was not created in {seconds} s", hint=hint) from error

    async def wait_started(self) -> SandboxVm:
        """Wait until the VM serves. Raise what kept it from that, StateError where that was `stop`."""
        assert self._started is not None
        # Not shield: a stop cancels the start, and that must reach the caller as an answer, not as its own end.
        await asyncio.wait({self._started})
        if self._started.cancelled():
            raise StateError(f"sandbox {self.id} was stopped while it started")
        return self._started.result()

    async def _stop_unused(self) -> None:
        if not self.is_used():
            await self.stop()

    def _make_record(self, container_id: str, bundle: Bundle, pid: int) -> store.ContainerRecord:
        return store.ContainerRecord(
            id=container_id,
            sandbox=self.id,
            bundle=bundle.path,
            pid=pid,
            status=Status.CREATING,
            created=name_moment(),
            rootfs=bundle.rootfs,
            annotations=bundle.spec.get("annotations") or {},
            namespace=self._namespace,
        )

    async def _create(
        self, vm: SandboxVm, container_id: str, bundle: Bundle, pid: int, offered: OfferedRoot | None
    ) -> None:
        assert self._provisioner is not None
        provisioner = self._provisioner
        restored, self._restored = self._restored, None
        root = DiskRoot(()) if restored else await provisioner.find_root(bundle, pid, offered)
        name = container_id
        if restored is not None:
            name = vm.guest.names[container_id] = restored.checkpoint.container.name
        prepared = provisioner.prepare(bundle, name, pid, root)
        attachment = await self._attachments.take(container_id, "", timeout=_STAND_IN_TIMEOUT)
        try:
            record = self._make_record(container_id, bundle, pid)
            container = provisioner.make_container(bundle, record, prepared, self.network.home)
        except BaseException:
            attachment.finish(None)
            raise
        self.containers[container_id] = container
        try:
            self._cgroups.add_container(container)
            translation, published = await provisioner.give(container, prepared.translation)
            if self._resizing is not None:
                with self.timeline.measure("resize"):
                    await self._resizing.fit()
            with self.timeline.measure("create container"):
                if restored is None:
                    await container.create(translation, attachment)
                else:
                    await container.adopt(restored.disks, attachment, paused=restored.checkpoint.container.paused)
            provisioner.follow(container, published)
            await self._place_vcpus(vm)
            set_oom_scores(vm.list_pids(), self.containers.values())
        except BaseException:
            attachment.finish(None)
            await asyncio.shield(asyncio.create_task(self._undo_create(container, vm)))
            raise
        finally:
            self.timeline.write()

    async def update_container(self, container_id: str, resources: dict[str, Any]) -> None:
        """Change a container's limits; `resources` is OCI's object. Raise StateError, UsageError, GuestError.

        Where the VM can grow, it is bigger before the container may use more, and smaller after.
        """
        container = self.find_container(container_id)
        vm = self.require_running()
        if self._resizing is None:
            await container.update(resources)
        else:
            await self._resizing.update(container, resources)
        await self._place_vcpus(vm)

    async def _place_vcpus(self, vm: SandboxVm) -> None:
        pin = self._config.runtime.enable_vcpus_pinning
        grown = self._resizing is not None
        await self._cgroups.place_vcpus(vm.machine, self.containers.values(), pin=pin, grown=grown)

    def find_container(self, container_id: str) -> Container:
        """Raise NotFoundError for a container that is not of this sandbox."""
        container = self.containers.get(container_id)
        if container is None:
            raise NotFoundError(f"container {container_id} does not exist")
        return container

    async def signal(self, container_id: str, exec_id: str, number: int, *, everyone: bool) -> None:
        """Send a signal to a container's init (`exec_id` empty), to one exec, or to every process of the container.

        A guest that hangs cannot even take SIGKILL for a container. Its VM is killed then, and the container with it.
        """
        container = self.find_container(container_id)
        try:
            await container.signal(exec_id, number, everyone=everyone)
        except DeadlineError as error:
            vm = self._vm
            if exec_id or number != signal.SIGKILL or vm is None or await self._is_needed_by_others(container_id, vm):
                raise
            self._log.write("error", f"the guest hangs: {error}; its VM is killed")
            container.lose(128 + signal.SIGKILL)
            await vm.machine.stop(timeout=0)

    async def _is_needed_by_others(self, container_id: str, vm: SandboxVm) -> bool:
        """Say whether the guest, slow as it is, answers while it has other containers."""
        if all(other.id == container_id or other.status == Status.STOPPED for other in self.containers.values()):
            return False
        try:
            await vm.guest.check(timeout=_CHECK_TIMEOUT)
        except KataError:
            return False
        return True

    async def checkpoint(self, container_id: str, directory: str, *, leave_running: bool) -> "Checkpoint":
        """Save the sandbox to a directory, and end its container unless it is to be left running.

        It goes on when the caller is cancelled. Raise StateError, UnsupportedError, HostError, DeadlineError; the
        sandbox goes on then.
        """
        from kata.sandbox.saving import Subject, save_sandbox  # noqa: PLC0415 - few sandboxes are saved

        container, vm = self.find_container(container_id), self.require_running()
        if self._saving:
            raise StateError(f"sandbox {self.id} is being saved already")
        if self._is_lasting or is_pod(container.bundle.spec) or len(self.containers) > 1 or self._creations:
            raise UnsupportedError(
                f"sandbox {self.id} is a pod's: only one with a single container of its own is saved"
            )
        if self._forwarding is not None and self._forwarding.is_busy:
            raise StateError(
                f"connections are forwarded to ports of sandbox {self.id}", hint="save it when they have ended"
            )
        assert self._site is not None
        self._saving = True
        subject = Subject(self._site, vm, container, self.network)
        task = asyncio.create_task(save_sandbox(subject, directory, leave_running=leave_running))
        task.add_done_callback(self._see_saved)
        return await asyncio.shield(task)

    def _see_saved(self, task: "asyncio.Task[Checkpoint]") -> None:
        self._saving = False
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._log.write("warning", "the sandbox was not saved", error=str(error))

    async def exec(self, container_id: str, exec_id: str, process: dict[str, Any]) -> None:
        container = self.find_container(container_id)
        attachment = await self._attachments.take(container_id, exec_id, timeout=_STAND_IN_TIMEOUT)
        await container.exec(exec_id, process, attachment)

    async def start_container(self, container_id: str) -> None:
        container = self.find_container(container_id)
        vm = self.require_running()
        try:
            with self.timeline.measure("network at start"):
                await self.network.catch_up(vm.machine, vm.guest, container.bundle.spec)
            with self.timeline.measure("start container"):
                self._report(await container.start())
        finally:
            self.timeline.write()

    async def _undo_create(self, container: Container, vm: SandboxVm) -> None:
        # Else the VM goes, and the container with it.
        if self._stopped is None and (self._is_lasting or len(self.containers) > 1):
            await container.discard()
        await self._forget(container, vm)
        self._report(await container.run_poststop())

    def _report(self, failures: list[str]) -> None:
        for failure in failures:
            self._log.write("warning", failure)

    async def delete_container(self, container_id: str, *, force: bool) -> None:
        """Delete a container; with the last one the sandbox goes. A second call waits for the first.

        It goes on when the caller is cancelled: half a deletion could not be told from a whole one. Forced, it ends a
        creation under way.
        """
        creation = self._creations.get(container_id)
        if creation is not None:
            if not force:
                raise StateError(f"container {container_id} is being created", hint="end its `create` first")
            creation.cancel()
            await asyncio.wait({creation})
            return
        container = self.find_container(container_id)
        container.check_deletable(force=force)
        deletion = self._deletions.get(container_id)
        if deletion is None:
            deletion = self._deletions[container_id] = asyncio.create_task(self._delete(container, force=force))
            deletion.add_done_callback(lambda _: self._deletions.pop(container_id, None))
        await asyncio.shield(deletion)

    async def _delete(self, container: Container, *, force: bool) -> None:
        last = len(self.containers) == 1 and not self._creations and not self._is_lasting
        if not last or container.holds_data or container.status not in (Status.CREATED, Status.STOPPED):
            await container.delete(force=force)
        # A container that came meanwhile needs the VM, and the share clean.
        await self._forget(container, self._vm)
        self._report(await container.run_poststop())
        await self._stop_unused()

    async def _forget(self, container: Container, vm: SandboxVm | None) -> None:
        """Drop what the host holds for one container. Without a VM, the sandbox's end releases the share."""
        self.containers.pop(container.id, None)
        container.forget(LOST_STATUS)
        self._cgroups.leave_by_container(container)
        assert self._provisioner is not None
        self._provisioner.forget(container, self.containers.values())
        if vm is not None:
            if self._resizing is not None and self.is_used():
                await self._resizing.shrink()
            await self._provisioner.take_back(container)
            await self._cgroups.remove_container(container)
            if self._stopped is None:
                self._cgroups.forget_gone()

    async def stop(self) -> None:
        """End the VM and release everything, also when the caller is cancelled. May be called again."""
        if self._stopped is None:
            self._stopped = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopped)

    async def _stop(self) -> None:
        self._move(SandboxState.STOPPING)
        try:
            await self._end_vm()
        except Exception as error:  # noqa: BLE001 - whatever it was, the rest must be released and the daemon must end
            self._log.write("error", "the VM could not be released", error=repr(error))
        self.management.close()
        self._cgroups.leave()
        # In a thread: a cgroup goes only when the last of its processes has, and containers' answers must not wait.
        self.network.close()
        failures = await asyncio.to_thread(release_resources, self.directory)
        for failure in failures:
            self._log.write("error", failure)
        self.is_released = not failures
        self._move(SandboxState.STOPPED)
        self.ended.set()
        self.gone.set()

    async def _end_vm(self) -> None:
        for task in self._followers:
            task.cancel()
        if self._forwarding is not None:
            self._forwarding.close()
        if self._started is not None:
            self._started.cancel()
            await asyncio.wait({self._started})
            if not self._started.cancelled():
                self._started.exception()  # whoever waits for the start hears of it; nobody has to
        vm, provisioner = self._vm, self._provisioner
        if provisioner is not None:
            provisioner.stop_following()
        for container in list(self.containers.values()):
            await self._forget(container, None)
        if vm is not None and provisioner is not None and provisioner.hold_data and not self.ended.is_set():
            try:
                await vm.guest.destroy_sandbox(timeout=_FLUSH_TIMEOUT)
            except KataError as error:
                self._log.write("error", "disks may lack what the guest wrote last", error=str(error))
        if vm is not None:
            await vm.stop()
        if provisioner is not None:
            provisioner.close()

    def is_used(self) -> bool:
        """Say whether there is a container, or one on its way, or whether the sandbox is to be there without any."""
        return bool(self.containers or self._creations) or self._is_lasting

    async def stat_container(self, container_id: str) -> wire.StatsContainerResponse:
        """Return what the guest says of a container's use, and what the host counted on the pod's links."""
        stats = await self.require_running().guest.stat_container(container_id)
        stats.network_stats = self.network.read_statistics()
        return stats

    @property
    def vm(self) -> SandboxVm | None:
        """The VM, as long as it runs."""
        return self._vm if self._state == SandboxState.RUNNING else None

    def require_running(self) -> SandboxVm:
        """Raise StateError unless the VM runs."""
        vm = self.vm
        if vm is None:
            raise StateError(f"sandbox {self.id} is {self._state}")
        return vm
