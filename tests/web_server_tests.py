"""What containers do behind every engine with Docker's words, by one of them that serves pages."""

import os
import urllib.request
from pathlib import Path

from client import Client
from podman.engine import Terminal

SERVE = "trap 'exit 7' TERM; echo from the guest > /index.html; httpd -p 80 -h /; echo up; sleep 100000 & wait"
"""The script of a server that says `up` on its output."""


def fetch(place: str) -> bytes:
    """Return the page of the server at an address, with a port where it is not 80."""
    with urllib.request.urlopen(f"http://{place}/index.html", timeout=30) as answer:
        said: bytes = answer.read()
        return said


class WebServerTests:
    """Tests of a module with the fixtures `client`, `web`, a container that runs `SERVE`, and its port `published`."""

    exec_code = 6
    """The client's exit code for a process that exits with 6."""

    def test_the_server_is_reached_by_its_address_and_by_its_published_port(
        self, client: Client, web: str, published: int
    ) -> None:
        assert client.succeed("port", web).splitlines()[0] == f"80/tcp -> 0.0.0.0:{published}"
        for place in (client.find_address(web), f"127.0.0.1:{published}"):
            assert fetch(place) == b"from the guest\n"

    def test_a_terminal_of_another_process_has_its_size_and_its_exit_code(self, client: Client, web: str) -> None:
        with Terminal(command=client.command("exec", "-it", web, "sh"), rows=22, columns=66) as shell:
            shell.expect("# ")
            shell.type("stty size\n")
            shell.expect("22 66")
            shell.type("exit 6\n")
            assert shell.wait() == self.exec_code

    def test_files_are_copied_in_and_out(self, client: Client, web: str, tmp_path: Path) -> None:
        content = os.urandom(300_000)
        (tmp_path / "in").write_bytes(content)
        client.succeed("cp", str(tmp_path / "in"), f"{web}:/root/copied")
        client.succeed("cp", f"{web}:/root/copied", str(tmp_path / "out"))

        assert client.succeed("exec", web, "wc", "-c", "/root/copied").split()[0] == str(len(content))
        assert (tmp_path / "out").read_bytes() == content
        assert not Path("/root/copied").exists()

    def test_statistics_are_the_containers(self, client: Client, web: str) -> None:
        template = "{{.Name}} {{.PIDs}} {{.MemUsage}} {{.NetIO}}"
        shown = client.succeed("stats", "--no-stream", "--format", template, web)
        name, pids, memory, *_, received, _, sent = shown.split()

        assert (name, int(pids) >= 2) == (web, True)
        assert memory.endswith(("KiB", "MiB"))
        assert "0B" not in (received, sent)

    def test_a_stopped_container_ends_as_it_likes_and_starts_again_with_a_network(
        self, client: Client, web: str, published: int
    ) -> None:
        client.succeed("stop", web)
        ended = client.read(web, "{{.State.Status}} {{.State.ExitCode}}")
        client.succeed("start", web)
        served = client.run("exec", web, "sh", "-c", "until wget -qO- http://127.0.0.1/index.html; do :; done")

        assert ended == "exited 7"
        assert served.out == "from the guest\n", served
        assert fetch(f"127.0.0.1:{published}") == b"from the guest\n"
        assert client.succeed("logs", web).splitlines().count("up") >= 2
