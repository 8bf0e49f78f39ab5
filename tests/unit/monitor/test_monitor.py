"""kata-monitor as a process of its own, scraped over TCP, with sandboxes whose sockets the test serves."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from kata.errors import NotFoundError, UsageError
from kata.monitor.main import parse_address
from kata.monitor.node import choose_sandbox, list_monitored
from kata.protocol.exposition import Family, parse_families
from kata.protocol.http import Request, Response
from kata.sandbox import store
from kata.sandbox.management import SOCKET_NAME
from kata.transport.http import HttpConnection

SOURCE = Path(__file__).parents[3] / "src"
MAIN = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from kata.monitor.main import main; sys.exit(main())"
FIGURES = "# TYPE kata_shim_threads gauge\nkata_shim_threads 3\n"


class Monitor(NamedTuple):
    """The program, and where it listens."""

    url: str
    process: "subprocess.Popen[str]"


def add_sandbox(root: Path, key: str, annotations: dict[str, str] | None = None) -> Path:
    """Make the state of a sandbox that this process serves, and return its socket's path."""
    directory = root / "sandboxes" / key
    directory.mkdir(parents=True)
    store.lock_sandbox(str(directory))
    name, _, namespace = key.partition("+")
    record = store.ContainerRecord(
        name, name, "/bundle", os.getpid(), "running", "", annotations=annotations or {}, namespace=namespace
    )
    store.write_container(str(root), record)
    return directory / SOCKET_NAME


@contextmanager
def monitored(root: Path) -> Iterator[Monitor]:
    command = [sys.executable, "-IS", "-c", MAIN, "-listen-address", "127.0.0.1:0", "--root", str(root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = json.loads(process.stderr.readline())
            yield Monitor(f"http://{line['msg'].rpartition(' ')[2]}", process)
        finally:
            process.terminate()
            assert process.wait(10) == 0


async def get(monitor: Monitor, target: str) -> tuple[int, str]:
    def read() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(monitor.url + target, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(read)


async def scrape(monitor: Monitor) -> dict[str, Family]:
    status, text = await get(monitor, "/metrics")
    assert status == 200
    return {family.name: family for family in parse_families(text)}


async def serve_figures(path: Path) -> asyncio.AbstractServer:
    async def answer(request: Request) -> Response:
        return Response(200, FIGURES.encode() if request.path == "/metrics" else b"vsock://3:1024")

    return await asyncio.get_running_loop().create_unix_server(lambda: HttpConnection(answer), path)


async def test_each_sandboxs_figures_have_its_id_and_its_pods_names(tmp_path: Path) -> None:
    names = {"io.kubernetes.cri.sandbox-name": "web-0", "io.kubernetes.cri.sandbox-namespace": "shop"}
    paths = [add_sandbox(tmp_path, "alpha"), add_sandbox(tmp_path, "twin+k8s.io", names)]
    servers = [await serve_figures(path) for path in paths]
    with monitored(tmp_path) as monitor:
        families = await scrape(monitor)

    labels = [dict(sample.labels) for sample in families["kata_shim_threads"].samples]
    twin = {"sandbox_id": "twin", "containerd_namespace": "k8s.io", "cri_name": "web-0", "cri_namespace": "shop"}
    assert labels == [{"sandbox_id": "alpha"}, twin]
    assert families["kata_monitor_running_shim_count"].samples[0].value == 2
    for server in servers:
        server.close()


async def test_a_sandbox_that_cannot_be_reached_costs_its_own_figures_only(tmp_path: Path) -> None:
    server = await serve_figures(add_sandbox(tmp_path, "alpha"))
    add_sandbox(tmp_path, "mute")
    with monitored(tmp_path) as monitor:
        families = await scrape(monitor)

    assert [sample.labels["sandbox_id"] for sample in families["kata_shim_threads"].samples] == ["alpha"]
    assert families["kata_monitor_scrape_failed_count"].samples[0].value == 1
    server.close()


async def test_one_sandbox_is_asked_for_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    server = await serve_figures(add_sandbox(tmp_path, "alpha+k8s.io"))
    with monitored(tmp_path) as monitor:
        assert await get(monitor, "/metrics?sandbox=alp") == (
            200,
            FIGURES.replace("# TYPE", "# HELP kata_shim_threads \n# TYPE"),
        )
        assert await get(monitor, "/agent-url?sandbox=alpha") == (200, "vsock://3:1024")
        assert await get(monitor, "/sandboxes") == (200, "alpha+k8s.io\n")
        assert (await get(monitor, "/metrics?sandbox=beta"))[0] == 404
        assert (await get(monitor, "/agent-url"))[0] == 400
        assert (await get(monitor, "/debug"))[0] == 404
        assert "/metrics" in (await get(monitor, "/"))[1]
    server.close()


def test_what_nobody_serves_is_no_sandbox_of_the_node(tmp_path: Path) -> None:
    (tmp_path / "sandboxes/dead").mkdir(parents=True)

    assert list_monitored(str(tmp_path)) == []


def test_a_beginning_that_fits_several_sandboxes_chooses_none(tmp_path: Path) -> None:
    for key in ("web1", "web2"):
        add_sandbox(tmp_path, key)
    sandboxes = list_monitored(str(tmp_path))

    assert choose_sandbox(sandboxes, "web1").key == "web1"
    with pytest.raises(UsageError, match="beginning of 2 sandboxes"):
        choose_sandbox(sandboxes, "web")
    with pytest.raises(NotFoundError, match="db"):
        choose_sandbox(sandboxes, "db")


@pytest.mark.parametrize("text", ["", "8090", "localhost:8090", "127.0.0.1:", "127.0.0.1:70000", "::1"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no address to listen at"):
        parse_address(text)


def test_addresses_of_both_families_are_understood() -> None:
    assert parse_address("127.0.0.1:8090") == ("127.0.0.1", 8090)
    assert parse_address("[::1]:0") == ("::1", 0)
