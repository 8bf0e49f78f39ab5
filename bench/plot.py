"""Distributions of start times as a picture: for each crowd a curve of how many had started by when."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _MARGIN = 720, 320, 48
_COLOURS = ("#2f6fdb", "#1f9d6b", "#d98a1f", "#a23fb8")
_MARKS = 5


def draw_distributions(curves: Mapping[str, Sequence[float]]) -> str:
    """Return an SVG. `curves` has seconds by the name of their curve."""
    end = max(max(values) for values in curves.values()) * 1.02
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        *_draw_axes(end),
    ]
    for number, (name, values) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in _place_steps(sorted(values), end))
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>')
        lines.append(f'<text x="{_WIDTH - 180}" y="{_HEIGHT - 70 - 18 * number}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*lines, "</svg>\n"])


def _draw_axes(end: float) -> Iterator[str]:
    bottom, right = _HEIGHT - _MARGIN, _WIDTH - _MARGIN / 2
    yield f'<path d="M{_MARGIN},{_MARGIN / 2}V{bottom}H{right}" fill="none" stroke="#666"/>'
    for mark in range(_MARKS + 1):
        x, y = _place(end * mark / _MARKS, mark / _MARKS, end)
        yield f'<text x="{x:.0f}" y="{bottom + 18}" text-anchor="middle">{end * mark / _MARKS:.1f}</text>'
        yield f'<text x="{_MARGIN - 8}" y="{y + 4:.0f}" text-anchor="end">{100 * mark // _MARKS}%</text>'
    yield f'<text x="{right}" y="{bottom + 36}" text-anchor="end">seconds from the command to the first output</text>'


def _place(seconds: float, share: float, end: float) -> tuple[float, float]:
    width, height = _WIDTH - 1.5 * _MARGIN, _HEIGHT - 1.5 * _MARGIN
    return _MARGIN + seconds / end * width, _HEIGHT - _MARGIN - share * height


def _place_steps(values: Sequence[float], end: float) -> Iterator[tuple[float, float]]:
    yield _place(0, 0, end)
    for number, value in enumerate(values):
        yield _place(value, number / len(values), end)
        yield _place(value, (number + 1) / len(values), end)
    yield _place(end, 1, end)
