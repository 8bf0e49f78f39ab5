"""The suite of tests/posixfs on a volume of a container: what fails there and not on the host has a known reason."""

import tomllib
from pathlib import Path

from conformance.filesystem import EXPLAINED, change_spec, read_results, run_on_host
from engine import Container, Engine, add_mount, combine
from posixfs.build import build_suite

_DIFFERENCES = tomllib.loads(EXPLAINED.read_text())["vm"]


def test_a_volume_behaves_as_the_hosts_directory_but_for_known_differences(
    engine: Engine, pod: Container, tmp_path: Path
) -> None:
    program = build_suite(tmp_path)
    (tmp_path / "volume").mkdir()
    on_host = read_results(run_on_host("", tmp_path / "host", program, []))
    change = combine(
        lambda spec: change_spec(spec, tmp_path / "volume"), add_mount("/posixfs", "bind", str(program), "bind", "ro")
    )
    result = engine.run_container("/posixfs", "/volume", pod=pod.id, change=change)
    in_guest = read_results(result.text)

    passed = {found.case for found in on_host if found.outcome == "passed"}
    assert len(passed) > 100
    assert [found.case for found in in_guest] == [found.case for found in on_host]
    differing = {found.case: found.why for found in in_guest if found.outcome != "passed" and found.case in passed}
    assert set(differing) == set(_DIFFERENCES), differing
