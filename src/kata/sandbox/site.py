"""The sandbox that a VM is started for, and what the host has to start it with."""

from typing import NamedTuple

from kata.config.artifacts import Artifacts, find_artifacts
from kata.config.model import Configuration
from kata.hypervisor.channel import choose_guest_channel
from kata.hypervisor.driver import Capabilities, Channel, Hypervisor, open_hypervisor
from kata.observe.log import Log
from kata.observe.timeline import Timeline
from kata.sandbox.line import Line, open_line


class Host(NamedTuple):
    """What the host has to start a VM with."""

    hypervisor: Hypervisor
    capabilities: Capabilities
    artifacts: Artifacts
    channel: Channel


class Site(NamedTuple):
    """The sandbox that a VM is started for: `directory` is its own, `state` is shared by all on this host."""

    id: str
    directory: str
    state: str
    config: Configuration
    timeline: Timeline
    log: Log
    vcpu_cgroup: str = ""
    """The pod's cgroup on the host, where this daemon is in another one."""


def open_line_of(site: Site, host: Host) -> Line:
    """Prepare the way to a guest. Raise HostError when the host's end cannot be opened."""
    return open_line(host.channel, site.directory, host.hypervisor.find_hybrid_socket(site.directory, site.id))


def probe_host(site: Site) -> Host:
    """Find what VMs are started with. Raise KataError for what is missing."""
    config = site.config.hypervisor
    hypervisor = open_hypervisor(site.config.driver, config, site.state)
    if hypervisor.warning:
        site.log.write("warning", hypervisor.warning)
    capabilities = hypervisor.find_capabilities()
    channel = choose_guest_channel(capabilities, config.guest_channel)
    return Host(hypervisor, capabilities, find_artifacts(config), channel)
