from pathlib import Path

import kata
from kata.image.rootfs.agent import list_roots, read_sources


def test_what_the_launcher_imports_is_in_the_guest_though_no_module_of_the_agent_asks_for_it() -> None:
    sources = read_sources(Path(kata.__file__).parent)

    roots = list_roots(sources)

    assert {"kata.agent.main", "kata.sys.deferred"} <= set(roots)
    assert "kata.sys.mount" not in roots
