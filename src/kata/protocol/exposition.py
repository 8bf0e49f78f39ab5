"""Prometheus' text format, written and read strictly: families of samples to text and back.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/, "Text-based format", version 0.0.4.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from kata.errors import ProtocolError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_KINDS = frozenset({"counter", "gauge", "histogram", "summary", "untyped"})
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
_PLAIN_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE_LINE = re.compile(
    rf"({_NAME})(?:\{{((?:{_PLAIN_LABEL}(?:,{_PLAIN_LABEL})*,?)?)\}})? ([-+0-9.eEInfNa]+)", re.ASCII
)
_HEADER_LINE = re.compile(rf"# (HELP|TYPE) ({_NAME})(?: (.*))?", re.ASCII)
_LABELS = re.compile(_LABEL, re.ASCII)
_ESCAPED = re.compile(r"\\(.)")


class Sample(NamedTuple):
    """One figure. `name` is its family's, or that with a suffix of a histogram."""

    name: str
    labels: Mapping[str, str]
    value: float


class Family(NamedTuple):
    """All samples of one metric. `kind` is counter, gauge, histogram, summary or untyped."""

    name: str
    kind: str
    help: str
    samples: Sequence[Sample]


Row = tuple[Mapping[str, str], float]
"""Labels and value of a sample whose name is its family's."""


def make_family(name: str, text: str, rows: Iterable[Row], kind: str = "gauge") -> Family:
    """Return a family of plain samples; `text` explains it."""
    return Family(name, kind, text, [Sample(name, labels, value) for labels, value in rows])


def make_gauge(name: str, text: str, value: float) -> Family:
    return make_family(name, text, [({}, value)])


def make_items(name: str, text: str, values: Mapping[str, float]) -> Family:
    """Return a family with one sample for each value, told apart by the label `item`."""
    return make_family(name, text, [({"item": item}, value) for item, value in values.items()])


def encode_families(families: Iterable[Family]) -> str:
    """Return the text of the families that have a sample."""
    out: list[str] = []
    for family in families:
        if family.samples:
            out.append(f"# HELP {family.name} {_escape_help(family.help)}\n# TYPE {family.name} {family.kind}\n")
            out += [_encode_sample(sample) for sample in family.samples]
    return "".join(out)


def _encode_sample(sample: Sample) -> str:
    labels = ",".join(f'{name}="{_escape_label(value)}"' for name, value in sample.labels.items())
    return (
        f"{sample.name}{{{labels}}} {format_value(sample.value)}\n"
        if labels
        else (f"{sample.name} {format_value(sample.value)}\n")
    )


def format_value(value: float) -> str:
    """Return a number as Go's ParseFloat reads it, the same that it was."""
    if value != value:  # noqa: PLR0124 - what is not itself is no number
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1 << 53:
        return str(int(value))
    return repr(float(value))


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape_label(text: str) -> str:
    if "\\" in text or '"' in text or "\n" in text:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return text


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[1], text) if "\\" in text else text


def parse_families(text: str) -> list[Family]:
    """Read what `encode_families` and others write. Raise ProtocolError that quotes the first line that is none.

    Samples stand after the TYPE of their family; one without a TYPE is a family of its own. Timestamps are refused:
    figures here are always of now.
    """
    kinds: dict[str, str] = {}
    helps: dict[str, str] = {}
    found: dict[str, list[Sample]] = {}
    parts: dict[str, str] = {}
    for line in text.split("\n"):
        if not line:
            continue
        if line.startswith("#"):
            _read_header(line, kinds, helps, parts)
            continue
        match = _SAMPLE_LINE.fullmatch(line)
        if match is None:
            raise ProtocolError(f"{line[:80]!r} is no line of a metric")
        name, labels, number = match.groups()
        try:
            value = float(number)
        except ValueError:
            raise ProtocolError(f"{number[:40]!r} is no value of a metric") from None
        pairs = {label: _unescape(text) for label, text in _LABELS.findall(labels)} if labels else {}
        found.setdefault(parts.get(name, name), []).append(Sample(name, pairs, value))
    return [Family(name, kinds.get(name, "untyped"), helps.get(name, ""), samples) for name, samples in found.items()]


def _read_header(line: str, kinds: dict[str, str], helps: dict[str, str], parts: dict[str, str]) -> None:
    match = _HEADER_LINE.fullmatch(line)
    if match is None:
        return  # a comment
    word, name, rest = match[1], match[2], match[3] or ""
    if word == "HELP":
        helps[name] = _unescape(rest)
    elif rest in _KINDS:
        kinds[name] = rest
        parts.update({f"{name}{suffix}": name for suffix in _SUFFIXES.get(rest, ())})
    else:
        raise ProtocolError(f"{rest[:40]!r} is no type of a metric")


def label_families(families: Iterable[Family], labels: Mapping[str, str]) -> list[Family]:
    """Return the families with `labels` on each sample, which win over its own."""
    return [
        family._replace(samples=[sample._replace(labels={**sample.labels, **labels}) for sample in family.samples])
        for family in families
    ]


def merge_families(families: Iterable[Family]) -> list[Family]:
    """Return one family for each name, as the format demands. The first one's type and text count."""
    merged: dict[str, tuple[Family, list[Sample]]] = {}
    for family in families:
        merged.setdefault(family.name, (family, []))[1].extend(family.samples)
    return [family._replace(samples=samples) for family, samples in merged.values()]
