"""A containerd that serves Kubernetes' CRI, and its images from a registry.

Its handlers are `runc` and `kata`, by the words of kubernetes.md, and either those that this page has for the other
hypervisors, with what is installed, or `kata-qemu` and `kata-fc` with configurations of their own; since containerd 2
also `kata-sandbox`, whose pods have no pause container, and `kata-streaming`, whose containers have no FIFOs either.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from containerd.daemon import write_kata_configuration, write_shim
from cri.images import PAUSE
from howto import find_block
from lab.installed import FLAVOURS
from lab.job import find_vmm
from netns import run_ip
from peers import find_program
from registry import Registry

SMALL_MEMORY = 320
"""MiB with which a VM of the handler `kata-qemu` begins; it grows with its containers. The others have more."""

_START_TIMEOUT = 30.0
_CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
_SECTIONS = 2
"""The first version of containerd that reads sections of the configuration from files of their own."""

# Version 2 of the file's format: containerd 1.6 knows no other, and containerd 2 reads it too.
# `restrict_oom_score_adj` is for runc where root lacks CAP_SYS_RESOURCE.
_CONFIG = """
version = 2
imports = ["{place}/conf.d/*.toml"]
root = "{place}/root"
state = "{place}/state"
[grpc]
  address = "{place}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{place}/opt"
[plugins."io.containerd.nri.v1.nri"]
  disable = false
  socket_path = "{place}/nri.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  stats_collect_period = 1
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{place}/hosts"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{place}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    base_runtime_spec = "{place}/runc-spec.json"
"""
# A handler whose sandboxer is the shim has no options: containerd 2.2 starts no container of one that has other options
# than runc's.
_OWN_HANDLERS = """
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-qemu]
    runtime_type = "io.containerd.kata-qemu.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-qemu.options]
      ConfigPath = "{place}/kata-qemu.toml"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-fc]
    runtime_type = "io.containerd.kata-fc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-fc.options]
      ConfigPath = "{place}/kata-fc.toml"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-sandbox]
    runtime_type = "io.containerd.kata.v2"
    sandboxer = "shim"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-streaming]
    runtime_type = "io.containerd.kata.v2"
    sandboxer = "shim"
    io_type = "streaming"
"""
_HOSTS = """server = "{url}"
[host."{url}"]
  capabilities = ["pull", "resolve"]
"""
_NETWORK = {
    "cniVersion": "0.4.0",
    "name": "kata-cri-test",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "kata-cri0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.77.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def describe_flavours() -> str:
    """Return the handlers of the other hypervisors, made as kubernetes.md says: of that of `kata`, by two names."""
    kata = find_block("kubernetes", "io.containerd.grpc.v1.cri", "toml")
    words = [f"kata-{flavour.name}" for flavour in FLAVOURS.values()]
    return "".join(
        kata.replace("runtimes.kata]", f"runtimes.{word}]").replace("io.containerd.kata.v2", f"io.containerd.{word}.v2")
        for word in words
    )


def find_missing() -> list[str]:
    """Return the names of what this host lacks to serve the CRI."""
    missing = [name for name in ("ctr", "containerd", "iptables", "runc") if shutil.which(name) is None]
    missing += [] if Path("/usr/bin/catatonit").exists() else ["catatonit"]
    return missing + ([] if _find_cni() else ["containernetworking-plugins"])


class CriDaemon:
    """One daemon with the directories in `place`, to be entered by a thread in a network namespace of the test's own.

    All images come from a registry of its own, whatever host their names have.
    """

    def __init__(
        self, place: Path, image: Path | None, add_images: Callable[[Registry, Path], None], containerd: str = ""
    ) -> None:
        """Prepare everything. `add_images` may use the network; once the daemon is entered there is none.

        `containerd` is the program, by default the newest there is. Without an `image` of the guest's, shims and their
        configuration are those that are installed.
        """
        self.place = place
        self.address = f"unix://{place}/c.sock"
        self.containerd = containerd or find_program("containerd", "containerd") or "containerd"
        self._registry = Registry()
        add_images(self._registry, place / "layers")
        for name in ("hosts/_default", "net.d", "conf.d"):
            (place / name).mkdir(parents=True)
        (place / "net.d/10-test.conflist").write_text(json.dumps(_NETWORK))
        programs = [str(Path(self.containerd).parent), os.environ["PATH"]]
        self._environment = {**os.environ, "CNI_PATH": str(_find_cni())}
        if image is None:
            handlers = describe_flavours()
        else:
            handlers = _OWN_HANDLERS.format(place=place)
            shim, configuration = self._write_runtime(image)
            programs.insert(0, str(shim.parent))
            self._environment["KATA_CONF_FILE"] = str(configuration)
        self._environment["PATH"] = ":".join(programs)
        self._configure(handlers)
        self._write_runc_spec()
        self._process: subprocess.Popen[bytes] | None = None

    def _write_runtime(self, image: Path) -> tuple[Path, Path]:
        """Write shims of this tree and what configures them; return that of `kata`, and its configuration."""
        shim = write_shim(self.place)
        for name in ("qemu", "fc"):
            (shim.parent / f"containerd-shim-kata-{name}-v2").symlink_to(shim.name)
        configuration = write_kata_configuration(self.place, image)
        small = re.sub("default_memory = .*", f"default_memory = {SMALL_MEMORY}", configuration.read_text())
        (self.place / "kata-qemu.toml").write_text(f"{small}[runtime]\nstatic_sandbox_resource_mgmt = false\n")
        programs = f'path = "{find_vmm("firecracker")}"\njailer_path = "{find_vmm("jailer")}"\n'
        (self.place / "kata-fc.toml").write_text(f"[hypervisor.firecracker]\n{programs}")
        return shim, configuration

    def _configure(self, handlers: str) -> None:
        """Write the configuration, and the handler `kata` of kubernetes.md where that page says."""
        settings = _CONFIG.format(place=self.place, pause=PAUSE, cni=_find_cni()) + handlers
        if find_major(self.containerd) >= _SECTIONS:
            section = find_block("kubernetes", "io.containerd.cri.v1.runtime", "toml")
            (self.place / "conf.d/50-kata.toml").write_text(section)
        else:
            settings += find_block("kubernetes", "io.containerd.grpc.v1.cri", "toml")
        (self.place / "config.toml").write_text(settings)

    def _write_runc_spec(self) -> None:
        """Base runc's containers on containerd's own spec without limits, which this host's root may not raise."""
        done = subprocess.run(["ctr", "oci", "spec"], capture_output=True, check=True, timeout=30)
        spec = json.loads(done.stdout)
        spec["process"].pop("rlimits", None)
        (self.place / "runc-spec.json").write_text(json.dumps(spec))

    def __enter__(self) -> Self:
        run_ip("link", "set", "lo", "up")
        self._registry.__enter__()
        (self.place / "hosts/_default/hosts.toml").write_text(_HOSTS.format(url=self._registry.url))
        self.start()
        return self

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        with (self.place / "containerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.containerd, "--config", str(self.place / "config.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            assert self._process.poll() is None, (self.place / "containerd.log").read_text()
            assert time.monotonic() < deadline, "containerd does not answer"

    def _answers(self) -> bool:
        """Ask containerd, and its CRI where crictl is there: that one serves some time after the rest."""
        commands = [["ctr", "--address", f"{self.place}/c.sock", "version"]]
        crictl = find_program("cri-tools", "crictl")
        if crictl:
            commands.append([str(crictl), "--runtime-endpoint", self.address, "version"])
        return all(
            subprocess.run(command, capture_output=True, check=False, timeout=_START_TIMEOUT).returncode == 0
            for command in commands
        )

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def __exit__(self, *_failure: object) -> None:
        self.stop()
        self._registry.__exit__()


def find_major(containerd: str) -> int:
    """Return the first number of the program's version, 0 when it tells none."""
    shown = subprocess.run([containerd, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    version = re.search(r"\bv?(\d+)\.\d+\.\d+", shown)
    return int(version[1]) if version else 0


def _find_cni() -> Path | None:
    return next((folder for folder in _CNI_FOLDERS if (folder / "bridge").exists()), None)
