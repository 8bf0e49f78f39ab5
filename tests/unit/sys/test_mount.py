from hypothesis import given
from hypothesis import strategies as st

from kata.sys.mount import MountPoint, list_mounts, parse_mountinfo

LINE = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:4 - ext3 /dev/root rw,errors=continue\n"

paths = st.text(st.characters(min_codepoint=1, max_codepoint=0x7F), min_size=1, max_size=20)


def escape(path: str) -> str:
    """As the kernel does (fs/proc_namespace.c)."""
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\#" else char for char in path)


def test_a_line_of_the_manual_page_is_read() -> None:
    assert parse_mountinfo(LINE) == [
        MountPoint(36, 35, "98:0", "/mnt1", "/mnt2", "rw,noatime", ("master:1", "shared:4"), "ext3", "/dev/root")
    ]


def test_a_mount_without_propagation_is_read() -> None:
    assert parse_mountinfo("1 0 0:1 / / rw - tmpfs none rw\n")[0].propagation == ()


@given(st.lists(paths, min_size=1, max_size=3))
def test_any_path_survives_the_kernels_escapes(wanted: list[str]) -> None:
    lines = [f"1 0 0:1 / {escape(path)} rw - tmpfs none rw\n" for path in wanted]
    assert [point.path for point in parse_mountinfo("".join(lines))] == wanted


def test_lines_without_the_word_are_left_out() -> None:
    other = LINE.replace("/mnt2", "/other")

    assert [point.path for point in parse_mountinfo(LINE + other, "/mnt2")] == ["/mnt2"]
    assert parse_mountinfo(LINE, "/elsewhere") == []


def test_mounts_below_a_path_do_not_include_its_namesakes() -> None:
    points = list_mounts("/proc")
    assert points
    assert all(point.path == "/proc" or point.path.startswith("/proc/") for point in points)
