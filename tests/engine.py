"""A container engine, as small as tests need it: bundles of busybox, and `kata-runtime` of this tree to run them.

Like conmon it is a subreaper, so the processes that stand for containers become its children and tell their exit codes.
"""

import contextlib
import ctypes
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

import leaks
from kata.protocol.oci.default import make_spec
from kata.sandbox.ledger import Kind, list_resources
from kata.sys.process import read_stat

_TREE = Path(__file__).parents[1]
ARTEFACTS = Path(os.environ.get("KATAARTEFACTS", "/usr/local/share/kata-containers"))
_BUSYBOX = Path("/bin/busybox")
_LAUNCHER = """#!/usr/bin/python3 -IS
import sys
sys.path.insert(0, {source!r})
from kata.cli.main import main
sys.exit(main())
"""
HYPERVISOR = os.environ.get("KATA_TEST_HYPERVISOR") or "qemu"
"""The driver that sandboxes are started with, or `microvm`, QEMU's other machine."""

_COMMANDS = {"clh": "cloud-hyperviso", "firecracker": "firecracker"}
"""Names of VMMs' processes, as far as the kernel keeps them."""


def begin_table(flavour: str) -> str:
    """Return the first lines of the configuration's table for a driver, or for `microvm`.

    The lab has KVM, which `auto` has to find; elsewhere nothing is measured for each engine.
    """
    head = '[hypervisor.qemu]\nmachine_type = "microvm"' if flavour == "microvm" else f"[hypervisor.{flavour}]"
    return f'{head}\naccelerator = "{"auto" if os.environ.get("KATA_LAB") else "tcg"}"'


_CONFIGURATION = f"""
[factory]
{{factory}}

{begin_table(HYPERVISOR)}
kernel = "{{kernel}}"
image = "{{image}}"
default_memory = 512
"""
_PR_SET_CHILD_SUBREAPER = 36
_COMMAND_TIMEOUT = 120.0
ALL_CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD"),
    *("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT"),
    *("CAP_SYS_MODULE", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_LINUX_IMMUTABLE"),
)

Change = Callable[[dict[str, Any]], None]
"""What a test does to the default spec of a bundle."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended. `seconds` is how long it took."""

    code: int
    out: bytes
    err: str
    seconds: float

    @property
    def text(self) -> str:
        return self.out.decode()


def require_host() -> None:
    """Skip, loudly, where no VM of this product can be made."""
    missing = [tool for tool in ("qemu-system-x86_64", "mkfs.erofs") if shutil.which(tool) is None]
    missing += [str(path) for path in (ARTEFACTS / "vmlinux.container", _BUSYBOX) if not path.exists()]
    if os.geteuid() != 0:
        missing.append("root")
    if missing:
        pytest.skip(f"no sandbox can be started here: missing {', '.join(missing)}")


def build_image(directory: Path) -> Path:
    """Build the guest's image from this tree and return its path. The builder's cache makes that two seconds' work."""
    if os.environ.get("KATA_LAB"):  # where apt has no network: it came with the job
        return ARTEFACTS / "kata-containers.img"
    argv = ["/usr/bin/python3", "-m", "kata.image.main", "rootfs", "--source", str(_TREE / "src/kata"), "--output"]
    environment = {**os.environ, "PYTHONPATH": str(_TREE / "src")}
    subprocess.run([*argv, str(directory)], check=True, env=environment, timeout=600, capture_output=True)
    return directory / "kata-containers.img"


class Engine:
    """Drives one runtime with a state directory of its own. `token` is in the name of all that it makes."""

    def __init__(self, directory: Path, image: Path) -> None:
        self.token = f"t{secrets.token_hex(4)}"
        self.directory = directory / self.token
        self.root = self.directory / "root"
        self.launcher = self.directory / "kata-runtime"
        self.config = self.directory / "configuration.toml"
        self._count = 0
        self.directory.mkdir(parents=True)
        self.launcher.write_text(_LAUNCHER.format(source=str(_TREE / "src")))
        self.launcher.chmod(0o755)
        self._image = image
        self.templates = self.directory / "templates"
        self._factory = "enable_template = false"
        self.configure("")

    def configure(self, more: str) -> None:
        """Write the configuration file; `more` is TOML that follows the table of the hypervisor."""
        kernel = ARTEFACTS / "vmlinux.container"
        head = _CONFIGURATION.format(factory=self._factory, kernel=kernel, image=self._image)
        self.config.write_text(head + more)

    def use_templates(self, more: str = "", *, pool: int = 0) -> None:
        """Let VMs be copies of templates, which are this engine's own; without this each of them boots.

        So many of them are to wait once `factory init` was run.
        """
        self._factory = f'template_path = "{self.templates}"\nvm_cache_number = {pool}'
        self.configure(more)

    def __enter__(self) -> Self:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        return self

    def __exit__(self, *_failure: object) -> None:
        for record in sorted((self.root / "containers").glob("*.json")):
            self.run("delete", "--force", record.stem)
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def name(self, what: str) -> str:
        """Return an id that no other has and that says what it is for."""
        self._count += 1
        return f"{self.token}-{self._count}-{what}"

    def command(self, *words: str) -> list[str]:
        return [str(self.launcher), "--root", str(self.root), "--config", str(self.config), *words]

    def run(self, *words: str, stdin: bytes = b"", timeout: float = _COMMAND_TIMEOUT) -> Result:
        """Run a command of the runtime to its end.

        Its output goes to files: a process that it leaves behind keeps the streams, and a pipe would have no end.
        """
        self._count += 1
        place = self.directory / f"command-{self._count}"
        place.with_suffix(".in").write_bytes(stdin)
        began = time.monotonic()
        with (
            place.with_suffix(".in").open("rb") as source,
            place.with_suffix(".out").open("wb") as out,
            place.with_suffix(".err").open("wb") as err,
        ):
            done = subprocess.run(
                self.command(*words), stdin=source, stdout=out, stderr=err, timeout=timeout, check=False
            )
        seconds = time.monotonic() - began
        err_text = place.with_suffix(".err").read_text(errors="replace")
        return Result(done.returncode, place.with_suffix(".out").read_bytes(), err_text, seconds)

    def succeed(self, *words: str, stdin: bytes = b"") -> str:
        result = self.run(*words, stdin=stdin)
        assert result.code == 0, (words, result)
        return result.text

    def start(self, *words: str, **more: Any) -> "subprocess.Popen[bytes]":
        """Start a command of the runtime with pipes and leave it running."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.command(*words), **{**pipes, **more})

    def make_bundle(self, container: str, args: list[str], change: Change | None = None) -> Path:
        """Write a bundle with a writable busybox root; `change` may alter its spec."""
        bundle = self.directory / f"bundle-{container}"
        fill_root(bundle / "rootfs")
        spec = make_spec(args, terminal=False, readonly=False)
        spec["linux"]["cgroupsPath"] = f"/{self.token}/{container}"
        if change is not None:
            change(spec)
        (bundle / "config.json").write_text(json.dumps(spec))
        return bundle

    def find_sandbox(self, sandbox: str) -> Path:
        return self.root / "sandboxes" / sandbox

    def find_state(self, container: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.succeed("state", container))
        return state

    def find_traces(self) -> set[str]:
        return leaks.find_traces(self.token, self.root)

    def wait_until_clean(self, *, allowed: set[str] | None = None, timeout: float = 10.0) -> set[str]:
        left = leaks.wait_until_clean(self.token, self.root, allowed=allowed, timeout=timeout)
        with contextlib.suppress(OSError):  # the engine's own parent cgroup, as Podman's machine.slice is Podman's
            for path in Path("/sys/fs/cgroup").glob(f"*/{self.token}"):
                path.rmdir()
        return left

    def find_process(self, role: str, sandbox: str) -> int:
        """Return the pid of `qemu` (the VMM), `virtiofsd` or `serve` (the daemon) of a sandbox. Raise LookupError."""
        if role == "qemu" and HYPERVISOR in _COMMANDS:
            return self._find_vmm(sandbox, _COMMANDS[HYPERVISOR])
        for pid, text in leaks.list_processes(self.token):
            program = Path(text.split()[0]).name
            if sandbox not in text or _find_role(program, text) != role:
                continue
            # virtiofsd has a child of the same name, which does the work and ends with it.
            if role != "virtiofsd" or _find_parent_program(pid) != program:
                return pid
        raise LookupError(f"sandbox {sandbox} has no {role}")

    def _find_vmm(self, sandbox: str, command: str) -> int:
        """Return the pid of a VMM whose command line says nothing of its sandbox."""
        for kind, value in list_resources(str(self.find_sandbox(sandbox))):
            stat = read_stat(int(value.split()[0])) if kind is Kind.PROCESS else None
            if stat is not None and stat.command == command:
                return stat.pid
        raise LookupError(f"sandbox {sandbox} has no {command}")

    def save_artefacts(self, to: Path) -> None:
        """Copy what tells why: consoles, logs, timelines, the output of commands."""
        to.mkdir(parents=True, exist_ok=True)
        for path in [*self.root.glob("sandboxes/*/*"), *self.directory.glob("*.err"), *self.directory.glob("*.out")]:
            if path.is_file() and not path.is_socket():
                shutil.copyfile(path, to / f"{path.parent.name}-{path.name}")
        (to / "traces.txt").write_text("\n".join(sorted(self.find_traces())) + "\n")

    @contextlib.contextmanager
    def hold(
        self, *args: str, pod: str = "", change: Change | None = None, start: bool = True, name: str = "held"
    ) -> "Iterator[Container]":
        """Have a container that runs `args` during the block, in a sandbox of its own or in that of `pod`."""
        container = self.name(name)
        bundle = self.make_bundle(container, list(args), _combine(_join(pod), change))
        pid_file = bundle / "pid"
        result = self.run("create", "--bundle", str(bundle), "--pid-file", str(pid_file), container)
        assert result.code == 0, result.err
        out = self.directory / f"command-{self._count}.out"
        held = Container(self, container, bundle, int(pid_file.read_text()), out, pod or container)
        try:
            if start:
                self.succeed("start", container)
            yield held
        finally:
            self.run("delete", "--force", container)

    def run_container(
        self, *args: str, pod: str = "", change: Change | None = None, stdin: bytes = b"", name: str = "run"
    ) -> Result:
        """Run a container to its end in the foreground."""
        container = self.name(name)
        bundle = self.make_bundle(container, list(args), _combine(_join(pod), change))
        return self.run("run", "--bundle", str(bundle), container, stdin=stdin)


@dataclass(frozen=True, slots=True)
class Container:
    """A container that an engine holds. `pid` is what stands for it on the host; `out` is the file of its output."""

    engine: Engine
    id: str
    bundle: Path
    pid: int
    out: Path
    sandbox: str

    def execute(self, *args: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> Result:
        return self.engine.run("exec", *flags, self.id, *args, stdin=stdin)

    def ask(self, *args: str) -> str:
        """Run a program in it that has to succeed, and return what it says."""
        result = self.execute(*args)
        assert result.code == 0, result
        return result.text

    def await_success(self, *conditions: str) -> None:
        """Wait until each of these commands of the shell has succeeded in it."""
        for condition in conditions:
            self.ask("sh", "-c", f"until {condition} >/dev/null 2>&1; do :; done")

    def find_status(self) -> str:
        return str(self.engine.find_state(self.id)["status"])

    def kill(self, *words: str) -> None:
        self.engine.succeed("kill", self.id, *words)

    def wait(self, *, timeout: float = 20.0) -> int:
        """Wait for the exit of what stands for it, as conmon does, and return the code, or minus the signal."""
        return wait_for_child(self.pid, timeout=timeout)


def wait_for_child(pid: int, *, timeout: float) -> int:
    descriptor = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        assert poller.poll(int(timeout * 1000)), f"process {pid} did not end within {timeout:g} s"
    finally:
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fill_root(rootfs: Path) -> None:
    """Make a root file system of busybox."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root", "mnt"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy(_BUSYBOX, rootfs / "bin/busybox")
    names = subprocess.run([_BUSYBOX, "--list"], check=True, capture_output=True, text=True, timeout=10).stdout
    for name in names.split():
        if name != "busybox":
            (rootfs / "bin" / name).symlink_to("busybox")
    (rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nalice:x:1000:100::/:/bin/sh\n")
    (rootfs / "etc/group").write_text("root:x:0:\nusers:x:100:\n")


def grant(*capabilities: str) -> Change:
    """Give a container these capabilities, and ways to new privileges."""

    def change(spec: dict[str, Any]) -> None:
        names = ("bounding", "effective", "permitted")
        spec["process"]["capabilities"] = {name: list(capabilities) for name in names}
        spec["process"]["noNewPrivileges"] = False

    return change


def make_privileged(spec: dict[str, Any]) -> None:
    """As `podman run --privileged`: all capabilities, nothing masked, every device."""
    grant(*ALL_CAPABILITIES)(spec)
    spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []
    spec["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    for mount in spec["mounts"]:
        if mount["destination"] in ("/sys", "/sys/fs/cgroup"):
            mount["options"] = [option for option in mount["options"] if option != "ro"]


def add_mount(destination: str, kind: str, source: str, *options: str) -> Change:
    mount = {"destination": destination, "type": kind, "source": source, "options": list(options)}
    return lambda spec: spec["mounts"].append(mount)


def _join(pod: str) -> Change:
    def change(spec: dict[str, Any]) -> None:
        if pod:
            annotations = spec.setdefault("annotations", {})
            annotations["io.kubernetes.cri-o.ContainerType"] = "container"
            annotations["io.kubernetes.cri-o.SandboxID"] = pod

    return change


def _combine(*changes: Change | None) -> Change:
    def change(spec: dict[str, Any]) -> None:
        for one in changes:
            if one is not None:
                one(spec)

    return change


def combine(*changes: Change) -> Change:
    """Apply several changes in order."""
    return _combine(*changes)


def _find_role(program: str, text: str) -> str:
    if program.startswith("qemu"):
        return "qemu"
    return "serve" if " serve --sandbox " in text else program


def _find_parent_program(pid: int) -> str:
    with contextlib.suppress(OSError):
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        return Path(Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")[0].decode()).name
    return ""


def kill_process(pid: int) -> None:
    """Kill -9 and wait until the kernel has let go of it."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        assert poller.poll(5000), f"process {pid} survives SIGKILL"
    finally:
        os.close(descriptor)
