from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.config.annotations import OFFERED, apply_annotations
from kata.config.model import Configuration, HypervisorConfig
from kata.errors import ConfigError

_PREFIX = "io.katacontainers.config.hypervisor."
_OPEN = Configuration(
    HypervisorConfig(
        default_maxvcpus=8,
        enable_annotations=tuple(OFFERED),
        valid_hypervisor_paths=("/opt/qemu/bin/qemu",),
        valid_virtio_fs_daemon_paths=("/opt/virtiofsd",),
    )
)


def _apply(name: str, value: str, config: Configuration = _OPEN) -> HypervisorConfig:
    return apply_annotations(config, {_PREFIX + name: value}).hypervisor


def test_without_annotations_nothing_changes() -> None:
    annotations = {"io.kubernetes.cri.sandbox-id": "1", "io.katacontainers.pkg.oci.container_type": "pod_sandbox"}

    assert apply_annotations(_OPEN, annotations) is _OPEN


@pytest.mark.parametrize(
    "name", [*OFFERED, "io.katacontainers.config.hypervisor.kernel", "io.katacontainers.config_path"]
)
def test_by_default_each_annotation_refuses_the_pod_and_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        apply_annotations(Configuration(), {name: "1"})


def test_an_annotation_is_opened_by_its_exact_name() -> None:
    config = Configuration(HypervisorConfig(enable_annotations=("default_memory",)))

    assert _apply("default_memory", "512", config).default_memory == 512
    with pytest.raises(ConfigError, match=r"default_vcpus is not enabled .*enable_annotations"):
        _apply("default_vcpus", "2", config)


def test_an_annotation_of_another_table_is_opened_by_its_whole_name() -> None:
    name = "io.katacontainers.config.runtime.create_container_timeout"
    with pytest.raises(ConfigError, match="is not enabled"):
        apply_annotations(
            Configuration(HypervisorConfig(enable_annotations=("create_container_timeout",))), {name: "30"}
        )

    config = apply_annotations(Configuration(HypervisorConfig(enable_annotations=(name,))), {name: "30"})

    assert config.runtime.create_container_timeout == 30


@pytest.mark.parametrize(
    ("name", "value", "key", "result"),
    [
        ("default_vcpus", "4", "default_vcpus", 4),
        ("default_max_vcpus", "2", "default_maxvcpus", 2),
        ("path", "/opt/qemu/bin/qemu", "path", "/opt/qemu/bin/qemu"),
        ("virtio_fs_daemon", "/opt/virtiofsd", "virtio_fs_daemon", "/opt/virtiofsd"),
        ("virtio_fs_cache", "never", "virtio_fs_cache", "never"),
        ("reclaim_guest_freed_memory", "true", "reclaim_guest_freed_memory", True),
    ],
)
def test_a_value_is_read_as_its_options_type(name: str, value: str, key: str, result: Any) -> None:
    assert getattr(_apply(name, value), key) == result


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("default_vcpus", "-1", "a decimal number"),
        ("default_vcpus", "1.5", "a decimal number"),
        ("default_vcpus", " 1", "a decimal number"),
        ("default_vcpus", "0x1", "a decimal number"),
        ("default_vcpus", "\u0661", "a decimal number"),
        ("default_vcpus", "1" * 5000, "sane length"),
        ("default_vcpus", "9", "default_maxvcpus is 8"),
        ("default_vcpus", "241", "-1 to 240"),
        ("default_max_vcpus", "9", "the operator allows 8"),
        ("default_max_vcpus", "0", "the operator allows 8"),
        ("default_memory", "64", "needs 128 MiB to boot"),
        ("default_memory", "99999999", "0 to 16777216 MiB"),
        ("path", "/opt/qemu/bin/../../evil", "lists what it takes in valid_hypervisor_paths"),
        ("path", "/opt/qemu/bin/qemu\0", "absolute path"),
        ("path", "", "lists what it takes in valid_hypervisor_paths"),
        ("virtio_fs_daemon", "virtiofsd", "lists what it takes in valid_virtio_fs_daemon_paths"),
        ("virtio_fs_cache", "sometimes", '"never"'),
        ("reclaim_guest_freed_memory", "1", "true or false"),
    ],
)
def test_a_value_out_of_bounds_refuses_the_pod(name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _apply(name, value)
    caught.match(says)
    caught.match("annotation")


def test_a_path_is_nobodys_to_choose_while_the_operator_lists_none() -> None:
    config = Configuration(HypervisorConfig(enable_annotations=("path",)))
    with pytest.raises(ConfigError, match="valid_hypervisor_paths"):
        _apply("path", "", config)


@given(st.dictionaries(st.sampled_from([*OFFERED, "io.katacontainers.config.x"]), st.text(max_size=20), max_size=4))
def test_any_annotations_give_a_configuration_in_bounds_or_a_sentence(annotations: dict[str, str]) -> None:
    try:
        config = apply_annotations(_OPEN, annotations)
    except ConfigError:
        return
    assert 0 <= config.hypervisor.default_vcpus <= 8
    assert config.hypervisor.path in ("", *_OPEN.hypervisor.valid_hypervisor_paths)
    assert config.hypervisor.enable_annotations == _OPEN.hypervisor.enable_annotations
