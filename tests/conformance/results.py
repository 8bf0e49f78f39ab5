"""What a conformance suite found: kept in build/, counted in build/conformance.json, shown in docs/conformance.md."""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
DOCUMENT = ROOT / "docs/conformance.md"
OUTCOMES = ("passed", "failed", "skipped")
NOT_RUN = 77
"""The exit code of a suite that could not be run, as automake's and Meson's test drivers have it for a skip."""

Reasons = Mapping[str, Mapping[str, str]]
"""Why a case cannot pass, by its name: `suite` for all runtimes, `vm` for this one, `host` for those of the host."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one case said. `outcome` is one of OUTCOMES, `seconds` its duration, `why` what it complained of."""

    case: str
    outcome: str
    why: str
    seconds: float


def find_reason(reasons: Reasons, case: str, runtime: str) -> str:
    own = reasons.get("vm" if runtime.startswith("kata") else "host", {})
    return own.get(case) or reasons.get("suite", {}).get(case, "")


def count(results: Iterable[Result]) -> dict[str, int]:
    found = [result.outcome for result in results]
    return {outcome: found.count(outcome) for outcome in OUTCOMES}


def report(suite: str, runtime: str, results: list[Result], reasons: Reasons) -> int:
    """Print the count and the unexplained failures; return how many those are."""
    failed = [result for result in results if result.outcome == "failed"]
    unexplained = [result for result in failed if not find_reason(reasons, result.case, runtime)]
    print(f"{suite} with {runtime}: " + ", ".join(f"{number} {name}" for name, number in count(results).items()))
    for result in unexplained:
        print(f"  unexplained: {result.case}: {result.why}")
    return len(unexplained)


def record(suite: str, runtime: str, results: list[Result]) -> None:
    """Keep the cases of this runtime, and replace its row in build/conformance.json."""
    folder = BUILD / suite
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{runtime}.json").write_text(json.dumps([asdict(result) for result in results], indent=1))
    _replace_row({"suite": suite, "runtime": runtime, **count(results)})


def record_skip(suite: str, runtime: str, why: str) -> None:
    """Say that the suite was not run with this runtime: one skip in build/conformance.json, and why on stderr."""
    print(f"SKIPPED {suite} with {runtime}: {why}; its column stays as it was", file=sys.stderr)
    _replace_row({"suite": suite, "runtime": runtime, **count([Result(suite, "skipped", why, 0.0)]), "why": why})


def _replace_row(row: dict[str, object]) -> None:
    BUILD.mkdir(exist_ok=True)
    table = BUILD / "conformance.json"
    rows = json.loads(table.read_text()) if table.exists() else []
    rows = [old for old in rows if (old["suite"], old["runtime"]) != (row["suite"], row["runtime"])]
    table.write_text(json.dumps([*rows, row], indent=1) + "\n")


def write_section(suite: str, title: str, introduction: str, reasons: Reasons) -> None:
    """Write the suite's section of the document from what is kept; the other sections stay as they are."""
    found = {
        path.stem: [Result(**row) for row in json.loads(path.read_text())]
        for path in sorted(
            (BUILD / suite).glob("*.json"), key=lambda path: (not path.stem.startswith("kata"), path.stem)
        )
    }
    body = "\n".join(_list_lines(found, reasons))
    head, *sections = DOCUMENT.read_text().split("\n## ")
    kept = [section for section in sections if not section.startswith(f"{title}\n")]
    mine = f"{title}\n\n{introduction}\n\n{body}\n"
    DOCUMENT.write_text("\n## ".join([head, *sorted([*kept, mine])]))


def _list_lines(found: dict[str, list[Result]], reasons: Reasons) -> Iterable[str]:
    for runtime, results in found.items():
        yield f"- `{runtime}`: " + ", ".join(f"{number} {name}" for name, number in count(results).items())
    yield ""
    yield "| case | " + " | ".join(f"`{runtime}`" for runtime in found) + " | why not |"
    yield "|---|" + "---|" * (len(found) + 1)
    cases = {runtime: {result.case: result for result in results} for runtime, results in found.items()}
    for case in sorted({case for results in cases.values() for case in results}):
        row = {runtime: results.get(case, Result(case, "not run", "", 0.0)) for runtime, results in cases.items()}
        why = [_tell_why(reasons, result, runtime) for runtime, result in row.items() if result.outcome != "passed"]
        outcomes = " | ".join(result.outcome for result in row.values())
        yield f"| {case} | {outcomes} | {'; '.join(dict.fromkeys(filter(None, why)))} |"


def _tell_why(reasons: Reasons, result: Result, runtime: str) -> str:
    """Return the reason that is known, or what a case that was skipped says itself."""
    said = result.why.replace("|", "/") if result.outcome == "skipped" else ""
    return find_reason(reasons, result.case, runtime) or said
