"""Fixtures of tests that run sandboxes: one engine a module, a check after each test that nothing more is left."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import leaks
from engine import Container, Engine, build_image, require_host

FAILURES = Path(os.environ.get("KATA_FAILURES", Path(__file__).parents[1] / "build/failures"))


@pytest.fixture(scope="session")
def guest_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_host()
    return build_image(tmp_path_factory.mktemp("guest"))


@pytest.fixture(scope="module")
def engine(guest_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    taps = leaks.list_taps()
    with Engine(tmp_path_factory.mktemp("engine"), guest_image) as engine:
        yield engine
    left = engine.wait_until_clean()
    assert not left, "the module's sandboxes left behind:\n" + "\n".join(sorted(left))
    assert leaks.list_taps() <= taps


@pytest.fixture(scope="module")
def pod(engine: Engine) -> Iterator[Container]:
    """A sandbox that the module's containers share, with one container that only sleeps."""
    with engine.hold("sleep", "100000", name="pod") as pod:
        yield pod


@pytest.fixture(autouse=True)
def _leave_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    if "engine" not in request.fixturenames:
        yield
        return
    engine: Engine = request.getfixturevalue("engine")
    before, descriptors = engine.find_traces(), leaks.list_descriptors()
    yield
    if request.node.stash.get(FAILED, False):
        engine.save_artefacts(FAILURES / request.node.name.replace("/", "_"))
    left = engine.wait_until_clean(allowed=before)
    assert not left, "the test left behind:\n" + "\n".join(sorted(left))
    assert leaks.list_descriptors() == descriptors, "the test left files open"


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> Iterator[None]:
    report = yield
    if call.excinfo is not None and call.excinfo.typename != "Skipped":
        item.stash[FAILED] = True
    return report
