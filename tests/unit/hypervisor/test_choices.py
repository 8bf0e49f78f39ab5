"""Which QEMU, which user, which channel."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.config.model import HypervisorConfig
from kata.errors import ConfigError, HostError, NotFoundError, UnsupportedError
from kata.hypervisor.acrn import driver as acrn
from kata.hypervisor.binary import Product, find_binary
from kata.hypervisor.channel import choose_guest_channel, format_port_name
from kata.hypervisor.clh import driver as clh
from kata.hypervisor.confinement import confine
from kata.hypervisor.driver import Capabilities, open_hypervisor
from kata.hypervisor.firecracker import driver as firecracker
from kata.hypervisor.qemu import driver as qemu
from kata.hypervisor.vmmuser import FIRST_ID, LAST_ID, derive_user_id

QEMU = Capabilities(channels=("vsock", "vport"), accelerator="tcg")


def write_tool(folder: Path, prints: str) -> str:
    tool = folder / "qemu"
    tool.write_text(f"#!/bin/sh\necho asked >> {folder}/asked\necho '{prints}'\n")
    tool.chmod(0o755)
    return str(tool)


def test_no_qemu_says_what_to_install() -> None:
    with pytest.raises(NotFoundError, match="install qemu-system-x86"):
        find_binary(qemu.PRODUCT, "/no/qemu", None)


@pytest.mark.parametrize(
    ("product", "printed", "version"),
    [
        (qemu.PRODUCT, "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", "7.2.22"),
        (qemu.PRODUCT, "QEMU emulator version 10.0", "10.0"),
        (acrn.PRODUCT, "DM version is: 3.3-checker", "3.3"),
        (clh.PRODUCT, "cloud-hypervisor v53.0.0", "53.0.0"),
        (firecracker.PRODUCT, "Firecracker v1.16.1\n\nmore", "1.16.1"),
        (firecracker.PRODUCT, "Firecracker v1.17.0-dev", "1.17.0"),
    ],
)
def test_vmms_tell_their_versions_and_old_ones_are_refused(
    tmp_path: Path, product: Product, printed: str, version: str
) -> None:
    tool = write_tool(tmp_path, printed)
    assert find_binary(product, tool, None) == (tool, version)
    major = product.printed + "0.9.1"
    with pytest.raises(UnsupportedError, match=rf"{product.name} 0\.9\.1 at .* is too old"):
        find_binary(product, write_tool(tmp_path, major), None)
    with pytest.raises(HostError, match=f"printed no version of {product.name}"):
        find_binary(product, write_tool(tmp_path, "hello"), None)
    with pytest.raises(NotFoundError, match=f"no {product.name} at /nowhere"):
        find_binary(product, "/nowhere", None)


def test_the_version_is_asked_once_until_the_file_changes(tmp_path: Path) -> None:
    tool = write_tool(tmp_path, "QEMU emulator version 8.0.0")
    state = str(tmp_path / "state")
    assert find_binary(qemu.PRODUCT, tool, state) == find_binary(qemu.PRODUCT, tool, state)
    assert (tmp_path / "asked").read_text() == "asked\n"
    write_tool(tmp_path, "QEMU emulator version 8.0.12")
    assert find_binary(qemu.PRODUCT, tool, state) == (tool, "8.0.12")


@given(st.text())
def test_every_sandbox_has_a_user_in_the_range_and_always_the_same(sandbox: str) -> None:
    user = derive_user_id(sandbox)
    assert FIRST_ID <= user <= LAST_ID
    assert derive_user_id(sandbox) == user


def test_a_thousand_sandboxes_have_a_thousand_users() -> None:
    assert len({derive_user_id(f"sandbox-{number}") for number in range(1000)}) == 1000


def test_confinement_wraps_the_command_and_dies_with_its_parent() -> None:
    argv = confine(["/qemu", "-x"], "web", "tcg")
    assert argv[:4] == ["setpriv", "--no-new-privs", "--pdeathsig", "KILL"]
    assert argv[-3:] == ["--", "/qemu", "-x"]
    if os.geteuid() == 0:
        assert argv[argv.index("--reuid") + 1] == str(derive_user_id("web"))
        assert "--clear-groups" in argv


def test_kernel_vsock_is_used_where_its_device_opens(tmp_path: Path) -> None:
    device = tmp_path / "vhost-vsock"
    device.touch()
    assert choose_guest_channel(QEMU, device=str(device)) == "vsock"
    assert choose_guest_channel(QEMU, "vport", device=str(device)) == "vport"


def test_a_host_without_vsock_gets_a_serial_port(tmp_path: Path) -> None:
    device = str(tmp_path / "none")
    assert choose_guest_channel(QEMU, device=device) == "vport"
    with pytest.raises(UnsupportedError, match="modprobe vhost_vsock"):
        choose_guest_channel(QEMU, "vsock", device=device)


def test_a_channel_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="'smoke'"):
        choose_guest_channel(QEMU, "smoke")


def test_ports_have_the_names_that_the_guest_looks_for() -> None:
    assert format_port_name(1024) == "kata.vport.1024"


def test_an_unknown_driver_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'xen' \(one of: acrn, clh, firecracker, qemu\)"):
        open_hypervisor("xen", HypervisorConfig(), None)
