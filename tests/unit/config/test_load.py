from pathlib import Path

import pytest

from kata.config.load import load_configuration
from kata.errors import ConfigError


def _write(directory: Path, text: str | bytes) -> str:
    path = directory / "configuration.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_drop_ins_are_laid_over_in_order_of_name(tmp_path: Path) -> None:
    path = _write(tmp_path, "[hypervisor.qemu]\ndefault_vcpus = 1\ndefault_memory = 512\n")
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d" / "20.toml").write_text("[hypervisor.qemu]\ndefault_vcpus = 3\n")
    (tmp_path / "config.d" / "10.toml").write_text("[hypervisor.qemu]\ndefault_vcpus = 2\n")
    (tmp_path / "config.d" / "30.txt").write_text("[hypervisor.qemu]\ndefault_vcpus = 4\n")
    config = load_configuration(path)
    assert (config.hypervisor.default_vcpus, config.hypervisor.default_memory) == (3, 512)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[hypervisor.qemu]\ndefault_vcpu = 1", "did you mean default_vcpus"),
        ('[hypervisor.qemu]\ndefault_vcpus = "1"', "a str, where a int is needed"),
        ("[hypervisor.qemu]\ndefault_vcpus = true", "a bool, where a int is needed"),
        ("[hypervisor.qemu]\ndefault_vcpus = 0", "it takes 1 to 240"),
        ('[hypervisor.qemu]\naccelerator = "xen"', "it takes auto, kvm, tcg"),
        ("[hypervisor]\nqemu = 5", "qemu is a key"),
        ("[hypervisor.xen]", "unknown table"),
        ("key = 1", "outside of any table"),
        ("[", "configuration.toml"),
        (b"\xff", "configuration.toml"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_file_and_reason(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_configuration(_write(tmp_path, text))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read"):
        load_configuration(str(tmp_path / "absent.toml"))
