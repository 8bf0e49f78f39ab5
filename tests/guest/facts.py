"""What two VMs that are copies of one must not have in common: collected in a container of each."""

import json
import os
import time
from typing import Any

from engine import ALL_CAPABILITIES, Change, Container, add_mount, combine, grant

HYPERVISOR = os.environ.get("KATA_TEST_HYPERVISOR") or "qemu"
SHARES = HYPERVISOR != "firecracker"
_HOST_PROGRAMS = combine(*(add_mount(path, "bind", path, "rbind", "ro") for path in ("/usr", "/lib", "/lib64")))
_TICKS = 1 << 32
_SOON = 20_000_000
"""TCP's first sequence numbers count 64 ns on top of a secret (net/core/secure_seq.c); these are 1.3 s of 275."""

_FACTS = r"""
import json, os, random, socket, struct, time, uuid

def read(path):
    with open(path) as file:
        return file.read()

def find_first_number():
    # TCP_REPAIR, TCP_REPAIR_QUEUE and TCP_QUEUE_SEQ of linux/tcp.h; a socket that is closed in repair leaves nothing.
    with socket.create_server(("127.0.0.1", 7001)) as server, socket.socket() as client:
        client.bind(("127.0.0.1", 7002))
        client.connect(("127.0.0.1", 7001))
        moment = time.time_ns()
        peer = server.accept()[0]
        for end in (client, peer):
            end.setsockopt(socket.IPPROTO_TCP, 19, 1)
        client.setsockopt(socket.IPPROTO_TCP, 20, 2)
        number = client.getsockopt(socket.IPPROTO_TCP, 21) & 0xffffffff
        peer.close()
    return (number - (moment >> 6)) & 0xffffffff

lines = read("/proc/self/maps").splitlines()
print(json.dumps({
    "differ": {
        "boot id": read("/proc/sys/kernel/random/boot_id"),
        "uuid of the kernel": read("/proc/sys/kernel/random/uuid"),
        "bytes of the kernel": os.getrandom(16).hex(),
        "bytes of urandom": os.urandom(16).hex(),
        "Python's random": random.random(),
        "Python's hashes": hash("any"),
        "address of the heap": next(line for line in lines if "[heap]" in line).split("-")[0],
        "address of the C library": next(line for line in lines if "libc.so" in line).split("-")[0],
        "address of the stack": next(line for line in lines if "[stack]" in line).split("-")[0],
        "address of the vdso": next(line for line in lines if "[vdso]" in line).split("-")[0],
        "host name": socket.gethostname(),
    },
    "numbers": [find_first_number() for _ in range(2)],
    "time": time.time(),
}))
"""


_FACTS_WITHOUT_PYTHON = r"""
find() { sed -n "/$1/s/-.*//p" /proc/self/maps; }
echo "boot id=$(cat /proc/sys/kernel/random/boot_id)"
echo "uuid of the kernel=$(cat /proc/sys/kernel/random/uuid)"
echo "bytes of urandom=$(head -c 16 /dev/urandom | md5sum)"
echo "address of the heap=$(find heap)"
echo "address of the stack=$(find stack)"
echo "address of the vdso=$(find vdso)"
echo "host name=$(hostname)"
date +%s
"""
"""Of a guest to which the host's Python cannot be shown."""


def allow_facts(hostname: str) -> Change:
    """Give a container what `collect_facts` needs, and a name of its own."""

    def change(spec: dict[str, Any]) -> None:
        spec["hostname"] = hostname

    return combine(_HOST_PROGRAMS if SHARES else combine(), grant(*ALL_CAPABILITIES), change)


def collect_facts(container: Container) -> dict[str, Any]:
    facts: dict[str, Any]
    if SHARES:
        facts = json.loads(container.ask("/usr/bin/python3", "-IS", "-c", _FACTS))
    else:
        *lines, now = container.ask("sh", "-c", _FACTS_WITHOUT_PYTHON).splitlines()
        facts = {"differ": dict(line.split("=") for line in lines), "time": float(now) + 0.5}
    facts["behind"] = time.time() - facts["time"]
    return facts


def check_facts(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Fail where two guests agree on what is to be each one's own, or are not at the host's time."""
    assert not {name for name, value in one["differ"].items() if two["differ"][name] == value}
    assert all(one["differ"].values())
    assert all(abs(facts["behind"]) < 2.0 for facts in (one, two))
    if SHARES:
        # The same two ports twice in one guest: its secret is the same, so what is seen of it is too.
        assert all(_count_apart(*facts["numbers"]) < _SOON for facts in (one, two))
        assert _count_apart(one["numbers"][0], two["numbers"][0]) > _SOON


def _count_apart(one: int, two: int) -> int:
    return min((one - two) % _TICKS, (two - one) % _TICKS)
