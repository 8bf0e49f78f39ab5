"""run without a bundle: --rootfs and --oci-layout."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from kata.cli.made_bundle import choose_args, merge_environment, parse_volume, split_arguments
from kata.cli.update import parse_size
from kata.cli.user import find_user
from kata.errors import NotFoundError, UsageError
from kata.storage.oci_layout import ImageConfig
from unit.cli.runtime import Runtime
from unit.storage.image_layout import LayoutMaker, file


def run(runtime: Runtime, *words: str) -> subprocess.CompletedProcess[str]:
    command = runtime.command("run", *words)
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)


def test_a_command_runs_in_a_directory_and_the_bundle_is_gone_after(runtime: Runtime, tmp_path: Path) -> None:
    words = ["--rootfs", str(tmp_path), "-e", "A=1", "-v", f"{tmp_path}:/data:ro", "--memory", "64M", "--cpus", "1.5"]
    # The host's process sees the bundle in the file system of the host.
    script = f"echo $A; cat {runtime.root}/bundles/*/config.json"
    done = run(runtime, *words, "--hostname", "h", "--read-only", "-w", "/tmp", "-u", "7:8", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    first, _, document = done.stdout.partition("\n")
    spec = json.loads(document)
    assert first == "1"
    assert spec["root"] == {"path": str(tmp_path), "readonly": True}
    assert spec["process"]["user"] == {"uid": 7, "gid": 8}
    assert spec["process"]["cwd"] == "/tmp"
    assert spec["process"]["terminal"] is False
    assert spec["hostname"] == "h"
    assert spec["linux"]["resources"]["memory"] == {"limit": 64 << 20}
    assert spec["linux"]["resources"]["cpu"] == {"period": 100_000, "quota": 150_000}
    mount = {"destination": "/data", "type": "bind", "source": str(tmp_path), "options": ["rbind", "ro"]}
    assert spec["mounts"][-1] == mount
    assert os.listdir(runtime.root / "bundles") == []


def test_an_image_runs_as_it_says(runtime: Runtime, tmp_path: Path) -> None:
    maker = LayoutMaker(tmp_path / "layout")
    files = [file("etc/passwd", b"me:x:12:34::/:/bin/sh\n"), file("etc/group", b"more:x:56:me\n")]
    script = f"echo $A $0; cat {runtime.root}/bundles/*/config.json"
    maker.add_image([files], Entrypoint=["sh", "-c"], Cmd=[script], Env=["A=image", "PATH=/usr/bin:/bin"], User="me")
    done = run(runtime, "--oci-layout", maker.finish(), "named", "--")
    assert done.returncode == 0, done.stderr
    spec = json.loads(done.stdout.partition("\n")[2])
    assert spec["process"]["user"] == {"uid": 12, "gid": 34, "additionalGids": [56]}
    assert spec["process"]["env"] == ["A=image", "PATH=/usr/bin:/bin"]
    assert spec["hostname"] == "named"
    assert os.listdir(runtime.root / "bundles") == []


def test_a_bad_image_leaves_nothing(runtime: Runtime, tmp_path: Path) -> None:
    maker = LayoutMaker(tmp_path / "layout")
    maker.add_image([[file("../evil")]], Cmd=["true"])
    done = run(runtime, "--oci-layout", maker.finish())
    assert done.returncode == 1
    assert "climbs out" in done.stderr
    assert os.listdir(runtime.root / "bundles") == []


def test_gc_removes_bundles_whose_makers_are_gone(runtime: Runtime) -> None:
    left = runtime.root / "bundles" / "left"
    left.mkdir(parents=True)
    (left / "owner.json").write_text(json.dumps({"pid": os.getpid(), "started": "1"}))
    assert runtime.succeed("gc", "--dry-run") == f"would remove bundle {left}\n"
    assert left.exists()
    assert runtime.succeed("gc") == f"removed bundle {left}\n"
    assert not left.exists()
    assert runtime.succeed("gc") == "nothing to remove\n"


def test_what_precedes_two_dashes_is_the_id() -> None:
    assert split_arguments(["id", "a", "b"], separated=1) == ("id", ["a", "b"])
    assert split_arguments(["a", "b"], separated=0) == ("", ["a", "b"])
    assert split_arguments(["a", "b"], separated=-1) == ("", ["a", "b"])
    with pytest.raises(UsageError):
        split_arguments(["a", "b", "c"], separated=2)


def test_arguments_replace_the_images_command_but_not_its_entry_point() -> None:
    image = ImageConfig(entrypoint=("e",), command=("c",))
    assert choose_args(image, []) == ["e", "c"]
    assert choose_args(image, ["x"]) == ["e", "x"]
    with pytest.raises(UsageError, match="nothing to run"):
        choose_args(ImageConfig(), [])


def test_later_variables_win_and_bare_names_are_taken_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    assert merge_environment(["A=1", "B=2"], ["A=3", "HERE", "NOT_HERE"]) == ["A=3", "B=2", "HERE=yes"]


@pytest.mark.parametrize("volume", ["", "/a", "/a:b", ":/b", "/a:/b:exec", "/a:"])
def test_a_malformed_volume_is_refused(volume: str) -> None:
    with pytest.raises(UsageError):
        parse_volume(volume)


def test_a_volume_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFoundError, match="/nowhere does not exist"):
        parse_volume("/nowhere:/x")


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("64k", 65536), ("1.5G", 3 << 29), ("2MiB", 2 << 20), ("-1", -1)])
def test_sizes_have_suffixes(text: str, size: int) -> None:
    assert parse_size("memory", text) == size


@pytest.mark.parametrize("text", ["", "x", "1x", "k", "1kk", "inf", "nan"])
def test_what_is_no_size_is_refused_in_runcs_words(text: str) -> None:
    with pytest.raises(UsageError, match="invalid value for memory: invalid size"):
        parse_size("memory", text)


def test_names_are_looked_up_in_the_root_file_system_only(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").symlink_to("/etc/../../../../../../../etc/shadow-of-test")
    with pytest.raises(NotFoundError, match="user root is not in /etc/passwd"):
        find_user(str(tmp_path), "root")
    (tmp_path / "etc/shadow-of-test").write_text("root:x:0:5:::\nbroken\nbad:x:-1:x:::\n")
    (tmp_path / "etc/group").write_text("staff:x:9:\nwheel:x:10:root,me\n")
    assert find_user(str(tmp_path), "root") == {"uid": 0, "gid": 5, "additionalGids": [10]}
    assert find_user(str(tmp_path), "root:staff") == {"uid": 0, "gid": 9}
    assert find_user(str(tmp_path), "77") == {"uid": 77, "gid": 0}
    assert find_user(str(tmp_path), "77:88") == {"uid": 77, "gid": 88}
    for name in ("nobody", "bad", "root:nobody", "root:", "4294967296"):
        with pytest.raises((NotFoundError, UsageError)):
            find_user(str(tmp_path), name)
