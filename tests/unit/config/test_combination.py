"""What the values of a configuration mean for each other: limits and confidential guests, which not all VMMs have."""

from pathlib import Path

import pytest

from kata.config.load import load_configuration
from kata.errors import ConfigError


def load(tmp_path: Path, text: str) -> list[str]:
    """Return the remarks on a configuration file, without its name."""
    path = tmp_path / "configuration.toml"
    path.write_text(text)
    return [str(remark).removeprefix(f"{path}:") for remark in load_configuration(str(path)).remarks]


@pytest.mark.parametrize("key", ["disk_rate_limiter_bw_max_rate", "net_rate_limiter_ops_one_time_burst"])
def test_a_limit_that_the_vmm_does_not_have_is_told_of(tmp_path: Path, key: str) -> None:
    [remark] = load(tmp_path, f"[hypervisor.qemu]\n{key} = 1000\n")
    assert remark.startswith(f"2: [hypervisor.qemu] {key}: qemu limits nothing by itself")
    for driver in ("clh", "firecracker"):
        assert load(tmp_path, f"[hypervisor.{driver}]\n{key} = 1000\n") == []


def test_an_image_as_memory_is_told_of_where_it_is_a_disk_all_the_same(tmp_path: Path) -> None:
    for driver in ("qemu", "firecracker"):
        [remark] = load(tmp_path, f"[hypervisor.{driver}]\ndisable_image_nvdimm = false\n")
        assert f"the root image of VMs of {driver} is a read-only disk" in remark
    assert load(tmp_path, "[hypervisor.clh]\ndisable_image_nvdimm = false\n") == []


@pytest.mark.parametrize("key", ["rx_rate_limiter_max_rate", "tx_rate_limiter_max_rate"])
def test_a_limit_of_the_hosts_kernel_holds_with_any(tmp_path: Path, key: str) -> None:
    assert load(tmp_path, f"[hypervisor.qemu]\n{key} = 1000\n") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[hypervisor.qemu]\nconfidential_guest = true\n", "qemu has no confidential guests"),
        ("[hypervisor.firecracker]\nconfidential_guest = true\n", "firecracker has no confidential guests"),
        ('[hypervisor.clh]\nshared_fs = "none"\nconfidential_guest = true\n', "set firmware to the TDVF"),
        ('[hypervisor.clh]\nfirmware = "/opt/tdvf.fd"\nconfidential_guest = true\n', "set shared_fs"),
    ],
)
def test_a_confidential_guest_that_cannot_be_is_an_error(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert says in f"{caught.value} {caught.value.hint}"


def test_a_confidential_guest_with_all_that_it_needs_is_taken(tmp_path: Path) -> None:
    text = '[hypervisor.clh]\nfirmware = "/opt/tdvf.fd"\nshared_fs = "none"\nconfidential_guest = true\n'
    assert load(tmp_path, text) == []


def test_firmware_without_a_confidential_guest_is_told_of(tmp_path: Path) -> None:
    [remark] = load(tmp_path, '[hypervisor.clh]\nfirmware = "/opt/tdvf.fd"\n')
    assert "only confidential guests have one" in remark
