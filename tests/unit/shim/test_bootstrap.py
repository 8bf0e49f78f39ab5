"""What each version of containerd says to `start`, and what it reads as the answer."""

import json
import os
import typing
from pathlib import Path

import pytest

from kata.errors import ConfigError, UnsupportedError, UsageError
from kata.protocol.messages.bootstrap import BootstrapParams, BootstrapResult, Extension
from kata.protocol.messages.google import Any
from kata.protocol.messages.task import OPTIONS_TYPE, Options
from kata.shim.bootstrap import format_answer, parse_input, read_input
from kata.shim.flags import find_flavour
from kata.shim.options import ConfigChoice

_SOME = {"MAX_SHIM_VERSION": "2", "TTRPC_ADDRESS": "/run/containerd/containerd.sock.ttrpc"}
_ADDRESS = "unix:///run/containerd/s/abc"


def _pack(**fields: typing.Any) -> Any:
    return Any(type_url=OPTIONS_TYPE, value=Options(**fields).encode())


def _make_params(**fields: typing.Any) -> bytes:
    return BootstrapParams(instance_id="the-id", namespace="space", **fields).encode()


def test_containerd_1_6_is_told_the_plain_address() -> None:
    bootstrap = parse_input(b"", "the-id", "space", {})

    assert format_answer(bootstrap.form, _ADDRESS, "/b") == _ADDRESS.encode()


def test_cri_o_is_told_the_plain_address() -> None:
    bootstrap = parse_input(b"", "the-id", "default", {"MAX_SHIM_VERSION": "2", "TTRPC_ADDRESS": ""})

    assert format_answer(bootstrap.form, _ADDRESS, "/b") == _ADDRESS.encode()


@pytest.mark.parametrize("options", [b"", _pack(config_path="/the-id/space.toml").encode()])
def test_containerd_1_7_to_2_2_are_told_json_of_version_2(options: bytes) -> None:
    bootstrap = parse_input(options, "the-id", "space", _SOME)
    answer = json.loads(format_answer(bootstrap.form, _ADDRESS, "/state/io.containerd.runtime.v2.task/space/the-id"))

    assert answer == {"version": 2, "address": _ADDRESS, "protocol": "ttrpc"}
    assert bootstrap.options == options


def test_a_sandbox_of_containerd_2_is_told_version_3() -> None:
    bundle = "/run/containerd/io.containerd.sandbox.controller.v1.shim/k8s.io/the-id"

    assert json.loads(format_answer("json", _ADDRESS, bundle))["version"] == 3


def test_params_on_standard_input_are_answered_in_protobuf() -> None:
    packed = _pack(config_path="/c.toml")
    data = _make_params(
        log_level=-8,
        containerd_ttrpc_address="/t.sock",
        extensions=[Extension(value=Any(type_url="other")), Extension(value=packed)],
        socket_dir="/short",
    )
    bootstrap = parse_input(data, "the-id", "space", _SOME)

    assert (bootstrap.debug, bootstrap.socket_dir, bootstrap.ttrpc_address) == (True, "/short", "/t.sock")
    assert bootstrap.options == packed.encode()
    answer = BootstrapResult.decode(format_answer(bootstrap.form, _ADDRESS, "/b"))
    assert answer == BootstrapResult(version=3, address=_ADDRESS, protocol="ttrpc")


@pytest.mark.parametrize(("level", "debug"), [(-4, True), (-1, False), (0, False), (8, False)])
def test_the_level_of_the_log_follows_the_params(level: int, debug: bool) -> None:
    assert parse_input(_make_params(log_level=level), "the-id", "space", {}).debug is debug


def test_params_of_another_container_are_taken_for_options() -> None:
    data = BootstrapParams(instance_id="other", namespace="space").encode()

    assert parse_input(data, "the-id", "space", _SOME).form == "json"


def test_standard_input_is_read_to_its_end_and_not_without_limit(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(bytes(100_000))
    descriptor = os.open(file, os.O_RDONLY)
    assert len(read_input(descriptor)) == 100_000
    os.close(descriptor)

    endless = os.open("/dev/zero", os.O_RDONLY)
    with pytest.raises(UsageError, match="more than"):
        read_input(endless)
    os.close(endless)


@pytest.mark.parametrize(
    ("program", "flavour"),
    [
        ("/usr/local/bin/containerd-shim-kata-v2", ""),
        ("containerd-shim-kata-qemu-v2", "qemu"),
        ("/x/containerd-shim-kata-qemu-tdx-v2", "qemu-tdx"),
        ("-c", ""),
    ],
)
def test_the_programs_name_says_the_flavour(program: str, flavour: str) -> None:
    assert find_flavour(program) == flavour


def test_the_options_of_a_call_come_before_those_of_the_start_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KATA_CONF_FILE", "/env.toml")
    started = ConfigChoice("", _pack(config_path="/start.toml").encode())

    assert started.find(_pack(config_path="/call.toml"), str(tmp_path)) == "/call.toml"
    assert started.find(_pack(), str(tmp_path)) == "/start.toml"
    assert started.find(None, str(tmp_path)) == "/start.toml"
    assert ConfigChoice("", b"").find(None, str(tmp_path)) == "/env.toml"


def test_a_configuration_that_comes_as_a_body_is_put_beside_the_sandbox(tmp_path: Path) -> None:
    path = ConfigChoice("", b"").find(_pack(config_body=b"[runtime]\n"), str(tmp_path))

    assert path == f"{tmp_path}/configuration.toml"
    assert Path(path).read_text() == "[runtime]\n"


def test_a_hypervisor_without_a_driver_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KATA_CONF_FILE", raising=False)
    with pytest.raises(UnsupportedError, match="no driver for the hypervisor dragonball"):
        ConfigChoice("dragonball", b"").find(None, str(tmp_path))
    with pytest.raises(ConfigError, match="kata-nonsense has no configuration"):
        ConfigChoice("nonsense", b"").find(None, str(tmp_path))


def test_options_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        ConfigChoice("", b"\xff\xff")
