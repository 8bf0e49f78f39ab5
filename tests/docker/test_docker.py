"""Docker runs, enters, reads and ends containers in VMs, on its bridge: the newest by the shim, Debian's by the CLI."""

import os
import platform
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd.daemon import RUNTIME
from docker.conftest import Engine
from howto import find_block, follow
from podman.engine import Terminal

_SERVE = "trap 'exit 7' TERM; echo from the guest > /index.html; httpd -p 80 -h /; echo up; sleep 100000 & wait"


@pytest.fixture(scope="module")
def web(engine: Engine) -> Iterator[str]:
    """A web server with a published port."""
    with engine.client.hold("sh", "-c", _SERVE, flags=("-p", "18082:80")) as name:
        engine.client.wait_for_log(name, "up")
        yield name


def _fetch(place: str) -> bytes:
    with urllib.request.urlopen(f"http://{place}/index.html", timeout=30) as answer:
        said: bytes = answer.read()
        return said


def test_a_container_runs_in_a_vm_reaches_another_and_its_exit_code_is_dockers(engine: Engine, web: str) -> None:
    client = engine.client
    script = f"wget -qO- http://{client.find_address(web)}/index.html && uname -r; echo no >&2; exit 3"
    done = client.run(*client.run_words("sh", "-c", script, flags=("--rm",)))

    assert (done.code, done.err) == (3, "no\n"), done
    assert done.out.startswith("from the guest\n")
    assert done.out.split()[-1] not in ("guest", platform.release())


def test_an_interactive_container_has_a_terminal_and_no_network(engine: Engine) -> None:
    client = engine.client
    words = client.run_words("sh", flags=("-it", "--rm", "--network", "none"))
    with Terminal(command=client.command(*words), rows=33, columns=77) as shell:
        shell.expect("# ")
        # Docker tells the size when the container has been started already.
        shell.type("until stty size | grep '^33 77'; do stty size; sleep 1; done; echo links: $(ls /sys/class/net)\n")
        shell.expect("\r\n33 77", timeout=60)
        shell.expect("links: lo\r\n")
        shell.type("exit 5\n")
        assert shell.wait() == 5


def test_the_server_is_reached_by_its_address_and_by_its_published_port(engine: Engine, web: str) -> None:
    for place in (f"{engine.client.find_address(web)}:80", "127.0.0.1:18082"):
        assert _fetch(place) == b"from the guest\n"


def test_another_process_has_its_streams_its_exit_code_and_a_terminal(engine: Engine, web: str) -> None:
    client = engine.client
    done = client.run("exec", "-i", web, "sh", "-c", "cat; echo no >&2; exit 4", stdin="in and out\n")
    with Terminal(command=client.command("exec", "-it", web, "sh"), rows=22, columns=66) as shell:
        shell.expect("# ")
        shell.type("stty size\n")
        shell.expect("22 66")
        shell.type("exit 6\n")
        code = shell.wait()

    assert (done.code, done.out, done.err, code) == (4, "in and out\n", "no\n", 6), done


def test_files_are_copied_in_and_out(engine: Engine, web: str, tmp_path: Path) -> None:
    client = engine.client
    content = os.urandom(300_000)
    (tmp_path / "in").write_bytes(content)
    client.succeed("cp", str(tmp_path / "in"), f"{web}:/root/copied")
    client.succeed("cp", f"{web}:/root/copied", str(tmp_path / "out"))

    assert client.succeed("exec", web, "wc", "-c", "/root/copied").split()[0] == str(len(content))
    assert (tmp_path / "out").read_bytes() == content
    assert not Path("/root/copied").exists()


def test_statistics_tell_of_memory_and_network(engine: Engine, web: str) -> None:
    template = "{{.Name}} {{.PIDs}} {{.MemUsage}} {{.NetIO}}"
    name, _, memory, *_, received, _, sent = engine.client.succeed(
        "stats", "--no-stream", "--format", template, web
    ).split()

    assert name == web
    assert memory.endswith("MiB")
    assert "0B" not in (received, sent)


def test_a_network_that_is_connected_later_reaches_the_guest_and_leaves_it(engine: Engine, web: str) -> None:
    client = engine.client
    network = client.name()
    look = "until ip -4 -o addr show dev eth1 | grep inet; do sleep 0.2; done"
    client.succeed("network", "create", "--subnet", "10.99.88.0/24", network)
    client.succeed("network", "connect", network, web)
    try:
        assert "inet 10.99.88." in client.succeed("exec", web, "sh", "-c", look)
    finally:
        client.succeed("network", "disconnect", network, web)
        client.succeed("network", "rm", network)

    client.succeed("exec", web, "sh", "-c", "while ip -o link | grep eth1; do sleep 0.2; done")


def test_a_stopped_container_ends_as_it_likes_and_starts_again_with_a_network(engine: Engine, web: str) -> None:
    client = engine.client
    client.succeed("stop", web)
    ended = client.read(web, "{{.State.Status}} {{.State.ExitCode}}")
    client.succeed("start", web)
    served = client.run("exec", web, "sh", "-c", "until wget -qO- http://127.0.0.1/index.html; do :; done")

    assert ended == "exited 7"
    assert served.out == "from the guest\n", served
    assert _fetch("127.0.0.1:18082") == b"from the guest\n"
    assert client.succeed("logs", web).splitlines().count("up") >= 2


def test_force_removes_a_running_container_and_all_it_had(engine: Engine, web: str) -> None:
    client = engine.client
    container = client.read(web, "{{.Id}}")
    client.succeed("rm", "--force", web)

    assert client.run("inspect", web).code != 0
    assert not engine.daemon.containerd.wait_until_gone(container)


def test_the_words_of_the_how_to_page_do_what_it_says(engine: Engine) -> None:
    place = engine.daemon.place
    commands = find_block("docker", f"docker run --rm --runtime {engine.client.runtime}")
    shown = follow(commands, place, {"docker": engine.client.prefix})

    assert platform.release() not in shown.splitlines()
    if "curl" in commands:
        assert "hello from the VM" in shown.splitlines()
        assert (place / "index.html").read_text() == "hello from the VM\n"
    if engine.client.runtime != RUNTIME:
        refused = engine.daemon.client(RUNTIME)
        assert "Unknown runtime specified" in refused.run(*refused.run_words("true", flags=("--rm",))).err
