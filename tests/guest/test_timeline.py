"""Where the time of a start went, told by the host and the guest on one clock."""

from engine import Container, Engine

Row = tuple[str, float, float]


def read_rows(text: str) -> dict[str, list[Row]]:
    """Return name, start and length of each phase by where it was."""
    rows: dict[str, list[Row]] = {"host": [], "guest": []}
    for line in text.splitlines()[1:]:
        where, rest = line.split(maxsplit=1)
        name, start, length = rest.rsplit(maxsplit=2)
        rows[where].append((name.strip(), float(start), float(length)))
    return rows


def find(rows: list[Row], name: str) -> tuple[float, float]:
    """Return when the first phase of this name began and ended."""
    start, length = next((start, length) for found, start, length in rows if found == name)
    return start, start + length


def test_the_guests_part_of_a_start_lies_within_the_hosts(engine: Engine, pod: Container) -> None:
    rows = read_rows(engine.succeed("timeline", pod.id))

    for host, guest in (
        ("guest boot", "agent's parts"),
        ("guest sandbox", "CreateSandbox"),
        ("create container", "CreateContainer"),
        ("create container", "crun create"),
        ("start container", "StartContainer"),
    ):
        (outer_start, outer_end), (start, end) = find(rows["host"], host), find(rows["guest"], guest)
        slack = 50.0  # half a call's length on a busy host: so far the clocks may be apart
        assert outer_start - slack <= start <= end <= outer_end + slack, (host, guest, rows)
    kernel = find(rows["guest"], "kernel")
    assert kernel[1] - kernel[0] > 100


def test_the_picture_shows_what_the_table_tells(engine: Engine, pod: Container) -> None:
    page = engine.succeed("timeline", "--html", pod.id)

    assert page.startswith("<!doctype html>")
    assert pod.id in page
    assert page.count('class="track"') == len(engine.succeed("timeline", pod.id).splitlines()) - 1
