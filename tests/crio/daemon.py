"""A real CRI-O with directories of its own, whose runtime `kata` is the shim of this tree."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from containerd.daemon import write_kata_configuration, write_shim
from cri.images import PAUSE
from howto import find_block
from netns import run_ip
from peers import require_installed, require_program
from registry import Registry

_TIMEOUT = 60.0
_CONFIG = """
[crio]
root = "{place}/root"
runroot = "{place}/run"
storage_driver = "overlay"
log_dir = "{place}/log"
version_file = "{place}/version"
version_file_persist = "{place}/version-persist"
clean_shutdown_file = ""
internal_wipe = false
[crio.api]
listen = "{place}/s"
stream_port = "0"
[crio.runtime]
default_runtime = "kata"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
pinns_path = "{pinns}"
namespaces_dir = "{place}/ns"
container_exits_dir = "{place}/exits"
container_attach_socket_dir = "{place}/attach"
hooks_dir = ["{place}/hooks"]
apparmor_profile = "unconfined"
{kata}
runtime_config_path = "{place}/kata.toml"
[crio.image]
pause_image = "{pause}"
pause_command = ""
signature_policy = "{place}/policy.json"
[crio.network]
network_dir = "{place}/cni"
plugin_dirs = ["/usr/lib/cni"]
[crio.nri]
enable_nri = false
"""
_MIRROR = """
[[registry]]
prefix = "localhost"
location = "{location}"
insecure = true
"""


class Crio:
    """One daemon, until the block ends, to be entered by a thread in a network namespace of the test's own.

    All its images come from a registry of its own.
    """

    def __init__(self, place: Path, image: Path, add_images: Callable[[Registry, Path], None]) -> None:
        """Prepare everything. `add_images` may use the network; once the daemon is entered there is none."""
        self.place = place
        self.address = f"unix://{place}/s"
        self._program = require_program("cri-o", "crio")
        pinns = require_program("cri-o", "pinns")
        require_installed("conmon")
        self._registry = Registry()
        add_images(self._registry, place / "layers")
        for name in ("cni", "hooks", "log"):
            (place / name).mkdir(parents=True)
        write_shim(place)
        write_kata_configuration(place, image)
        kata = find_block("crio", "crio.runtime.runtimes.kata", "toml")
        for word, own in (("/usr/local/bin/", f"{place}/bin/"), ("/run/vc", f"{place}/vm")):
            assert word in kata
            kata = kata.replace(word, own)
        (place / "crio.conf").write_text(_CONFIG.format(place=place, pinns=pinns, pause=PAUSE, kata=kata))
        (place / "policy.json").write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        ipam = {"type": "host-local", "dataDir": f"{place}/ipam", "ranges": [[{"subnet": "10.87.0.0/24"}]]}
        network = {"cniVersion": "0.4.0", "name": "kata-crio-test", "plugins": [{"type": "ptp", "ipam": ipam}]}
        (place / "cni/10.conflist").write_text(json.dumps(network))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        run_ip("link", "set", "lo", "up")
        self._registry.__enter__()
        location = self._registry.url.removeprefix("http://")
        (self.place / "registries.conf").write_text(_MIRROR.format(location=location))
        self.start()
        return self

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        with (self.place / "crio.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._program, "--config", f"{self.place}/crio.conf", "--config-dir", ""),
                    *("--registries-conf", f"{self.place}/registries.conf"),
                    *("--registries-conf-dir", f"{self.place}/hooks"),  # empty: nothing of this host counts
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _TIMEOUT
        while not self._answers():
            assert self._process.poll() is None, self.read_log()
            assert time.monotonic() < deadline, f"CRI-O does not answer: {self.read_log()}"

    def _answers(self) -> bool:
        command = [require_program("cri-tools", "crictl"), "--runtime-endpoint", self.address, "version"]
        return subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT).returncode == 0

    def read_log(self) -> str:
        """Return the end of what CRI-O said."""
        return (self.place / "crio.log").read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """End the daemon as a service's stop does; the pods go on."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_TIMEOUT)

    def kill(self) -> None:
        """End the daemon as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_TIMEOUT)

    def __exit__(self, *_failure: object) -> None:
        self.stop()
        self._registry.__exit__()
        subprocess.run(["umount", f"{self.place}/root/overlay"], check=False, capture_output=True, timeout=_TIMEOUT)
        shutil.rmtree(self.place / "root", ignore_errors=True)
