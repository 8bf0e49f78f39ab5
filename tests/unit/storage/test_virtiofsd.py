import os
import resource
from pathlib import Path

import pytest

from kata.errors import ConfigError, NotFoundError
from kata.storage.virtiofsd import (
    VirtiofsdBinary,
    build_virtiofsd_arguments,
    find_file_limit,
    find_virtiofsd,
    start_virtiofsd,
    tell_kind,
)

C = VirtiofsdBinary("/usr/lib/qemu/virtiofsd", "c")
RUST = VirtiofsdBinary("/usr/libexec/virtiofsd", "rust")


def test_the_c_version_gets_its_options_after_o() -> None:
    assert build_virtiofsd_arguments(C, "/share", 9, cache="never", files=1000) == [
        *("/usr/lib/qemu/virtiofsd", "--fd=9", "--thread-pool-size=0", "--rlimit-nofile=1000", "-f"),
        *("-o", "sandbox=namespace", "-o", "cache=none", "-o", "xattr", "-o", "announce_submounts"),
        *("-o", "source=/share"),
    ]


def test_the_rust_version_gets_long_options() -> None:
    assert build_virtiofsd_arguments(RUST, "/share", 9, files=1000) == [
        *("/usr/libexec/virtiofsd", "--fd=9", "--thread-pool-size=1", "--rlimit-nofile=1000"),
        *("--sandbox=namespace", "--seccomp=kill", "--cache=auto"),
        *("--xattr", "--announce-submounts", "--shared-dir=/share"),
    ]


@pytest.mark.parametrize("binary", [C, RUST])
@pytest.mark.parametrize("cache", ["never", "metadata", "auto", "always"])
def test_the_sandbox_is_never_off(binary: VirtiofsdBinary, cache: str) -> None:
    words = " ".join(build_virtiofsd_arguments(binary, "/share", 9, cache=cache, files=1000))
    assert "sandbox=namespace" in words
    assert "sandbox=none" not in words
    assert "seccomp=none" not in words


def test_an_unknown_cache_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="'lots' is unknown"):
        build_virtiofsd_arguments(C, "/share", 9, cache="lots", files=1000)


def test_the_two_are_told_apart_by_what_they_print() -> None:
    assert tell_kind("virtiofsd version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)") == "c"
    assert tell_kind("virtiofsd 1.13.0") == "rust"
    assert tell_kind("virtiofsd backend 1.7.2") == "rust"


def test_a_configured_path_is_not_replaced_by_another() -> None:
    with pytest.raises(NotFoundError, match="/no/virtiofsd"):
        find_virtiofsd("/no/virtiofsd")


def test_the_file_limit_is_one_that_can_be_set() -> None:
    limit = find_file_limit()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert limit <= 1_000_000
    assert limit <= hard or os.geteuid() == 0


async def test_a_daemon_that_cannot_start_leaves_its_words_and_no_socket(tmp_path: Path) -> None:
    broken = tmp_path / "virtiofsd"
    broken.write_text("#!/bin/sh\necho no such option >&2\nexit 2\n")
    broken.chmod(0o755)
    daemon = start_virtiofsd(VirtiofsdBinary(str(broken), "rust"), str(tmp_path), str(tmp_path))
    ending = await daemon.wait()
    assert ending.describe() == "exited with status 2: no such option"
    with pytest.raises(Exception, match="virtiofsd exited with status 2: no such option"):
        daemon.check()
    await daemon.stop()
    assert sorted(os.listdir(tmp_path)) == ["virtiofsd", "virtiofsd.log"]
