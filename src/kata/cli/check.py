"""`check`: what this host can do, what it lacks, and what to do about it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from kata.cli.daemon import find_command
from kata.cli.invocation import Invocation
from kata.config.artifacts import find_artifacts
from kata.config.load import load_configuration
from kata.config.model import NO_SHARED_FS, Configuration
from kata.errors import HostError, KataError
from kata.hypervisor.accelerator import choose_accelerator
from kata.hypervisor.driver import open_hypervisor
from kata.storage.virtiofsd import find_virtiofsd
from kata.sys.program import find_program

Verdict = Literal["ok", "warn", "fail"]
_BOOT_TIMEOUT = 300
_LEAST_SPACE = 256 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table. `hint` says what to do where the verdict is not ok."""

    name: str
    verdict: Verdict
    detail: str
    hint: str = ""


def run_check(invocation: Invocation) -> int:
    path = str(invocation.globals["config"] or invocation.globals["kata-config"]) or None
    findings = []
    try:
        config = load_configuration(path)
        source = config.source or "built-in defaults"
        if config.remarks:
            detail = f"{source} has {len(config.remarks)} options without effect"
            findings.append(Finding("configuration", "warn", detail, "`kata-runtime env` lists them"))
        else:
            findings.append(Finding("configuration", "ok", source))
    except KataError as error:
        config = Configuration()
        findings.append(Finding("configuration", "fail", error.message, error.hint or ""))
    findings += [finding for look in _LOOKS for finding in look(config, invocation.root)]
    if invocation.switch("boot"):
        findings.append(_boot(invocation))
    _print(findings, as_json=invocation.switch("json"))
    bad = ("fail", "warn") if invocation.switch("strict") else ("fail",)
    return 1 if any(finding.verdict in bad for finding in findings) else 0


def _print(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.verdict:4}  {finding.name:{width}}  {finding.detail}")
        if finding.hint and finding.verdict != "ok":
            print(f"      {'':{width}}  -> {finding.hint}")


def _look_at_user(_config: Configuration, _root: str) -> Iterator[Finding]:
    uid = os.geteuid()
    if uid:
        yield Finding("user", "fail", f"uid {uid}", "run as root: mounts, cgroups and namespaces need it")
    else:
        yield Finding("user", "ok", "root")


def _look_at_accelerator(config: Configuration, root: str) -> Iterator[Finding]:
    try:
        report = choose_accelerator(config.hypervisor.accelerator, root)
    except KataError as error:
        yield Finding("accelerator", "fail", error.message, error.hint or "")
        return
    if report.warning:
        yield Finding("accelerator", "warn", report.warning, "use hardware, or a VM, with nested virtualisation")
    else:
        yield Finding("accelerator", "ok", report.reason)


def _look_at_vmm(config: Configuration, root: str) -> Iterator[Finding]:
    shares = config.hypervisor.shared_fs != NO_SHARED_FS
    try:
        hypervisor = open_hypervisor(config.driver, config.hypervisor, root)
        yield Finding(config.driver, "ok", f"{hypervisor.path} {hypervisor.version}")
        shares = shares and hypervisor.find_capabilities().fs_share
    except KataError as error:
        yield Finding(config.driver, "fail", error.message, error.hint or "")
    if not shares:
        packer = find_program("mkfs.erofs")
        yield Finding("mkfs.erofs", "ok" if packer else "fail", packer or "there is none", "apt install erofs-utils")
        return
    try:
        virtiofsd = find_virtiofsd(config.hypervisor.virtio_fs_daemon, state_directory=root)
        yield Finding("virtiofsd", "ok", virtiofsd.path)
    except KataError as error:
        yield Finding("virtiofsd", "fail", error.message, error.hint or "apt install qemu-system-common")


def _look_at_artifacts(config: Configuration, _root: str) -> Iterator[Finding]:
    try:
        artifacts = find_artifacts(config.hypervisor)
    except KataError as error:
        yield Finding("guest", "fail", error.message, error.hint or "")
        return
    for name, path in (("kernel", artifacts.kernel), ("image", artifacts.image), ("initrd", artifacts.initrd)):
        if path:
            yield Finding(name, "ok", f"{path} ({os.path.getsize(path) / 1e6:.1f} MB)")


def _look_at_devices(config: Configuration, _root: str) -> Iterator[Finding]:
    if os.path.exists("/dev/vhost-vsock"):
        yield Finding("vhost-vsock", "ok", "/dev/vhost-vsock")
    elif config.hypervisor.guest_channel == "vsock":
        yield Finding(
            "vhost-vsock", "fail", "guest_channel is vsock, /dev/vhost-vsock is missing", "modprobe vhost_vsock"
        )
    else:
        yield Finding("vhost-vsock", "ok", "not there: the agent is reached over virtio-serial")
    if os.path.exists("/dev/net/tun"):
        yield Finding("tun", "ok", "/dev/net/tun")
    else:
        yield Finding("tun", "warn", "/dev/net/tun is missing: no container network", "modprobe tun")


def _look_at_cgroups(_config: Configuration, _root: str) -> Iterator[Finding]:
    try:
        with open("/sys/fs/cgroup/cgroup.controllers") as file:
            yield Finding("cgroup", "ok", f"version 2: {file.read().strip()}")
    except OSError:
        if os.path.isdir("/sys/fs/cgroup/memory"):
            yield Finding("cgroup", "ok", "version 1")
        else:
            yield Finding("cgroup", "warn", "none mounted at /sys/fs/cgroup", "host limits cannot be set")


def _look_at_space(_config: Configuration, root: str) -> Iterator[Finding]:
    place = root
    while not os.path.isdir(place):
        place = os.path.dirname(place) or "/"
    free = shutil.disk_usage(place).free
    detail = f"{free >> 20} MiB free at {place}"
    if free < _LEAST_SPACE:
        yield Finding("state directory", "warn", detail, "free some space, or give another --root")
    else:
        yield Finding("state directory", "ok", detail)
    memory = _read_available_memory()
    yield Finding(
        "memory", "ok" if memory > _LEAST_SPACE else "warn", f"{memory >> 20} MiB available", "free some memory"
    )


def _read_available_memory() -> int:
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    raise HostError("/proc/meminfo has no line MemAvailable")


_LOOKS: tuple[Callable[[Configuration, str], Iterator[Finding]], ...] = (
    _look_at_user,
    _look_at_accelerator,
    _look_at_vmm,
    _look_at_artifacts,
    _look_at_devices,
    _look_at_cgroups,
    _look_at_space,
)


def _boot(invocation: Invocation) -> Finding:
    """Run `true` in a container whose root file system is the host's, read-only."""
    command = [*find_command(invocation), "run", "--rootfs", "/", "--read-only", "--", "/bin/true"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_BOOT_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding("boot", "fail", f"true did not end within {_BOOT_TIMEOUT} s", "see kata-runtime logs")
    if done.returncode == 0:
        return Finding("boot", "ok", "a VM booted and ran true")
    sys.stderr.write(done.stderr)
    return Finding("boot", "fail", f"true ended with status {done.returncode}", "the reason is on standard error")
