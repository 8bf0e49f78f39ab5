"""Upstream's published advisories about what a pod may configure: each is refused, also where the operator opened it.

Sources: github.com/kata-containers/kata-containers/security/advisories, nvd.nist.gov. Those about a guest that attacks
the host's files are tested where the files are: tests/unit/storage, tests/faults/test_hostile_guest.py.
"""

from pathlib import Path

import pytest

from kata.config.annotations import apply_annotations
from kata.config.load import load_configuration
from kata.config.model import Configuration, HypervisorConfig
from kata.errors import ConfigError
from kata.storage.virtiofsd import VirtiofsdBinary, build_virtiofsd_arguments

_PREFIX = "io.katacontainers.config.hypervisor."


def _open(directory: Path, *names: str) -> Configuration:
    path = directory / "configuration.toml"
    path.write_text(f"[hypervisor.qemu]\nenable_annotations = {list(names)}\n".replace("'", '"'))
    return load_configuration(str(path))


def test_ghsa_rr59_no_pod_gives_virtiofsd_arguments(tmp_path: Path) -> None:
    config = _open(tmp_path, "virtio_fs_extra_args")

    assert "virtio_fs_extra_args" in config.remarks[0].reason
    with pytest.raises(ConfigError, match="cannot be used"):
        apply_annotations(config, {f"{_PREFIX}virtio_fs_extra_args": '["-o","source=/","--sandbox=none"]'})


@pytest.mark.parametrize("parameters", ["agent.debug_console", "agent.debug_console_vport=1026 init=/bin/sh"])
def test_ghsa_rr59_no_pod_gives_the_guests_kernel_parameters(tmp_path: Path, parameters: str) -> None:
    config = _open(tmp_path, "kernel_params")

    assert "kernel_params" in config.remarks[0].reason
    with pytest.raises(ConfigError, match="cannot be used"):
        apply_annotations(config, {f"{_PREFIX}kernel_params": parameters})


def test_ghsa_rr59_upstreams_default_list_of_annotations_opens_none_of_the_two(tmp_path: Path) -> None:
    config = _open(tmp_path, "enable_iommu", "virtio_fs_extra_args", "kernel_params", "kernel_verity_params")
    for name in ("enable_iommu", "virtio_fs_extra_args", "kernel_params", "kernel_verity_params"):
        with pytest.raises(ConfigError, match="cannot be used"):
            apply_annotations(config, {_PREFIX + name: "true"})


@pytest.mark.parametrize("kind", ["c", "rust"])
def test_ghsa_2gv2_virtiofsd_is_confined_whatever_the_configuration_says(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "configuration.toml"
    path.write_text('[hypervisor.qemu]\nvirtio_fs_extra_args = ["--sandbox=none", "--seccomp=none"]\n')

    assert load_configuration(str(path)).remarks[0].key == "[hypervisor.qemu] virtio_fs_extra_args"
    binary = VirtiofsdBinary("/virtiofsd", "c" if kind == "c" else "rust")
    words = " ".join(build_virtiofsd_arguments(binary, "/share", 9, files=1000))
    assert "sandbox=namespace" in words
    assert "none" not in words


@pytest.mark.parametrize("name", ["path", "virtio_fs_daemon"])
@pytest.mark.parametrize("program", ["/bin/sh", "/opt/qemu/../../tmp/own", "/opt/qemu ", "qemu", "/opt/qemu/x", ""])
def test_cve_2020_27151_no_pod_names_a_program_that_the_operator_did_not(name: str, program: str) -> None:
    config = Configuration(
        HypervisorConfig(
            enable_annotations=(name,),
            valid_hypervisor_paths=("/opt/qemu",),
            valid_virtio_fs_daemon_paths=("/opt/qemu",),
        )
    )
    with pytest.raises(ConfigError, match=f"annotation {_PREFIX}{name}"):
        apply_annotations(config, {_PREFIX + name: program})
    assert getattr(apply_annotations(config, {_PREFIX + name: "/opt/qemu"}).hypervisor, name) == "/opt/qemu"


@pytest.mark.parametrize("name", ["jailer_path", "ctlpath", "kernel", "image", "initrd", "firmware", "guest_hook_path"])
def test_cve_2020_27151_no_pod_names_another_file_of_the_host(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        apply_annotations(Configuration(), {_PREFIX + name: "/tmp/own"})


def test_no_pod_brings_a_configuration_file_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        apply_annotations(Configuration(), {"io.katacontainers.config_path": f"{tmp_path}/configuration.toml"})


@pytest.mark.parametrize("entry", [".*", "default_.*", "^path$", "virtio_fs_.+", "*"])
def test_no_pattern_opens_more_than_it_names(tmp_path: Path, entry: str) -> None:
    with pytest.raises(ConfigError, match="is no annotation"):
        _open(tmp_path, entry)
