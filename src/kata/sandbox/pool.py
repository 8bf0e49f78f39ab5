"""The pool: VMs that wait, each in a process of its own, which becomes the daemon of the sandbox that takes it.

<root>/pool/lock        the keeper has it
<root>/pool/keeper      the keeper's pid and when it started
<root>/pool/note        why fewer wait than there should
<root>/pool/<name>/     one VM: what a sandbox's directory has, and until it is taken `offer.sock` and `waiting`

A command that is about to start a daemon offers what it would start it with. The process that waits takes it, or says
why not; then the command goes on as if there were no pool. Imports little, as engines wait for such commands.
"""

from __future__ import annotations

import os
import sys
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SOCKET = "offer.sock"
NOTE = "note"
REMARK = "KATA_NOT_FROM_POOL"
"""The environment variable by which a daemon hears why it has to make its VM by itself."""

TAKEN = b"+"
"""The answer to an offer that is taken begins so, and the process's id follows; any other answer says why not."""

MOST_DESCRIPTORS = 64
"""A program that is handed over may have descriptors below this."""

END = "end"
"""What is offered to a process that is to go."""


class Offer:
    """What a program would be started with: `door` says which program, `descriptors` by what numbers it knows them.

    `bundle` is that of the first container; `config` the file that is known to be its configuration, or empty.
    """

    __slots__ = ("bundle", "config", "descriptors", "door", "environment", "words")

    def __init__(
        self,
        door: str,
        words: Sequence[str],
        environment: Mapping[str, str],
        descriptors: Mapping[int, int],
        *,
        bundle: str = "",
        config: str = "",
    ) -> None:
        self.door = door
        self.words = words
        self.environment = environment
        self.descriptors = descriptors
        self.bundle = bundle
        self.config = config

    def encode(self) -> bytes:
        numbers = " ".join(str(number) for number in self.descriptors)
        fields = [self.door, self.bundle, self.config, numbers, str(len(self.words)), *self.words]
        fields += [f"{name}={value}" for name, value in self.environment.items()]
        return "\0".join(fields).encode("utf-8", "surrogateescape")


def decode_offer(data: bytes, received: Sequence[int]) -> Offer:
    """Read what `Offer.encode` wrote. `received` are the descriptors, as they came. Raise ValueError."""
    door, bundle, config, numbers, count, *rest = data.decode("utf-8", "surrogateescape").split("\0")
    words, variables = rest[: int(count)], rest[int(count) :]
    environment = dict(text.split("=", 1) for text in variables)
    descriptors = dict(zip((int(number) for number in numbers.split()), received, strict=True))
    return Offer(door, words, environment, descriptors, bundle=bundle, config=config)


def find_pool(root: str) -> str:
    return f"{root}/pool"


def hand_over(root: str, offer: Offer) -> tuple[int, str]:
    """Return the pid of a process of the pool that is the program now, or 0 and why there is none."""
    if any(number >= MOST_DESCRIPTORS for number in offer.descriptors):
        return 0, "the command was started with too many open files"
    pool = find_pool(root)
    for name in list_offering(pool):
        answer = ask(f"{pool}/{name}", offer)
        if answer.startswith(TAKEN):
            return int(answer[1:]), ""
        if answer:
            return 0, answer.decode()
    try:
        with open(f"{pool}/{NOTE}", encoding="utf-8") as file:
            return 0, file.read()
    except OSError:
        return 0, "all that waited are taken"


def list_offering(pool: str) -> list[str]:
    """Return the names of those that wait, or did a moment ago."""
    try:
        return sorted(name for name in os.listdir(pool) if os.path.exists(f"{pool}/{name}/{SOCKET}"))
    except OSError:
        return []


def ask(directory: str, offer: Offer, *, timeout: float = 5.0) -> bytes:
    """Offer a program to the process that waits with this directory. Without an answer, it has gone or been taken."""
    place = data = -1
    connection = socket(AF_UNIX, SOCK_SEQPACKET)
    try:
        connection.settimeout(timeout)
        place = os.open(directory, os.O_PATH | os.O_CLOEXEC)
        data = os.memfd_create("offer")
        with open(os.dup(data), "wb") as file:
            file.write(offer.encode())
        connection.connect(f"/proc/self/fd/{place}/{SOCKET}")
        descriptors = b"".join(one.to_bytes(4, sys.byteorder) for one in (data, *offer.descriptors.values()))
        connection.sendmsg([b"!"], [(SOL_SOCKET, SCM_RIGHTS, descriptors)])
        return connection.recv(1 << 16)
    except OSError:  # it has just been taken, or it hangs
        return b""
    finally:
        connection.close()
        for descriptor in (place, data):
            if descriptor >= 0:
                os.close(descriptor)
