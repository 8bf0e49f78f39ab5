import tomllib
from pathlib import Path

from kata.cli.env import describe_environment, format_toml
from kata.config.load import load_configuration


def test_what_a_configuration_says_without_effect_is_shown_with_file_line_and_reason(tmp_path: Path) -> None:
    file = tmp_path / "configuration.toml"
    file.write_text('[hypervisor.qemu]\ndefault_vcpus = 2\n\ncpu_features = "x"\n')

    document = describe_environment(load_configuration(str(file)), str(tmp_path))

    shown = tomllib.loads(format_toml(document))
    assert shown == document
    assert shown["Hypervisor"]["DefaultVCPUs"] == 2
    assert shown["Ignored"]["Options"] == [
        f"{file}:4: [hypervisor.qemu] cpu_features: the processor's model is this runtime's own choice"
    ]
