"""The picture of a timeline, as a browser draws it."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.observe.timeline import Phase
from kata.observe.timelinepage import choose_step, draw_timeline

_PHASES = (
    Phase("guest boot", 0.0, 3000.0),
    Phase("kernel", 200.0, 1800.0, in_guest=True),
    Phase('<script>document.title="taken"</script>', 2000.0, 1000.0, in_guest=True),
    Phase("create container", 3000.0, 1000.0, failed=True),
)
# What the page itself never has: a script, added here to measure what was drawn.
_MEASURE = """
<pre id="measured"></pre><script>
const boxes = [...document.querySelectorAll(".track b")].map(bar => {
  const box = bar.getBoundingClientRect(), track = bar.parentElement.getBoundingClientRect();
  return {left: (box.left - track.left) / track.width, width: box.width / track.width,
          colour: getComputedStyle(bar).backgroundColor, name: bar.closest("tr").cells[1].textContent};
});
document.getElementById("measured").textContent = JSON.stringify({title: document.title, boxes});
</script>
"""


def test_a_browser_draws_each_phase_where_and_as_long_as_it_was(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("MISSING chromium: nobody looks at the picture; run tools/install-host-packages test")
    page = tmp_path / "page.html"
    drawn = draw_timeline("Start of sandbox web", _PHASES).replace("default-src 'none'; ", "")
    page.write_text(drawn.replace("</body>", f"{_MEASURE}</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
    command += [f"--user-data-dir={tmp_path}/profile", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)

    found = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    measured = json.loads(unescape(found[1]))
    assert measured["title"] == "Start of sandbox web"
    boxes = measured["boxes"]
    assert [box["name"] for box in boxes] == [*(phase.name for phase in _PHASES[:3]), "create container (failed)"]
    for box, phase in zip(boxes, _PHASES, strict=True):
        assert box["left"] == pytest.approx(phase.start_ms / 4000, abs=0.01)
        assert box["width"] == pytest.approx(phase.ms / 4000, abs=0.01)
    host, guest, other, failed = (box["colour"] for box in boxes)
    assert guest == other
    assert len({host, guest, failed}) == 3


@given(st.text(), st.lists(st.builds(Phase, st.text(), st.floats(0, 1e6), st.floats(0, 1e6), st.booleans())))
def test_a_page_needs_nothing_else_and_holds_names_as_text_only(title: str, phases: list[Phase]) -> None:
    page = draw_timeline(title, phases)

    # None of these loads anything, and the policy forbids what a name might smuggle in.
    known = {"html", "head", "meta", "title", "style", "body", "h1", "p", "span", "i", "b", "div"}
    assert set(re.findall(r"<(\w+)", page)) <= known | {"table", "thead", "tbody", "tr", "th", "td"}
    assert "default-src 'none'" in page
    assert page.count('class="track"') == len(phases)


@given(st.floats(0.05, 1e7))
def test_an_axis_has_few_marks_and_at_least_three(end: float) -> None:
    assert 3 <= end / choose_step(end) <= 10
