"""nerdctl runs, enters, reads and ends containers in VMs, on its default network."""

import os
import platform
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from howto import find_block, follow
from nerdctl.conftest import Nerdctl, list_leases
from podman.engine import Terminal

_SERVE = "trap 'exit 7' TERM; echo from the guest > /index.html; httpd -p 80 -h /; echo up; sleep 100000 & wait"


@pytest.fixture(scope="module")
def web(nerdctl: Nerdctl) -> Iterator[str]:
    """A web server with a published port."""
    with nerdctl.client.hold("sh", "-c", _SERVE, flags=("-p", "18080:80")) as name:
        nerdctl.client.wait_for_log(name, "up")
        yield name


def _fetch(place: str) -> bytes:
    with urllib.request.urlopen(f"http://{place}/index.html", timeout=30) as answer:
        said: bytes = answer.read()
        return said


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


def test_the_server_is_reached_by_its_address_and_by_its_published_port(nerdctl: Nerdctl, web: str) -> None:
    assert nerdctl.client.succeed("port", web).strip() == "80/tcp -> 0.0.0.0:18080"
    for place in (f"{nerdctl.client.find_address(web)}:80", "127.0.0.1:18080"):
        assert _fetch(place) == b"from the guest\n"


def test_another_process_has_its_streams_its_exit_code_and_a_terminal(nerdctl: Nerdctl, web: str) -> None:
    client = nerdctl.client
    done = client.run("exec", "-i", web, "sh", "-c", "cat; echo no >&2; exit 4", stdin="in and out\n")
    with Terminal(command=client.command("exec", "-it", web, "sh"), rows=22, columns=66) as shell:
        shell.expect("# ")
        shell.type("stty size\n")
        shell.expect("22 66")
        shell.type("exit 6\n")
        code = shell.wait()

    # nerdctl's own exit code is 1 then, by runc too.
    assert (done.out, done.err.splitlines()[0], code) == ("in and out\n", "no", 1), done
    assert "exec failed with exit code 4" in done.err


def test_files_are_copied_in_and_out(nerdctl: Nerdctl, web: str, tmp_path: Path) -> None:
    client = nerdctl.client
    content = os.urandom(300_000)
    (tmp_path / "in").write_bytes(content)
    client.succeed("cp", str(tmp_path / "in"), f"{web}:/root/copied")
    client.succeed("cp", f"{web}:/root/copied", str(tmp_path / "out"))

    assert client.succeed("exec", web, "wc", "-c", "/root/copied").split()[0] == str(len(content))
    assert (tmp_path / "out").read_bytes() == content
    assert not Path("/root/copied").exists()


def test_statistics_are_the_containers(nerdctl: Nerdctl, web: str) -> None:
    template = "{{.Name}} {{.PIDs}} {{.MemUsage}} {{.NetIO}}"
    name, pids, memory, *_, received, _, sent = nerdctl.client.succeed(
        "stats", "--no-stream", "--format", template, web
    ).split()

    assert (name, int(pids) >= 2) == (web, True)
    assert memory.endswith(("KiB", "MiB"))
    assert "0B" not in (received, sent)


def test_a_container_is_paused_and_goes_on(nerdctl: Nerdctl, web: str) -> None:
    client = nerdctl.client
    client.succeed("pause", web)
    paused = client.read(web, "{{.State.Status}}")
    client.succeed("unpause", web)

    assert (paused, client.read(web, "{{.State.Status}}")) == ("paused", "running")
    assert client.succeed("exec", web, "echo", "on").strip() == "on"


def test_a_stopped_container_ends_as_it_likes_and_starts_again_with_a_network(nerdctl: Nerdctl, web: str) -> None:
    client = nerdctl.client
    client.succeed("stop", web)
    ended = client.read(web, "{{.State.Status}} {{.State.ExitCode}}")
    client.succeed("start", web)
    served = client.run("exec", web, "sh", "-c", "until wget -qO- http://127.0.0.1/index.html; do :; done")

    assert ended == "exited 7"
    assert served.out == "from the guest\n", served
    assert _fetch("127.0.0.1:18080") == b"from the guest\n"
    assert client.succeed("logs", web).splitlines().count("up") >= 2


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
