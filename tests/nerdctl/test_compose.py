"""nerdctl compose: services in a VM each, which reach each other by their names; by the words of nerdctl.md."""

import urllib.request

import pytest

from howto import find_block, follow
from nerdctl.conftest import Nerdctl


@pytest.mark.timeout(300)
def test_two_services_reach_each_other_by_name_and_go_together(nerdctl: Nerdctl) -> None:
    client = nerdctl.client
    project = nerdctl.place / f"{client.token}p"
    project.mkdir()
    (project / "compose.yaml").write_text(find_block("nerdctl", "services:", "yaml"))
    programs = {"nerdctl": client.prefix}
    words = ("compose", "--project-directory", str(project), "--file", str(project / "compose.yaml"))
    web, other = (f"{project.name}-{service}-1" for service in ("web", "client"))
    try:
        shown = follow(find_block("nerdctl", "compose up"), project, programs)
        client.wait_for_log(other, "hello from web")
        with urllib.request.urlopen("http://127.0.0.1:8081/index.html", timeout=30) as answer:
            assert answer.read() == b"hello from web\n"
        hosts = client.succeed(*words, "exec", "--no-TTY", "web", "cat", "/etc/hosts").splitlines()
    finally:
        follow(find_block("nerdctl", "compose down"), project, programs)

    assert all(name in shown for name in (web, other)), shown
    assert any("client" in line.split() for line in hosts), hosts
    assert client.run("inspect", web).code != 0
    assert project.name not in client.succeed("network", "ls")
