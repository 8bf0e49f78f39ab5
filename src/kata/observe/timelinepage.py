"""The timeline as a picture: one page of HTML that needs nothing else, no script and no other file.

Each phase is a row, in order of start, and a bar on one axis of milliseconds; host and guest differ in colour.
"""

from collections.abc import Iterator, Sequence
from html import escape

from kata.observe.timeline import Phase

_TICKS = 10
_STEPS = (1, 2, 5)

_STYLE = """
:root { color-scheme: light dark; --host: #2f6fdb; --guest: #1f9d6b; --failed: #d0342c; --line: #8884; }
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.25rem; overflow-wrap: anywhere; }
.key span { border-radius: 2px; display: inline-block; height: .8em; margin: 0 .4em 0 1em; width: 1.6em; }
table { border-collapse: collapse; table-layout: fixed; width: 100%; }
th, td { padding: .15rem .4rem; text-align: left; white-space: nowrap; }
th:nth-child(1) { width: 5rem; } th:nth-child(2) { width: 13rem; } th:nth-child(3), th:nth-child(4) { width: 5.5rem; }
td:nth-child(2) { overflow: hidden; text-overflow: ellipsis; }
td:nth-child(3), td:nth-child(4), th:nth-child(3), th:nth-child(4) {
  font-variant-numeric: tabular-nums; text-align: right; }
tbody tr:nth-child(odd) { background: #8881; }
.axis, .track { height: 1.3rem; position: relative; }
.axis i {
  border-left: 1px solid var(--line); font-style: normal; font-weight: 400; padding-left: .2rem; position: absolute; }
.track b { border-radius: 2px; height: 1rem; min-width: 2px; position: absolute; top: .15rem; }
.host { background: var(--host); } .guest { background: var(--guest); } .failed { background: var(--failed); }
"""


def draw_timeline(title: str, phases: Sequence[Phase]) -> str:
    """Return the page. Names are shown as text whatever they contain: the guest chose some of them."""
    end = max((phase.start_ms + phase.ms for phase in phases), default=0.0) or 1.0
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">""",
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            '<p class="key"><span class="host"></span>host<span class="guest"></span>guest'
            '<span class="failed"></span>failed</p>',
            "<table><thead><tr><th>where</th><th>phase</th><th>start ms</th><th>ms</th>",
            f'<th><div class="axis">{"".join(_draw_ticks(end))}</div></th></tr></thead><tbody>',
            *(_draw_row(phase, end) for phase in phases),
            "</tbody></table></body></html>\n",
        )
    )


def _draw_ticks(end: float) -> Iterator[str]:
    step = choose_step(end)
    at = 0.0
    while at <= end:
        yield f'<i style="left:{at / end * 100:.2f}%">{at:g}</i>'
        at += step


def choose_step(end: float) -> float:
    """Return the least of 1, 2, 5, 10, 20, … by which an axis to `end` has no more marks than can be read."""
    power = 0.001
    while True:
        for step in _STEPS:
            if end / (step * power) <= _TICKS:
                return step * power
        power *= 10


def _draw_row(phase: Phase, end: float) -> str:
    where = "guest" if phase.in_guest else "host"
    name = escape(phase.name) + (" (failed)" if phase.failed else "")
    bar = f"left:{phase.start_ms / end * 100:.3f}%;width:{phase.ms / end * 100:.3f}%"
    kind = "failed" if phase.failed else where
    return (
        f'<tr><td>{where}</td><td title="{name}">{name}</td><td>{phase.start_ms:.1f}</td><td>{phase.ms:.1f}</td>'
        f'<td><div class="track"><b class="{kind}" style="{bar}" title="{name}: {phase.ms:.1f} ms"></b></div></td></tr>'
    )
