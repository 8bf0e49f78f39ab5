from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.config.load import load_configuration
from kata.config.model import Configuration
from kata.config.position import find_line
from kata.errors import ConfigError


def _write(directory: Path, text: str | bytes) -> str:
    path = directory / "configuration.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def _add_drop_in(directory: Path, name: str, text: str) -> None:
    (directory / "config.d").mkdir(exist_ok=True)
    (directory / "config.d" / name).write_text(text)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    path = _write(tmp_path, "")

    assert load_configuration(path) == Configuration(source=path)


def test_drop_ins_are_laid_over_in_order_of_name(tmp_path: Path) -> None:
    path = _write(tmp_path, "[hypervisor.qemu]\ndefault_vcpus = 1\ndefault_memory = 512\n")
    _add_drop_in(tmp_path, "20.toml", "[hypervisor.qemu]\ndefault_vcpus = 3\n")
    _add_drop_in(tmp_path, "10.toml", "[hypervisor.qemu]\ndefault_vcpus = 2\n")
    _add_drop_in(tmp_path, "30.txt", "[hypervisor.qemu]\ndefault_vcpus = 4\n")

    config = load_configuration(path)

    assert (config.hypervisor.default_vcpus, config.hypervisor.default_memory) == (3, 512)


def test_a_drop_in_can_take_back_what_has_no_effect(tmp_path: Path) -> None:
    path = _write(tmp_path, "[hypervisor.qemu]\nenable_mem_prealloc = true\n")
    _add_drop_in(tmp_path, "10.toml", "[hypervisor.qemu]\nenable_mem_prealloc = false\n")

    assert not load_configuration(path).remarks


def test_a_mistake_in_a_drop_in_names_the_drop_in(tmp_path: Path) -> None:
    path = _write(tmp_path, '[hypervisor.qemu]\nimage = "/image"\n')
    _add_drop_in(tmp_path, "10.toml", '\n[hypervisor.qemu]\ninitrd = "/initrd"\n')

    with pytest.raises(ConfigError, match=r"10\.toml:3: \[hypervisor\.qemu\] initrd is set, and image is too"):
        load_configuration(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[hypervisor.qemu]\ndefault_vcpu = 1",
            r"toml:2: \[hypervisor.qemu\] default_vcpu is no option .*default_vcpus",
        ),
        ("[hypervisor.qemu]\ndial_timeout = 1", "it belongs into the table agent"),
        ("[hypervisor.qemu]\nxyzzy = 1", "known are path, kernel"),
        (
            "\n[hypervisor.qemu]\n# default_vcpus\ndefault_vcpus = '1'",
            r"toml:4: .*a text in quotes, where a whole number",
        ),
        ("[hypervisor.qemu]\ndefault_vcpus = true", "true or false, where a whole number is needed"),
        ("[hypervisor.qemu]\ndefault_vcpus = 241", r"is 241 \(it takes -1 to 240 vCPUs\)"),
        ("[hypervisor.qemu]\ndefault_vcpus = 1.5", "a number, where a whole number is needed"),
        ("[hypervisor.qemu]\noverhead_vcpus = -0.1", "it takes 0 to 16 vCPUs"),
        ("[hypervisor.qemu]\noverhead_vcpus = nan", "it takes 0 to 16 vCPUs"),
        ("[hypervisor.qemu]\ndefault_vcpus = 4\ndefault_maxvcpus = 2", "toml:2: .*default_maxvcpus is 2"),
        ("[hypervisor.qemu]\ndefault_memory = 64", "a guest needs 128 MiB to boot"),
        ("[hypervisor.qemu]\ndefault_maxmemory = 1024", "default_memory is 2048"),
        (
            "[hypervisor.qemu]\nenable_hugepages = true\n[runtime]\nstatic_sandbox_resource_mgmt = false",
            r"toml:4: \[runtime\] static_sandbox_resource_mgmt .*enable_hugepages is true",
        ),
        ('[hypervisor.qemu]\nkernel = "vmlinux"', "it takes an absolute path"),
        ('[hypervisor.qemu]\nkernel_params = "a\\nb"', "no line's end"),
        ('[hypervisor.qemu]\nvalid_hypervisor_paths = ["/usr/bin/*"]', "absolute paths without patterns"),
        ('[hypervisor.qemu]\nvalid_hypervisor_paths = ["/usr/bin/../x"]', "absolute paths without patterns"),
        ("[hypervisor.qemu]\nenable_annotations = [1]", "a list of texts is needed"),
        ('[hypervisor.qemu]\nenable_annotations = [".*"]', "'.*', which is no annotation .*exact names"),
        ('[hypervisor.qemu]\nenable_annotations = ["default_mem"]', "did you mean default_memory"),
        ('[hypervisor.qemu]\naccelerator = "xen"', 'it takes "auto", "kvm", "tcg"'),
        ("[hypervisor]\nqemu = 5", "qemu.* is a key"),
        ("[hypervisor.xen]", r"\[hypervisor.xen\] is no table"),
        ("[hypervisor.remote]", r"toml:1: \[hypervisor.remote\] is of a hypervisor without a driver"),
        (
            "[hypervisor.qemu]\n[hypervisor.clh]",
            r"toml:2: \[hypervisor.clh\] stands beside one for qemu .*hypervisor_name",
        ),
        (
            '[runtime]\nemptydir_mode = "block-encrypted"',
            r"toml:2: \[runtime\] emptydir_mode is block-encrypted, which cannot be had .*encrypts no disks",
        ),
        ('[runtime]\nhypervisor_name = "dragonball"', 'is .dragonball. .*"qemu", "clh"'),
        ("[agents.kata]", r"toml:1: .*did you mean agent.kata"),
        ("key = 1", "toml:1: key key stands outside of any table"),
        ("[", "configuration.toml"),
        (b"\xff", "configuration.toml"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_file_line_and_key(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_configuration(_write(tmp_path, text))
    caught.match(says)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read"):
        load_configuration(str(tmp_path / "absent.toml"))


def test_the_timeout_of_a_creation_counts_in_the_agents_table_too(tmp_path: Path) -> None:
    config = load_configuration(_write(tmp_path, "[agent.kata]\ncreate_container_timeout = 30\n"))

    assert config.runtime.create_container_timeout == 30


def test_a_table_of_another_hypervisor_beside_qemus_is_checked_and_not_used(tmp_path: Path) -> None:
    text = "[hypervisor.qemu]\n[hypervisor.dragonball]\ndefault_vcpus = 7\nconfidential_guest = true\n"

    config = load_configuration(_write(tmp_path, text))

    assert config.hypervisor.default_vcpus == 1
    assert [remark.key for remark in config.remarks] == ["[hypervisor.dragonball]"]
    with pytest.raises(ConfigError, match="whole number"):
        load_configuration(_write(tmp_path, text.replace("7", "'7'")))


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        ("", "qemu"),
        ("[hypervisor.qemu]", "qemu"),
        ("[hypervisor.clh]", "clh"),
        ("[hypervisor.cloud-hypervisor]\n[hypervisor.clh]", "clh"),
        ("[hypervisor.firecracker]", "firecracker"),
        ("[hypervisor.fc]", "firecracker"),
        ("[hypervisor.acrn]", "acrn"),
        ('[runtime]\nhypervisor_name = "clh"', "clh"),
    ],
)
def test_the_table_chooses_the_hypervisor(tmp_path: Path, text: str, driver: str) -> None:
    assert load_configuration(_write(tmp_path, text)).driver == driver


def test_of_several_tables_the_one_that_is_named_counts(tmp_path: Path) -> None:
    text = "[hypervisor.qemu]\ndefault_vcpus = 2\n[hypervisor.clh]\ndefault_vcpus = 3\n[runtime]\nhypervisor_name = "

    qemu = load_configuration(_write(tmp_path, text + '"qemu"'))
    clh = load_configuration(_write(tmp_path, text + '"cloud-hypervisor"'))

    assert (qemu.driver, qemu.hypervisor.default_vcpus) == ("qemu", 2)
    assert (clh.driver, clh.hypervisor.default_vcpus) == ("clh", 3)
    assert [remark.key for remark in clh.remarks] == ["[hypervisor.qemu]"]


@pytest.mark.parametrize("name", ["clh", "fc", "acrn"])
def test_the_file_of_a_runtimes_name_chooses_its_hypervisor(name: str) -> None:
    packaging = Path(__file__).parents[3] / "packaging"
    driver = {"fc": "firecracker"}.get(name, name)
    assert load_configuration(str(packaging / f"configuration-{name}.toml")).driver == driver


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_a_sentence_that_names_the_file(tmp_path_factory: object, text: str) -> None:
    directory = tmp_path_factory.mktemp("any")  # type: ignore[attr-defined] # a fixture of the session's scope
    try:
        load_configuration(_write(directory, text.encode(errors="replace")))
    except ConfigError as error:
        assert "configuration.toml" in error.message  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    ("text", "names", "line"),
    [
        ("[a.b]\nkey = 1", ("a.b", "key"), 2),
        ("[a]\nb.key = 1", ("a.b", "key"), 2),
        ("[a.b]\nother = 1\n[ a . c ] # here\n'key' = 1", ("a.c", "key"), 4),
        ("[a]\nb = { key = 1 }", ("a.b", "key"), 2),
        ("[a.b]\n[[a.b.key]]\nname = 1", ("a.b", "key"), 2),
        ("[a.b]", ("a.b", "key"), 1),
        ("", ("a.b", "key"), 0),
    ],
)
def test_a_key_is_found_where_it_stands(text: str, names: tuple[str, ...], line: int) -> None:
    assert find_line(text, *names) == line
