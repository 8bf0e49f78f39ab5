import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import ConfigError, UnsupportedError
from kata.hypervisor.accelerator import (
    SLOWEST_KVM,
    choose_accelerator,
    find_accelerator,
    judge_answer,
    probe_accelerator,
)


def test_no_device_means_emulation(tmp_path: Path) -> None:
    report = probe_accelerator(device=str(tmp_path / "kvm"))
    assert report.accelerator == "tcg"
    assert report.warning == f"{tmp_path}/kvm does not exist, so VMs run in emulation (TCG) and are slow"


def test_a_device_that_is_no_kvm_means_emulation() -> None:
    report = judge_answer({"error": "Inappropriate ioctl for device"})
    assert report.accelerator == "tcg"
    assert report.reason == "KVM runs no guest (Inappropriate ioctl for device)"


def test_slow_kvm_means_emulation_and_the_warning_has_the_figure() -> None:
    report = judge_answer({"speed": 1.7e6})
    assert report.accelerator == "tcg"
    assert report.warning is not None
    assert report.warning.startswith("KVM runs only 1.7 million instructions a second")


def test_fast_kvm_is_used_without_a_word() -> None:
    report = judge_answer({"speed": 2e9})
    assert (report.accelerator, report.warning) == ("kvm", None)


@given(st.dictionaries(st.sampled_from(["speed", "error"]), st.none() | st.booleans() | st.floats() | st.text()))
def test_whatever_the_probe_prints_there_is_a_decision(answer: dict[str, object]) -> None:
    report = judge_answer(answer)
    speed = answer.get("speed")
    assert (report.accelerator == "kvm") == (isinstance(speed, float) and not speed < SLOWEST_KVM)


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs a /dev/kvm that opens")
def test_the_probe_measures_this_machine_within_its_time() -> None:
    report = probe_accelerator(timeout=10)
    assert "million instructions a second" in report.reason
    assert (report.accelerator == "kvm") == (report.speed >= SLOWEST_KVM)


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs a /dev/kvm that opens")
def test_a_probe_that_hangs_is_given_up() -> None:
    report = probe_accelerator(timeout=0.001)
    assert report.reason == "KVM runs no guest (a tiny guest did not halt within 0.001 s)"


def test_the_answer_is_kept_for_this_boot(tmp_path: Path) -> None:
    first = find_accelerator(str(tmp_path))
    kept = json.loads((tmp_path / "accelerator.json").read_text())
    assert kept == {"key": kept["key"], **first._asdict()}
    kept["reason"] = "kept"
    (tmp_path / "accelerator.json").write_text(json.dumps(kept))
    assert find_accelerator(str(tmp_path)).reason == "kept"


@pytest.mark.parametrize("content", ["", "[]", '{"key": 1}', '{"key": "another boot", "accelerator": "kvm"}'])
def test_a_kept_answer_that_is_broken_or_old_is_measured_again(tmp_path: Path, content: str) -> None:
    (tmp_path / "accelerator.json").write_text(content)
    report = find_accelerator(str(tmp_path))
    assert json.loads((tmp_path / "accelerator.json").read_text())["reason"] == report.reason


def keep_answer(folder: Path, accelerator: str) -> str:
    find_accelerator(str(folder))
    kept = json.loads((folder / "accelerator.json").read_text()) | {"accelerator": accelerator, "reason": "KVM is so"}
    (folder / "accelerator.json").write_text(json.dumps(kept))
    return str(folder)


def test_useless_kvm_that_is_demanded_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"kvm was asked for, but KVM is so \(set accelerator"):
        choose_accelerator("kvm", keep_answer(tmp_path, "tcg"))


def test_good_kvm_is_given_to_auto_and_to_kvm_but_not_to_tcg(tmp_path: Path) -> None:
    state = keep_answer(tmp_path, "kvm")
    assert [choose_accelerator(wanted, state).accelerator for wanted in ("auto", "kvm", "tcg")] == ["kvm", "kvm", "tcg"]


def test_an_unknown_accelerator_is_refused() -> None:
    with pytest.raises(ConfigError, match="'xen' is unknown"):
        choose_accelerator("xen", None)
