"""The floor of a start: the same VM started by the driver alone, to its agent's first answer and a process in it.

The guest's image is this tree's with one static program more, which stands where a debug console looks for a shell.
Each connection to the console starts it; it makes new namespaces, runs itself in them, and says a word.
"""

import asyncio
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from kata.config.load import load_configuration
from kata.hypervisor.channel import AGENT_PORT, DEBUG_CONSOLE_PORT
from kata.image.rootfs.build import plan_tree, write_erofs
from kata.image.rootfs.tree import make_file
from kata.image.store import Store, default_cache
from kata.observe.log import Log
from kata.observe.timeline import Timeline
from kata.resources.host import measure_host
from kata.resources.size import size_vm
from kata.sandbox.description import describe_template
from kata.sandbox.guest import Guest
from kata.sandbox.site import Site, open_line_of, probe_host
from kata.sandbox.template import list_templates

_TIMEOUT = 120.0
_WORD = b"bench: a process runs"
_PROGRAM = r"""
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv) {
    static const char word[] = "bench: a process runs\n";
    const int all = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP;
    if (argc == 1) {
        write(1, word, sizeof word - 1);
        return 0;
    }
    if (syscall(SYS_clone, all | SIGCHLD, 0, 0, 0, 0) == 0) {
        execl("/proc/self/exe", "child", (char *)0);
        _exit(127);
    }
    for (;;) pause();
}
"""


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the start of QEMU to the agent's first answer, and from that to the process's word."""

    answer: float
    process: float


@dataclass(frozen=True, slots=True)
class Setup:
    """Two configurations with the same image: in one VMs are copies of a template, in the other each boots."""

    clone: Path
    cold: Path
    templates: Path


def prepare_floor(directory: Path, source: Path) -> Setup:
    """Build the image from the package below `source` and write the configurations. Raise CalledProcessError."""
    program, text, image = directory / "process", directory / "process.c", directory / "floor.img"
    text.write_text(_PROGRAM)
    subprocess.run(["gcc", "-static", "-Os", "-o", program, text], check=True)
    tree, _ = plan_tree(Store(default_cache()), source, debug=False)
    tree.add("usr/bin/sh", make_file(program.read_bytes(), 0o755))
    write_erofs(tree, image, "none")
    setup = Setup(directory / "clone.toml", directory / "cold.toml", directory / "templates")
    common = f'[hypervisor.qemu]\nimage = "{image}"\n[agent.kata]\ndebug_console_enabled = true\n[factory]\n'
    setup.clone.write_text(f'{common}template_path = "{setup.templates}"\n')
    setup.cold.write_text(f"{common}enable_template = false\n")
    return setup


def time_boot(directory: Path, setup: Setup) -> float:
    """Return the seconds from the start of QEMU to the agent's first answer. Raise KataError."""
    return asyncio.run(_time_start(directory, setup.cold, "")).answer


def time_restore(directory: Path, setup: Setup) -> Start:
    """Do the same with a VM that goes on from the template. Raise KataError."""
    return asyncio.run(_time_start(directory, setup.clone, list_templates(str(setup.templates))[0].directory))


async def _time_start(directory: Path, path: Path, saved: str) -> Start:
    config = load_configuration(str(path))
    timeline = Timeline(str(directory / "floor.json"))
    site = Site("floor", str(directory), str(directory), config, timeline, Log("floor", "bench"))
    host = probe_host(site)
    line = open_line_of(site, host)
    size = size_vm({}, config.hypervisor, measure_host())
    spec = describe_template(site, size, host, line, ())._replace(savable=False, saved=saved)
    began = time.monotonic()
    machine = await host.hypervisor.start(spec, timeout=_TIMEOUT)
    try:
        guest = Guest(await line.connect(AGENT_PORT, timeout=_TIMEOUT))
        await guest.check(timeout=_TIMEOUT)
        answered = time.monotonic()
        async with asyncio.timeout(_TIMEOUT):
            await _read_word(await line.open_stream(DEBUG_CONSOLE_PORT))
        ran = time.monotonic()
        guest.client.close()
    finally:
        await machine.stop(timeout=0)
        line.close()
    return Start(answered - began, ran - answered)


async def _read_word(console: socket.socket) -> None:
    said = b""
    with console:
        while _WORD not in said:
            data = await asyncio.get_running_loop().sock_recv(console, 4096)
            if not data:
                raise RuntimeError(f"the guest's process said no word: {said!r}")
            said += data
