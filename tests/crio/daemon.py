"""A real CRI-O with directories of its own, and crictl to drive it; the shim is that of this tree."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import leaks
from containerd.daemon import write_kata_configuration, write_shim
from containerd.images import IMAGE, write_image
from peers import require_installed, require_program

_PAUSE = "localhost/kata-test/pause:latest"
_TIMEOUT = 120.0
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
conmon_cgroup = "pod"
cgroup_manager = "cgroupfs"
pinns_path = "{pinns}"
namespaces_dir = "{place}/ns"
container_exits_dir = "{place}/exits"
container_attach_socket_dir = "{place}/attach"
hooks_dir = ["{place}/hooks"]
apparmor_profile = "unconfined"
[crio.runtime.runtimes.kata]
runtime_path = "{place}/bin/containerd-shim-kata-v2"
runtime_type = "vm"
runtime_root = "{place}/vm"
runtime_config_path = "{place}/kata.toml"
privileged_without_host_devices = true
[crio.image]
pause_image = "localhost/kata-test/pause:latest"
pause_command = ""
signature_policy = "{place}/policy.json"
[crio.network]
network_dir = "{place}/cni"
plugin_dirs = ["/usr/lib/cni"]
[crio.nri]
enable_nri = false
"""


class Crio:
    """One daemon, until the block ends. `token` is in the name of each pod."""

    def __init__(self, place: Path, image: Path, token: str) -> None:
        self.place = place
        self.token = token
        self._crio = require_program("cri-o", "crio")
        self._crictl = require_program("cri-tools", "crictl")
        pinns = require_program("cri-o", "pinns")
        require_installed("conmon")
        for name in ("cni", "hooks", "log"):
            (place / name).mkdir(parents=True)
        write_shim(place)
        write_kata_configuration(place, image)
        (place / "crio.conf").write_text(_CONFIG.format(place=place, pinns=pinns))
        (place / "policy.json").write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        ipam = {"type": "host-local", "dataDir": f"{place}/ipam", "ranges": [[{"subnet": "10.87.0.0/24"}]]}
        network = {"cniVersion": "0.4.0", "name": token, "plugins": [{"type": "ptp", "ipam": ipam}]}
        (place / "cni" / "10.conflist").write_text(json.dumps(network))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for name, command in ((IMAGE, ("/bin/sh",)), (_PAUSE, ("/bin/sleep", "100000"))):
            archive = write_image(self.place / "image.tar", name, command)
            target = f"containers-storage:[overlay@{self.place}/root+{self.place}/run]{name}"
            copy = [require_installed("skopeo"), "copy", "-q", "--insecure-policy", f"oci-archive:{archive}", target]
            subprocess.run(copy, check=True, timeout=_TIMEOUT)
        with (self.place / "crio.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._crio, "--config", f"{self.place}/crio.conf", "--config-dir", ""],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while self.run("version").returncode:
            assert self._process.poll() is None, (self.place / "crio.log").read_text()
            assert time.monotonic() < deadline, "CRI-O does not answer"
        return self

    def __exit__(self, *_failure: object) -> None:
        self.run("rmp", "--force", "--all")
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)
        subprocess.run(["umount", f"{self.place}/root/overlay"], check=False, capture_output=True, timeout=_TIMEOUT)

    def run(self, *words: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run crictl to its end."""
        command = [self._crictl, "--runtime-endpoint", f"unix://{self.place}/s", "--timeout", "100s", *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=_TIMEOUT, check=False)

    def succeed(self, *words: str, stdin: str | None = None) -> str:
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, (words, done, (self.place / "crio.log").read_text()[-2000:])
        return done.stdout.strip()

    def write(self, name: str, value: dict[str, Any]) -> str:
        """Write one of crictl's descriptions and return its path."""
        path = self.place / name
        path.write_text(json.dumps(value))
        return str(path)

    def wait_until_clean(self, word: str) -> set[str]:
        """Return what stays on this host with `word` in its name: CRI-O does not wait for the shim's own end."""
        return leaks.wait_until_clean(word, Path("/run/kata"))
