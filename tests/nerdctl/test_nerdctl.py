"""nerdctl runs, enters, reads and ends containers in VMs, on its default network."""

import platform
from collections.abc import Iterator

import pytest

from client import Client
from howto import find_block, follow
from nerdctl.conftest import Nerdctl, list_leases
from podman.engine import Terminal
from web_server_tests import SERVE, WebServerTests

_PORT = 18080


@pytest.fixture(scope="module")
def client(nerdctl: Nerdctl) -> Client:
    return nerdctl.client


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
    """By nerdctl."""

    exec_code = 1  # by runc too


def test_a_container_runs_in_a_vm_and_its_exit_code_is_nerdctls(nerdctl: Nerdctl) -> None:
    client = nerdctl.client
    done = client.run(*client.run_words("sh", "-c", "uname -r; echo no >&2; exit 3", flags=("--rm",)))

    assert (done.code, done.err) == (3, "no\n"), done
    assert done.out.strip() not in ("", platform.release())


def test_an_interactive_container_has_a_terminal(nerdctl: Nerdctl) -> None:
    client = nerdctl.client
    with Terminal(command=client.command(*client.run_words("sh", flags=("-it", "--rm"))), rows=33, columns=77) as shell:
        shell.expect("# ")
        shell.type("stty size; tty\n")
        shell.expect("33 77")
        shell.expect("/dev/pts/0")
        shell.type("exit 5\n")
        assert shell.wait() == 5


def test_another_process_has_its_streams_and_its_exit_code(nerdctl: Nerdctl, web: str) -> None:
    client = nerdctl.client
    done = client.run("exec", "-i", web, "sh", "-c", "cat; echo no >&2; exit 4", stdin="in and out\n")

    assert (done.out, done.err.splitlines()[0]) == ("in and out\n", "no"), done
    assert "exec failed with exit code 4" in done.err


def test_a_container_is_paused_and_goes_on(nerdctl: Nerdctl, web: str) -> None:
    client = nerdctl.client
    client.succeed("pause", web)
    paused = client.read(web, "{{.State.Status}}")
    client.succeed("unpause", web)

    assert (paused, client.read(web, "{{.State.Status}}")) == ("paused", "running")
    assert client.succeed("exec", web, "echo", "on").strip() == "on"


def test_force_removes_a_running_container_and_all_it_had(nerdctl: Nerdctl, web: str) -> None:
    client, leases = nerdctl.client, list_leases()
    container, address = client.read(web, "{{.Id}}"), client.find_address(web)
    client.succeed("rm", "--force", web)

    assert client.run("inspect", web).code != 0
    assert not nerdctl.daemon.wait_until_gone(container)
    assert leases - list_leases() == {address}


def test_the_words_of_the_how_to_page_do_what_it_says(nerdctl: Nerdctl) -> None:
    place = nerdctl.place
    shown = follow(find_block("nerdctl", "nerdctl run --rm"), place, {"nerdctl": nerdctl.client.prefix})

    assert platform.release() not in shown.splitlines()
    assert "hello from the VM" in shown.splitlines()
    assert (place / "index.html").read_text() == "hello from the VM\n"
