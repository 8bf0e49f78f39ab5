"""Docker runs, enters, reads and ends containers in VMs, on its bridge: the newest by the shim, Debian's by the CLI."""

import platform
import re
from collections.abc import Iterator

import pytest

from client import Client
from containerd.daemon import RUNTIME
from docker.conftest import Engine
from howto import find_block, follow
from podman.engine import Terminal
from web_server_tests import SERVE, WebServerTests

_PORT = 18082


@pytest.fixture(scope="module")
def client(engine: Engine) -> Client:
    return engine.client


@pytest.fixture(scope="module")
def published() -> int:
    return _PORT


@pytest.fixture(scope="module")
def web(client: Client) -> Iterator[str]:
    """A web server with a published port."""
    with client.hold("sh", "-c", SERVE, flags=("-p", f"{_PORT}:80")) as name:
        client.wait_for_log(name, "up")
        yield name


class TestWebServer(WebServerTests):
    """By dockerd of each version."""


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


def test_another_process_has_its_streams_and_its_exit_code(engine: Engine, web: str) -> None:
    client = engine.client
    done = client.run("exec", "-i", web, "sh", "-c", "cat; echo no >&2; exit 4", stdin="in and out\n")

    assert (done.code, done.out, done.err) == (4, "in and out\n", "no\n"), done


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


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("host", r"on the host's network cannot run|is the host's, on which no VM can be"),
        ("container:{web}", "another VM"),
    ],
)
def test_the_network_of_the_host_and_of_another_vm_are_refused(
    client: Client, web: str, network: str, reason: str
) -> None:
    done = client.run(*client.run_words("true", flags=("--rm", "--network", network.format(web=web))))

    assert done.code in (125, 128), done
    assert re.search(reason, done.err), done


def test_containers_of_a_network_of_ones_own_find_each_other_by_name(client: Client, web: str) -> None:
    """By Docker's name server, also in a container that comes into such a network while it runs."""
    network = client.name()
    fetch = "until wget -qO- http://{name}/index.html; do sleep 0.2; done"
    serve = "echo from the other > /index.html; httpd -p 80 -h /; echo up; sleep 100000"
    client.succeed("network", "create", "--subnet", "10.99.89.0/24", network)
    try:
        client.succeed("network", "connect", "--alias", "shop", network, web)
        try:
            with client.hold("sh", "-c", serve, flags=("--network", network)) as other:
                for place in (web, "shop"):
                    done = client.run("exec", other, "sh", "-c", fetch.format(name=place))
                    assert done.out == "from the guest\n", done
                done = client.run("exec", web, "sh", "-c", fetch.format(name=other))
                assert done.out == "from the other\n", done
                # One that is a name server itself has port 53 of all its addresses.
                client.succeed("exec", other, "httpd", "-p", "53", "-h", "/")
                assert (
                    client.succeed("exec", other, "wget", "-qO-", f"http://{other}:53/index.html") == "from the other\n"
                )
                assert client.run("exec", other, "ping", "-c", "1", "nobody").code != 0
        finally:
            client.succeed("network", "disconnect", network, web)
    finally:
        client.succeed("network", "rm", network)


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
