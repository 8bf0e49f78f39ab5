"""Drivers for the conformance suite: each with its VMM, or skipped with the reason."""

import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from guest.agentvm import build_image
from hypervisor.machine import Running, boot, let_go
from kata.config.artifacts import Artifacts
from kata.config.model import HypervisorConfig
from kata.errors import KataError
from kata.hypervisor.acrn.driver import Acrn, AcrnSettings
from kata.hypervisor.channel import VHOST_VSOCK
from kata.hypervisor.driver import Hypervisor, open_hypervisor
from lab.job import find_vmm

_ARTEFACTS = Path(os.environ.get("KATA_ARTEFACTS", "/usr/local/share/kata-containers"))
_PROGRAMS = {"qemu": "qemu-system-x86_64", "clh": "cloud-hypervisor", "firecracker": "firecracker"}
_ACRN_CHECKER = Path(__file__).parents[1] / "acrn/checker.py"
FLAVOURS: dict[str, tuple[str, dict[str, Any]]] = {
    "qemu": ("qemu", {}),
    "microvm": ("qemu", {"machine_type": "microvm"}),
    "clh": ("clh", {}),
    "firecracker": ("firecracker", {}),
    "acrn": ("acrn", {}),
}
"""Names of this suite: the driver, and what the configuration says for it."""


@pytest.fixture(scope="module")
def artifacts(flavour: str, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """The kernel, and the debug image of this tree: in the lab the one that came with the job."""
    kernel = _ARTEFACTS / ("vmlinuz.container" if flavour == "acrn" else "vmlinux.container")
    image = _ARTEFACTS / "kata-containers-debug.img"
    if not kernel.exists():
        pytest.skip(f"needs a guest kernel at {kernel}: kata-image kernel")
    if not os.environ.get("KATA_LAB"):
        if shutil.which("mkfs.erofs") is None:
            pytest.skip("needs mkfs.erofs, to build the guest's image")
        directory = tmp_path_factory.mktemp("artefacts")
        build_image(directory, debug=True)
        image = directory / "kata-containers-debug.img"
    return Artifacts(str(kernel), str(image))


@pytest.fixture(scope="module", params=list(FLAVOURS))
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def driver(flavour: str, tmp_path_factory: pytest.TempPathFactory) -> Hypervisor:
    """The driver, on this machine's accelerator."""
    return open_driver(flavour, str(tmp_path_factory.mktemp("state")))


def open_driver(flavour: str, state: str, **more: Any) -> Hypervisor:
    """The driver of a flavour, with `more` options; or skip, and say why."""
    if os.geteuid() != 0:
        pytest.skip("needs root: confines VMMs under users of their own")
    name, options = FLAVOURS[flavour]
    if name == "acrn":
        if not os.path.exists(VHOST_VSOCK):
            pytest.skip(f"needs {VHOST_VSOCK}: VMs of acrn-dm are reached by kernel vsock only")
        return Acrn(AcrnSettings(path=str(_ACRN_CHECKER), device=os.devnull), state)
    program = find_vmm(_PROGRAMS[name])
    if program is None:
        pytest.skip(f"NO {_PROGRAMS[name]} on the PATH or in KATA_TEST_BIN: its driver is not tested")
    try:
        options = {**options, **more, "jailer_path": str(find_vmm("jailer") or "jailer")}
        config = HypervisorConfig(path=str(program), **options)
        return open_hypervisor(name, config, state)
    except KataError as error:
        pytest.skip(f"the driver {name} is of no use here: {error}")


@pytest.fixture(autouse=True)
def _name_version(record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> None:
    """For the lab's report."""
    if "driver" in request.fixturenames:
        driver: Hypervisor = request.getfixturevalue("driver")
        record_property("version", driver.version)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    driver: Hypervisor, artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    """One VM with a device of each kind, for all tests that leave it as it was."""
    async with boot(driver, artifacts, tmp_path_factory.mktemp("vm") / f"{driver.name}-shared", full=True) as running:
        yield running
        await let_go(running)
