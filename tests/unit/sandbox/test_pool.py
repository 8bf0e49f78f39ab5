"""What is handed over to a process that waits, how much may wait, and whom nobody answers."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kata.sandbox.keeper import Member, find_shortage
from kata.sandbox.pool import SOCKET, TAKEN, Offer, decode_offer, find_pool, hand_over
from kata.sys.unixsocket import shorten_path

_SOURCE = str(Path(__file__).parents[3] / "src")
_WORD = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
_NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0="), min_size=1)


@given(words=st.lists(_WORD), environment=st.dictionaries(_NAME, _WORD), bundle=_WORD, config=_WORD)
def test_what_was_offered_is_what_is_taken(
    words: list[str], environment: dict[str, str], bundle: str, config: str
) -> None:
    offer = Offer("cli", words, environment, {0: 5, 7: 6}, bundle=bundle, config=config)
    taken = decode_offer(offer.encode(), [70, 71])
    assert (taken.door, taken.words, taken.environment) == ("cli", words, environment)
    assert (taken.bundle, taken.config, taken.descriptors) == (bundle, config, {0: 70, 7: 71})


def answer_once(directory: Path, answer: bytes) -> threading.Thread:
    """Be a process that waits, for one offer."""
    directory.mkdir(parents=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with shorten_path(str(directory / SOCKET)) as path:
        server.bind(path)
    server.listen(1)

    def serve() -> None:
        with server, server.accept()[0] as connection:
            _, descriptors, _, _ = socket.recv_fds(connection, 16, 8)
            for descriptor in descriptors:
                os.close(descriptor)
            os.unlink(directory / SOCKET)
            if answer:
                connection.send(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_one_that_is_gone_is_passed_over_and_the_next_is_asked(tmp_path: Path) -> None:
    root = str(tmp_path)
    threads = [
        answer_once(Path(find_pool(root), "a"), b""),
        answer_once(Path(find_pool(root), "b"), TAKEN + b"17"),
        answer_once(Path(find_pool(root), "c"), TAKEN + b"18"),
    ]
    assert hand_over(root, Offer("cli", [], {}, {1: 1})) == (17, "")
    assert hand_over(root, Offer("cli", [], {}, {1: 1})) == (18, "")
    for thread in threads:
        thread.join(10)
    assert hand_over(root, Offer("cli", [], {}, {1: 1})) == (0, "all that waited are taken")


def test_why_a_vm_is_not_given_reaches_who_asked(tmp_path: Path) -> None:
    root = str(tmp_path)
    thread = answer_once(Path(find_pool(root), "a"), b"it is to have 2 vCPUs")
    assert hand_over(root, Offer("shim", [], {}, {})) == (0, "it is to have 2 vCPUs")
    thread.join(10)
    Path(find_pool(root), "note").write_text("there is no memory")
    assert hand_over(root, Offer("shim", [], {}, {})) == (0, "there is no memory")
    assert hand_over(root, Offer("shim", [], {}, {100: 1})) == (0, "the command was started with too many open files")


def test_no_more_vms_wait_than_could_all_be_used() -> None:
    waiting = [Member("a", "", 512, ()), Member("b", "", 512, ())]  # of no process: none of it is taken yet
    assert not find_shortage([], 512, available_mib=1000, total_mib=1000)
    assert "may come to need 560 MiB of the host's memory, and 559 MiB are to be had" in find_shortage(
        [], 512, available_mib=659, total_mib=1000
    )
    assert not find_shortage(waiting, 512, available_mib=1780, total_mib=1000)
    assert find_shortage(waiting, 512, available_mib=1779, total_mib=1000)
    assert find_shortage(waiting, 512, available_mib=0, total_mib=1000).endswith("and 0 MiB are to be had")


def test_a_process_shows_the_command_line_of_what_it_became() -> None:
    program = f"""
import sys
sys.path.insert(0, {_SOURCE!r})
from kata.sys.title import show_arguments
for words in (["kata-runtime", "serve", "an id"], ["kata-runtime", "x" * 1000]):
    show_arguments(words)
    print(open("/proc/self/cmdline").read().rstrip("\\0").replace("\\0", "|"))
"""
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    short, long = shown.stdout.splitlines()
    assert short == "kata-runtime|serve|an id"
    assert long.startswith("kata-runtime xxxx")
