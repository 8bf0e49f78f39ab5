"""VMs of sandboxes as hypervisors' drivers take them."""

import contextlib
from collections.abc import Sequence

from kata.config.artifacts import Artifacts
from kata.config.model import AgentConfig, Configuration, HypervisorConfig
from kata.hypervisor.channel import DEBUG_CONSOLE_PORT, LOG_PORT
from kata.hypervisor.driver import Capabilities
from kata.hypervisor.spec import Balloon, Device, NetDevice, Rng, VmSpec
from kata.network.tap import name_tap
from kata.resources.size import VmSize
from kata.sandbox.line import Line
from kata.sandbox.obstacle import find_checkpoint_obstacle, has_iommu
from kata.sandbox.plan import Plan, count_template_ports, may_pass_devices, takes_scsi
from kata.sandbox.site import Host, Site, open_line_of


def list_template_cards(count: int) -> list[NetDevice]:
    """Return the network cards of a template that has to have those of its copies: stand-ins, on taps of its own."""
    return [NetDevice(f"net{n}", f"02:00:00:00:00:{n:02x}", (), tap=name_tap(n)) for n in range(count)]


def describe_template(site: Site, size: VmSize, host: Host, line: Line, cards: Sequence[NetDevice]) -> VmSpec:
    """Describe the VM that is saved as a template: all of it that VMs of this configuration and size have in common."""
    ports = count_template_ports(site.config.hypervisor)
    scsi = takes_scsi(site.config.hypervisor, host.capabilities)
    return _describe_vm(site, size, host, line, cards)._replace(hotplug_ports=ports, savable=True, scsi=scsi)


def describe_saved(site: Site, size: VmSize, host: Host, line: Line, plan: Plan) -> VmSpec:
    """Describe the VM of a sandbox that was saved: as it began, and nothing in its ports."""
    return _describe_vm(site, size, host, line, ())._replace(hotplug_ports=plan.ports, scsi=plan.scsi)


def identify_template(site: Site, size: VmSize, host: Host, cards: Sequence[NetDevice]) -> tuple[str, tuple[str, ...]]:
    """Return what the hypervisor says of the template of such VMs, as `Hypervisor.identify`. Raise HostError."""
    with contextlib.closing(open_line_of(site, host)) as line:
        return host.hypervisor.identify(describe_template(site, size, host, line, cards))


def identify_saved(site: Site, size: VmSize, host: Host, plan: Plan) -> tuple[str, tuple[str, ...]]:
    """Return what the hypervisor says of a sandbox's VM that was saved, as `Hypervisor.identify`. Raise HostError."""
    with contextlib.closing(open_line_of(site, host)) as line:
        return host.hypervisor.identify(describe_saved(site, size, host, line, plan))


def describe_booting(site: Site, size: VmSize, host: Host, line: Line, plan: Plan, own: Sequence[Device]) -> VmSpec:
    """Describe the VM of a sandbox that boots. It can be saved where that is of use: not with a share."""
    savable = not plan.shares and not find_checkpoint_obstacle(site.config, size, host)
    spec = _describe_vm(site, size, host, line, (*own, *plan.devices))
    return spec._replace(hotplug_ports=plan.ports, scsi=plan.scsi, savable=savable)


def _describe_vm(site: Site, size: VmSize, host: Host, line: Line, own: Sequence[Device]) -> VmSpec:
    """Describe a VM, with what its sandbox has for its `own`."""
    config = site.config.hypervisor
    dax = has_dax(config, host.artifacts, host.capabilities)
    devices: list[Device] = [Rng(), *line.devices, *own]
    if config.reclaim_guest_freed_memory:
        devices.append(Balloon())
    return VmSpec(
        id=site.id,
        directory=site.directory,
        kernel=host.artifacts.kernel,
        image=host.artifacts.image or None,
        image_dax=dax,
        initrd=host.artifacts.initrd or None,
        vcpus=size.vcpus,
        memory_mib=size.memory_mib,
        max_vcpus=size.most_vcpus,
        max_memory_mib=size.most_memory_mib,
        hugepages=config.enable_hugepages,
        firmware=config.firmware if config.confidential_guest else "",
        host_devices=may_pass_devices(config),
        iommu=has_iommu(site.config),
        kernel_parameters=tuple(list_kernel_parameters(site.config, host.artifacts, line.server, dax=dax)),
        devices=tuple(devices),
    )


def has_dax(config: HypervisorConfig, artifacts: Artifacts, capabilities: Capabilities) -> bool:
    """Say whether the image is memory of the guest's. That of a confidential guest is none of the host's pages."""
    wanted = not config.disable_image_nvdimm and not config.confidential_guest
    return wanted and bool(artifacts.image) and capabilities.image_dax


def list_kernel_parameters(config: Configuration, artifacts: Artifacts, server: str, *, dax: bool = False) -> list[str]:
    """Return the guest's kernel command line. `server` is where the agent is to listen; with `dax` the image is memory.

    Source: Documentation/admin-guide/kernel-parameters.txt; `agent.*` are the agent's.
    """
    parameters = ["console=ttyS0", "panic=-1", "reboot=t", "no_timer_check", "random.trust_cpu=on"]
    parameters.append("ignore_loglevel" if config.hypervisor.enable_debug else "quiet")
    parameters += ["cgroup_no_v1=all", "pci=lastbus=0", "dummy.numdummies=0"]
    if artifacts.initrd:
        parameters.append("rdinit=/usr/sbin/kata-agent")
    else:
        root = ("root=/dev/pmem0", "rootflags=dax=always") if dax else ("root=/dev/vda",)
        parameters += [*root, "rootfstype=erofs", "ro", "init=/usr/sbin/kata-agent"]
    if not config.runtime.static_sandbox_resource_mgmt:
        # Three quarters of what is plugged in, at most, is for what can be moved away when it is to be taken out.
        parameters.append("memory_hotplug.online_policy=auto-movable")
    parameters += [f"agent.server_addr={server}", *_list_agent_parameters(config.agent)]
    return parameters + config.hypervisor.kernel_params.split()


def _list_agent_parameters(config: AgentConfig) -> list[str]:
    parameters = [f"agent.log_vport={LOG_PORT}", f"agent.log={'debug' if config.enable_debug else 'info'}"]
    if config.debug_console_enabled:
        parameters += ["agent.debug_console", f"agent.debug_console_vport={DEBUG_CONSOLE_PORT}"]
    return parameters
