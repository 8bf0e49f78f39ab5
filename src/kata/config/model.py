"""What can be configured: the one place that knows names, types, defaults, bounds, units and what each is for.

Names are upstream's. A table of the file is one class here, a key is one field, and the text below a field is its
documentation. Python drops such texts when it compiles, so they cost nothing at run time; `tools/write-config-docs`
reads them from this file, and writes the example file, the man page and the reference page.

Named tuples: ADR 7.
"""

from typing import Annotated, NamedTuple

from kata.config.constraint import Choice, ExactPaths, Path, Range, Words

LEAST_MEMORY_MIB = 128
"""With less the guest's kernel, agent and the container's first process do not start."""

GUEST_OVERHEAD_MIB = 96
"""Memory of the guest's kernel and agent, on top of a container's limit, in MiB."""

DEFAULT_MEMORY_MIB = 2048

NO_SHARED_FS = "none"

SCRATCH_ON_DISK, SCRATCH_ENCRYPTED = "block-plain", "block-encrypted"
"""Modes of emptyDirs beside the share's."""
NO_PORT = "no-port"
PORTS = (NO_PORT, "root-port", "bridge-port", "switch-port")
"""Upstream's words for where devices of the host are plugged in."""

BLOCK_DEVICE_DRIVERS = ("virtio-scsi", "virtio-blk", "virtio-blk-pci", "virtio-mmio", "virtio-blk-mmio")
"""Upstream's words, of both runtimes. All but the first are the virtio disk of whatever bus the VM has."""


class HypervisorConfig(NamedTuple):
    """The VMM and the VM."""

    path: Annotated[str, Path(named=True)] = ""
    """The VMM. Empty: the driver's usual name on the PATH, for QEMU `qemu-system-x86_64`."""
    kernel: Annotated[str, Path()] = ""
    """The guest's kernel. Empty: the one that `make install` built, else Debian's."""
    image: Annotated[str, Path()] = ""
    """The guest's root as a read-only EROFS image without partitions. Empty: the one that `make install` built."""
    initrd: Annotated[str, Path()] = ""
    """The guest's root as an initial RAM disk, instead of `image`."""
    disable_image_nvdimm: bool = True
    """`true`: the image is a read-only disk. `false`, with Cloud Hypervisor: it is memory of the guest's (virtio-pmem
    with DAX), of which VMs share the host's pages. Nothing reaches the file on the host, but that the guest has what it
    started with is then up to its own kernel."""
    kernel_params: Annotated[str, Words()] = ""
    """Words added to the guest's kernel command line, after this runtime's own."""
    accelerator: Annotated[str, Choice(("auto", "kvm", "tcg"))] = "auto"
    """`kvm`, `tcg` (software emulation), or `auto`: measure once per boot whether KVM is of use. Not upstream's."""
    guest_channel: Annotated[str, Choice(("auto", "vsock", "hybrid-vsock", "vport"))] = "auto"
    """How to reach the guest: `vsock`, `hybrid-vsock` (vsock that ends in the VMM), `vport` (virtio-serial), or `auto`:
    the first of them that driver and host have. Not upstream's."""
    default_vcpus: Annotated[int, Range(-1, 240, "vCPUs")] = 1
    """Processors of a VM whose pod has no CPU limit. -1: as many as the host has. 0: 1."""
    default_maxvcpus: Annotated[int, Range(0, 240, "vCPUs")] = 0
    """The most processors that a VM gets, whatever its limit. 0: as many as the host has, which no VM exceeds."""
    overhead_vcpus: Annotated[float, Range(0, 16, "vCPUs")] = 0.0
    """Processors that the guest needs on top of a pod's CPU limit; the sum is rounded up."""
    default_memory: Annotated[int, Range(0, 1 << 24, "MiB")] = DEFAULT_MEMORY_MIB
    """Memory of a VM whose pod has no memory limit. 0: 2048. Less than 128 does not boot."""
    default_maxmemory: Annotated[int, Range(0, 1 << 24, "MiB")] = 0
    """The most memory that a VM gets; a pod with a limit beyond it is refused. 0: as much as the host has."""
    overhead_memory: Annotated[int, Range(0, 1 << 16, "MiB")] = GUEST_OVERHEAD_MIB
    """Memory that the guest's kernel and agent need on top of a pod's memory limit. Less than 96 counts as 96."""
    machine_type: Annotated[str, Choice(("", "q35", "microvm"))] = ""
    """QEMU's machine. Empty: `q35`. `microvm` is lighter, needs KVM, and nothing is plugged in while it runs."""
    jailer_path: Annotated[str, Path(named=True)] = ""
    """Firecracker's jailer. Empty: `jailer` on the PATH. Firecracker is never started without."""
    shared_fs: Annotated[str, Choice(("virtio-fs", NO_SHARED_FS))] = "virtio-fs"
    """How the guest gets the host's files: `virtio-fs`, or `none`: roots as disks, packed if need be, and the files of
    volumes as copies."""
    virtio_fs_daemon: Annotated[str, Path(named=True)] = ""
    """virtiofsd. Empty: the usual places."""
    virtio_fs_cache: Annotated[str, Choice(("never", "none", "metadata", "auto", "always"))] = "auto"
    """How long the guest believes what it knows of the shared files."""
    virtio_fs_queue_size: Annotated[int, Range(16, 1024, "requests")] = 1024
    """Requests under way at once in the shared file system."""
    pcie_root_port: Annotated[int, Range(0, 15, "ports")] = 2
    """Free ports for devices that nobody tells of when the VM starts: block devices of a Kubernetes pod's containers,
    and network interfaces that come later."""
    cold_plug_vfio: Annotated[str, Choice(PORTS)] = NO_PORT
    """`root-port`: a pod's network interfaces that are hardware of the host (SR-IOV's virtual functions) are taken from
    their drivers by VFIO, and the VM boots with them. `no-port`: it gets them like any other link, unless
    `hot_plug_vfio` says something else. Upstream's other words count as `root-port`."""
    hot_plug_vfio: Annotated[str, Choice(PORTS)] = NO_PORT
    """`root-port`: IOMMU groups that containers are given (`/dev/vfio/7`) are plugged into the VM, and so are the pod's
    network interfaces that are hardware, unless `cold_plug_vfio` has them. `no-port`: such containers are refused."""
    disable_block_device_use: bool = False
    """Mount a root file system that is on a block device or in a file on the host, and share it, instead of plugging it
    into the VM as a disk."""
    block_device_driver: Annotated[str, Choice(BLOCK_DEVICE_DRIVERS)] = "virtio-scsi"
    """What disks are plugged in as. `virtio-scsi`: at one controller, as many as come; the others: a virtio disk each,
    in a port of its own."""
    block_device_aio: Annotated[str, Choice(("threads", "native", "io_uring"))] = "threads"
    """How QEMU reads and writes disks: `threads`; `native` (io_submit(2)), which bypasses the host's page cache; or
    `io_uring`."""
    block_device_cache_set: bool = False
    """Let `block_device_cache_direct` and `block_device_cache_noflush` count."""
    block_device_cache_direct: bool = False
    """Bypass the host's page cache (O_DIRECT)."""
    block_device_cache_noflush: bool = False
    """Answer the guest's flushes without carrying them out: quick, and what is lost with the host's power is lost."""
    network_queues: Annotated[int, Range(0, 256, "queues")] = 1
    """Pairs of queues of each network card, at most one for each virtual processor; 0 counts as 1."""
    disable_vhost_net: bool = False
    """Let QEMU move the packets of network cards itself, not the host's kernel (`/dev/vhost-net`), which does it under
    KVM where it can."""
    rx_rate_limiter_max_rate: Annotated[int, Range(0, 10**12, "bits a second")] = 0
    """The most that each network card of a VM receives. 0: no limit."""
    tx_rate_limiter_max_rate: Annotated[int, Range(0, 10**12, "bits a second")] = 0
    """The most that each network card of a VM sends. 0: no limit."""
    disk_rate_limiter_bw_max_rate: Annotated[int, Range(0, 10**12, "bits a second")] = 0
    """The most that each disk of a container or a volume moves. 0: no limit. With Cloud Hypervisor and Firecracker."""
    disk_rate_limiter_bw_one_time_burst: Annotated[int, Range(0, 10**12, "bits")] = 0
    """What each disk may move beyond that, once."""
    disk_rate_limiter_ops_max_rate: Annotated[int, Range(0, 10**12, "requests a second")] = 0
    """The most requests that each disk of a container or a volume takes. 0: no limit. Likewise."""
    disk_rate_limiter_ops_one_time_burst: Annotated[int, Range(0, 10**12, "requests")] = 0
    """What each disk may take beyond that, once."""
    net_rate_limiter_bw_max_rate: Annotated[int, Range(0, 10**12, "bits a second")] = 0
    """The most that each network card sends, and receives. 0: no limit. Cloud Hypervisor or Firecracker sees to it."""
    net_rate_limiter_bw_one_time_burst: Annotated[int, Range(0, 10**12, "bits")] = 0
    """What each network card may move beyond that, once."""
    net_rate_limiter_ops_max_rate: Annotated[int, Range(0, 10**12, "packets a second")] = 0
    """The most packets that each network card sends, and receives. 0: no limit. Likewise."""
    net_rate_limiter_ops_one_time_burst: Annotated[int, Range(0, 10**12, "packets")] = 0
    """What each network card may move beyond that, once."""
    confidential_guest: bool = False
    """Run VMs that the host cannot look into. With Cloud Hypervisor on a host with Intel's TDX; others refuse it."""
    firmware: Annotated[str, Path()] = ""
    """What a confidential guest starts with: a TDVF or TD-Shim image. All others start their kernel directly."""
    enable_hugepages: bool = False
    """Take the VM's memory from the huge pages that the host has reserved (`vm.nr_hugepages`). A VM for which too few
    are free is refused."""
    reclaim_guest_freed_memory: bool = False
    """Give memory that the guest freed back to the host."""
    guest_hook_path: Annotated[str, Path()] = ""
    """Directory in the guest's image with hooks to run there, in `prestart`, `poststart` and `poststop`."""
    enable_debug: bool = False
    """Let the guest's kernel say all it has to say on the console (`kata-runtime logs --source console`)."""
    enable_annotations: Annotated[tuple[str, ...], Words()] = ()
    """What a pod may set by annotations, by exact names: `default_memory` for a key of this table, the whole annotation
    (`io.katacontainers.config.runtime.create_container_timeout`) for others. Empty: none, and a pod that tries is
    refused."""
    valid_hypervisor_paths: Annotated[tuple[str, ...], ExactPaths()] = ()
    """The values that an annotation may give to `path`."""
    valid_virtio_fs_daemon_paths: Annotated[tuple[str, ...], ExactPaths()] = ()
    """The values that an annotation may give to `virtio_fs_daemon`."""


class AgentConfig(NamedTuple):
    """The guest's agent."""

    enable_debug: bool = False
    """Let the agent log at debug level."""
    debug_console_enabled: bool = False
    """Offer a shell in the guest (`kata-runtime console`). Whoever may connect to the sandbox owns the guest."""
    kernel_modules: Annotated[tuple[str, ...], Words()] = ()
    """Modules that the agent loads before the first container, each with its parameters: `"veth"`,
    `"nf_conntrack hashsize=4096"`."""
    dial_timeout: Annotated[int, Range(1, 3600, "seconds")] = 60
    """How long to wait for the guest's first word, without the time in which the host had no CPU for it."""


DRIVERS = {
    "qemu": "qemu",
    "clh": "clh",
    "cloud-hypervisor": "clh",
    "firecracker": "firecracker",
    "fc": "firecracker",
    "acrn": "acrn",
}
"""Drivers by the names that their tables `[hypervisor.NAME]` may have, which are upstream's."""

OTHER_DRIVERS = (
    "dragonball",
    "openvmm",
    "remote",
    "stratovirt",
)
"""Upstream's names of hypervisors that have no driver here. Their tables are checked, and not used."""

DEFAULT_DRIVER = "qemu"


class RuntimeConfig(NamedTuple):
    """The host's side."""

    hypervisor_name: Annotated[str, Choice(("", *DRIVERS))] = ""
    """Which of the tables `[hypervisor.NAME]` is used. Empty: the only one, or QEMU's where there is none."""
    enable_debug: bool = False
    """Log at debug level."""
    disable_guest_seccomp: bool = False
    """Run containers without their seccomp profiles."""
    create_container_timeout: Annotated[int, Range(1, 7200, "seconds")] = 120
    """How long a container may take to be created in a VM that runs. In `[agent.kata]`, where upstream's Rust runtime
    has it, it counts too."""
    enable_vcpus_pinning: bool = False
    """Keep each vCPU on one processor of the host, as long as the pod's containers have as many in their cpusets as the
    VM has vCPUs."""
    static_sandbox_resource_mgmt: bool = True
    """Make the VM as big as its pod may become, once. `false`: plug processors and memory in as containers come and
    limits are raised, up to `default_maxvcpus` and `default_maxmemory`, and take them out again."""
    sandbox_cgroup_only: bool = True
    """Put all that runs on the host for a pod into the pod's cgroup. `false`: only its vCPUs (the whole of QEMU with
    version 2 of cgroups), and the rest into `/kata_overhead/SANDBOX`, which no limit of the pod holds."""
    emptydir_mode: Annotated[str, Choice(("shared-fs", SCRATCH_ON_DISK, SCRATCH_ENCRYPTED))] = "shared-fs"
    """What a disk emptyDir of Kubernetes is: `shared-fs`, the kubelet's directory in the share; `block-plain`, an ext4
    file system on a disk of the VM, in a sparse file in that directory; `block-encrypted` is refused, as nothing here
    would encrypt it."""
    vfio_mode: Annotated[str, Choice(("guest-kernel", "vfio"))] = "guest-kernel"
    """Who has the devices of an IOMMU group that a container is given: the drivers of the `guest-kernel`, or the
    container itself by `vfio`, as on the host."""
    internetworking_model: Annotated[str, Choice(("tcfilter", "macvtap", "none"))] = "tcfilter"
    """How the links of a pod's namespace reach the VM: by traffic control, by a macvtap on each link, or not at all
    (`none`: the VM's cards are on taps, `tap0_kata` and so on in the order of the links, which somebody else connects).
    """


class FactoryConfig(NamedTuple):
    """Saved VMs that new ones are copies of."""

    enable_template: bool = True
    """Start a VM as a copy of one that was saved when its agent was up, where there is one of this size and kind. The
    first VM of a kind boots, and one to be copied is made in the background. Upstream's default is `false`."""
    template_path: Annotated[str, Path()] = "/run/vc/vm/template"
    """Directory of the saved VMs, 8 of them and 1 GiB at most. On a tmpfs they take the host's memory."""
    vm_cache_number: Annotated[int, Range(0, 256, "VMs")] = 0
    """How many copies `kata-runtime factory init` has wait for pods without limits, made anew as they are taken: fewer
    where the host's memory does not suffice for all that they may come to use. Upstream's pool has VMs that booted."""


class Remark(NamedTuple):
    """What the configuration says and does not get: `place` is file and line, `key` has its table before it."""

    place: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.key}: {self.reason}"


class Configuration(NamedTuple):
    """A whole configuration; `source` is the file it was read from, empty for the built-in defaults.

    `driver` is the one that `hypervisor` is for: a value of `DRIVERS`.
    """

    hypervisor: HypervisorConfig = HypervisorConfig()
    agent: AgentConfig = AgentConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    factory: FactoryConfig = FactoryConfig()
    source: str = ""
    remarks: tuple[Remark, ...] = ()
    driver: str = DEFAULT_DRIVER
