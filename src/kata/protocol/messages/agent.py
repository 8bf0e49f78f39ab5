"""Messages of `grpc.AgentService`, the guest agent's protocol.

Names and numbers are those of upstream's `agent.proto`; a peer reads nothing else.
"""

from __future__ import annotations

from kata.protocol.messages.oci import LinuxResources, Process, Spec
from kata.protocol.messages.types import ARPNeighbor, Interface, Policy, Route
from kata.protocol.protobuf import (
    Buffer,
    Message,
    boolean,
    bulk,
    int32,
    int64,
    message,
    raw,
    repeated,
    string,
    string_map,
    uint32,
    uint64,
)


class StartContainerRequest(Message):
    container_id: str = string(1)


class RemoveContainerRequest(Message):
    container_id: str = string(1)
    timeout: int = uint32(2)


class SignalProcessRequest(Message):
    container_id: str = string(1)
    exec_id: str = string(2)
    signal: int = uint32(3)


class WaitProcessRequest(Message):
    container_id: str = string(1)
    exec_id: str = string(2)


class WaitProcessResponse(Message):
    status: int = int32(1)


class UpdateContainerRequest(Message):
    container_id: str = string(1)
    resources: LinuxResources | None = message(2, LinuxResources)


class StatsContainerRequest(Message):
    container_id: str = string(1)


class PauseContainerRequest(Message):
    container_id: str = string(1)


class ResumeContainerRequest(Message):
    container_id: str = string(1)


class CpuUsage(Message):
    total_usage: int = uint64(1)
    percpu_usage: list[int] = repeated(2, "uint64")
    usage_in_kernelmode: int = uint64(3)
    usage_in_usermode: int = uint64(4)


class ThrottlingData(Message):
    periods: int = uint64(1)
    throttled_periods: int = uint64(2)
    throttled_time: int = uint64(3)


class CpuStats(Message):
    cpu_usage: CpuUsage | None = message(1, CpuUsage)
    throttling_data: ThrottlingData | None = message(2, ThrottlingData)


class PidsStats(Message):
    current: int = uint64(1)
    limit: int = uint64(2)


class MemoryData(Message):
    usage: int = uint64(1)
    max_usage: int = uint64(2)
    failcnt: int = uint64(3)
    limit: int = uint64(4)


class MemoryStats(Message):
    cache: int = uint64(1)
    usage: MemoryData | None = message(2, MemoryData)
    swap_usage: MemoryData | None = message(3, MemoryData)
    kernel_usage: MemoryData | None = message(4, MemoryData)
    use_hierarchy: bool = boolean(5)
    stats: dict[str, int] = string_map(6, "uint64")


class BlkioStatsEntry(Message):
    major: int = uint64(1)
    minor: int = uint64(2)
    op: str = string(3)
    value: int = uint64(4)


class BlkioStats(Message):
    io_service_bytes_recursive: list[BlkioStatsEntry] = repeated(1, BlkioStatsEntry)
    io_serviced_recursive: list[BlkioStatsEntry] = repeated(2, BlkioStatsEntry)
    io_queued_recursive: list[BlkioStatsEntry] = repeated(3, BlkioStatsEntry)
    io_service_time_recursive: list[BlkioStatsEntry] = repeated(4, BlkioStatsEntry)
    io_wait_time_recursive: list[BlkioStatsEntry] = repeated(5, BlkioStatsEntry)
    io_merged_recursive: list[BlkioStatsEntry] = repeated(6, BlkioStatsEntry)
    io_time_recursive: list[BlkioStatsEntry] = repeated(7, BlkioStatsEntry)
    sectors_recursive: list[BlkioStatsEntry] = repeated(8, BlkioStatsEntry)


class HugetlbStats(Message):
    usage: int = uint64(1)
    max_usage: int = uint64(2)
    failcnt: int = uint64(3)


class CgroupStats(Message):
    cpu_stats: CpuStats | None = message(1, CpuStats)
    memory_stats: MemoryStats | None = message(2, MemoryStats)
    pids_stats: PidsStats | None = message(3, PidsStats)
    blkio_stats: BlkioStats | None = message(4, BlkioStats)
    hugetlb_stats: dict[str, HugetlbStats] = string_map(5, HugetlbStats)


class NetworkStats(Message):
    name: str = string(1)
    rx_bytes: int = uint64(2)
    rx_packets: int = uint64(3)
    rx_errors: int = uint64(4)
    rx_dropped: int = uint64(5)
    tx_bytes: int = uint64(6)
    tx_packets: int = uint64(7)
    tx_errors: int = uint64(8)
    tx_dropped: int = uint64(9)


class StatsContainerResponse(Message):
    cgroup_stats: CgroupStats | None = message(1, CgroupStats)
    network_stats: list[NetworkStats] = repeated(2, NetworkStats)


class WriteStreamRequest(Message):
    container_id: str = string(1)
    exec_id: str = string(2)
    data: Buffer = bulk(3)


class WriteStreamResponse(Message):
    len: int = uint32(1)


class ReadStreamRequest(Message):
    container_id: str = string(1)
    exec_id: str = string(2)
    len: int = uint32(3)


class ReadStreamResponse(Message):
    data: Buffer = bulk(1)


class CloseStdinRequest(Message):
    container_id: str = string(1)
    exec_id: str = string(2)


class TtyWinResizeRequest(Message):
    container_id: str = string(1)
    exec_id: str = string(2)
    row: int = uint32(3)
    column: int = uint32(4)


class KernelModule(Message):
    name: str = string(1)
    parameters: list[str] = repeated(2, "string")


class DestroySandboxRequest(Message):
    pass


class RemoveStaleVirtiofsShareMountsRequest(Message):
    pass


class Interfaces(Message):
    Interfaces: list[Interface] = repeated(1, Interface)


class Routes(Message):
    """Routes of the main table. `policy` is not upstream's, whose agent skips it; none leaves the guest's alone."""

    Routes: list[Route] = repeated(1, Route)
    policy: Policy | None = message(100, Policy)


class UpdateInterfaceRequest(Message):
    interface: Interface | None = message(1, Interface)


class UpdateRoutesRequest(Message):
    routes: Routes | None = message(1, Routes)


class ListInterfacesRequest(Message):
    pass


class ListRoutesRequest(Message):
    pass


class ARPNeighbors(Message):
    ARPNeighbors: list[ARPNeighbor] = repeated(1, ARPNeighbor)


class AddARPNeighborsRequest(Message):
    neighbors: ARPNeighbors | None = message(1, ARPNeighbors)


class GetIPTablesRequest(Message):
    is_ipv6: bool = boolean(1)


class GetIPTablesResponse(Message):
    data: bytes = raw(1)


class SetIPTablesRequest(Message):
    is_ipv6: bool = boolean(1)
    data: bytes = raw(2)


class SetIPTablesResponse(Message):
    data: bytes = raw(1)


class OnlineCPUMemRequest(Message):
    wait: bool = boolean(1)
    nb_cpus: int = uint32(2)
    cpu_only: bool = boolean(3)


class ReseedRandomDevRequest(Message):
    data: bytes = raw(2)


class AgentDetails(Message):
    version: str = string(1)
    init_daemon: bool = boolean(2)
    device_handlers: list[str] = repeated(3, "string")
    storage_handlers: list[str] = repeated(4, "string")
    supports_seccomp: bool = boolean(5)
    extra_features: list[str] = repeated(6, "string")


class GuestDetailsRequest(Message):
    mem_block_size: bool = boolean(1)
    mem_hotplug_probe: bool = boolean(2)


class GuestDetailsResponse(Message):
    mem_block_size_bytes: int = uint64(1)
    agent_details: AgentDetails | None = message(2, AgentDetails)
    support_mem_hotplug_probe: bool = boolean(3)


class MemHotplugByProbeRequest(Message):
    memHotplugProbeAddr: list[int] = repeated(1, "uint64")


class SetGuestDateTimeRequest(Message):
    Sec: int = int64(1)
    Usec: int = int64(2)


class FSGroup(Message):
    group_id: int = uint32(2)
    group_change_policy: int = int32(3)


class SharedMount(Message):
    name: str = string(1)
    src_ctr: str = string(2)
    src_path: str = string(3)
    dst_ctr: str = string(4)
    dst_path: str = string(5)


class Storage(Message):
    driver: str = string(1)
    driver_options: list[str] = repeated(2, "string")
    source: str = string(3)
    fstype: str = string(4)
    options: list[str] = repeated(5, "string")
    mount_point: str = string(6)
    fs_group: FSGroup | None = message(7, FSGroup)
    shared: bool = boolean(8)


class CreateSandboxRequest(Message):
    hostname: str = string(1)
    dns: list[str] = repeated(2, "string")
    storages: list[Storage] = repeated(3, Storage)
    sandbox_pidns: bool = boolean(4)
    sandbox_id: str = string(5)
    guest_hook_path: str = string(6)
    kernel_modules: list[KernelModule] = repeated(7, KernelModule)


class UpdateEphemeralMountsRequest(Message):
    storages: list[Storage] = repeated(1, Storage)


class Device(Message):
    id: str = string(1)
    type: str = string(2)
    vm_path: str = string(3)
    container_path: str = string(4)
    options: list[str] = repeated(5, "string")


class StringUser(Message):
    uid: str = string(1)
    gid: str = string(2)
    additionalGids: list[str] = repeated(3, "string")


class CreateContainerRequest(Message):
    container_id: str = string(1)
    exec_id: str = string(2)
    string_user: StringUser | None = message(3, StringUser)
    devices: list[Device] = repeated(4, Device)
    storages: list[Storage] = repeated(5, Storage)
    OCI: Spec | None = message(6, Spec)
    sandbox_pidns: bool = boolean(7)
    shared_mounts: list[SharedMount] = repeated(8, SharedMount)
    stdin_port: int = uint32(9)
    stdout_port: int = uint32(10)
    stderr_port: int = uint32(11)


class ExecProcessRequest(Message):
    container_id: str = string(1)
    exec_id: str = string(2)
    string_user: StringUser | None = message(3, StringUser)
    process: Process | None = message(4, Process)
    stdin_port: int = uint32(5)
    stdout_port: int = uint32(6)
    stderr_port: int = uint32(7)


class CopyFileRequest(Message):
    path: str = string(1)
    file_size: int = int64(2)
    file_mode: int = uint32(3)
    dir_mode: int = uint32(4)
    uid: int = int32(5)
    gid: int = int32(6)
    offset: int = int64(7)
    data: bytes = raw(8)


class GetOOMEventRequest(Message):
    pass


class OOMEvent(Message):
    container_id: str = string(1)


class AddSwapRequest(Message):
    PCIPath: list[int] = repeated(1, "uint32")


class AddSwapPathRequest(Message):
    path: str = string(1)


class GetMetricsRequest(Message):
    pass


class Metrics(Message):
    metrics: str = string(1)


class VolumeStatsRequest(Message):
    volume_guest_path: str = string(1)


class ResizeVolumeRequest(Message):
    volume_guest_path: str = string(1)
    size: int = uint64(2)


class SetPolicyRequest(Message):
    policy: str = string(1)


class GetDiagnosticDataRequest(Message):
    log_type: str = string(1)
    container_id: str = string(2)


class GetDiagnosticDataResponse(Message):
    data: str = string(1)


class MemAgentMemcgConfig(Message):
    disabled: bool | None = boolean(1, optional=True)
    swap: bool | None = boolean(2, optional=True)
    swappiness_max: int | None = uint32(3, optional=True)
    period_secs: int | None = uint64(4, optional=True)
    period_psi_percent_limit: int | None = uint32(5, optional=True)
    eviction_psi_percent_limit: int | None = uint32(6, optional=True)
    eviction_run_aging_count_min: int | None = uint64(7, optional=True)


class MemAgentCompactConfig(Message):
    disabled: bool | None = boolean(1, optional=True)
    period_secs: int | None = uint64(2, optional=True)
    period_psi_percent_limit: int | None = uint32(3, optional=True)
    compact_psi_percent_limit: int | None = uint32(4, optional=True)
    compact_sec_max: int | None = int64(5, optional=True)
    compact_order: int | None = uint32(6, optional=True)
    compact_threshold: int | None = uint64(7, optional=True)
    compact_force_times: int | None = uint64(8, optional=True)
