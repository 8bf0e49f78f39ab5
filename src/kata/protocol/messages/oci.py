"""The OCI runtime specification as the agent's protocol carries it.

Names and numbers are those of upstream's `oci.proto`; a peer reads nothing else.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, boolean, int64, message, repeated, string, string_map, uint32, uint64


class Box(Message):
    Height: int = uint32(1)
    Width: int = uint32(2)


class User(Message):
    UID: int = uint32(1)
    GID: int = uint32(2)
    AdditionalGids: list[int] = repeated(3, "uint32")
    Username: str = string(4)


class LinuxCapabilities(Message):
    Bounding: list[str] = repeated(1, "string")
    Effective: list[str] = repeated(2, "string")
    Inheritable: list[str] = repeated(3, "string")
    Permitted: list[str] = repeated(4, "string")
    Ambient: list[str] = repeated(5, "string")


class POSIXRlimit(Message):
    Type: str = string(1)
    Hard: int = uint64(2)
    Soft: int = uint64(3)


class Process(Message):
    Terminal: bool = boolean(1)
    ConsoleSize: Box | None = message(2, Box)
    User: User | None = message(3, User)
    Args: list[str] = repeated(4, "string")
    Env: list[str] = repeated(5, "string")
    Cwd: str = string(6)
    Capabilities: LinuxCapabilities | None = message(7, LinuxCapabilities)
    Rlimits: list[POSIXRlimit] = repeated(8, POSIXRlimit)
    NoNewPrivileges: bool = boolean(9)
    ApparmorProfile: str = string(10)
    OOMScoreAdj: int = int64(11)
    SelinuxLabel: str = string(12)


class Mount(Message):
    destination: str = string(1)
    source: str = string(2)
    type: str = string(3)
    options: list[str] = repeated(4, "string")


class Root(Message):
    Path: str = string(1)
    Readonly: bool = boolean(2)


class Hook(Message):
    Path: str = string(1)
    Args: list[str] = repeated(2, "string")
    Env: list[str] = repeated(3, "string")
    Timeout: int = int64(4)


class Hooks(Message):
    Prestart: list[Hook] = repeated(1, Hook)
    Poststart: list[Hook] = repeated(2, Hook)
    Poststop: list[Hook] = repeated(3, Hook)
    CreateRuntime: list[Hook] = repeated(4, Hook)
    CreateContainer: list[Hook] = repeated(5, Hook)
    StartContainer: list[Hook] = repeated(6, Hook)


class Windows(Message):
    dummy: str = string(1)


class Solaris(Message):
    dummy: str = string(1)


class LinuxIDMapping(Message):
    HostID: int = uint32(1)
    ContainerID: int = uint32(2)
    Size: int = uint32(3)


class LinuxNamespace(Message):
    Type: str = string(1)
    Path: str = string(2)


class LinuxDevice(Message):
    Path: str = string(1)
    Type: str = string(2)
    Major: int = int64(3)
    Minor: int = int64(4)
    FileMode: int = uint32(5)
    UID: int = uint32(6)
    GID: int = uint32(7)


class LinuxMemory(Message):
    Limit: int = int64(1)
    Reservation: int = int64(2)
    Swap: int = int64(3)
    Kernel: int = int64(4)
    KernelTCP: int = int64(5)
    Swappiness: int = uint64(6)
    DisableOOMKiller: bool = boolean(7)


class LinuxCPU(Message):
    Shares: int = uint64(1)
    Quota: int = int64(2)
    Period: int = uint64(3)
    RealtimeRuntime: int = int64(4)
    RealtimePeriod: int = uint64(5)
    Cpus: str = string(6)
    Mems: str = string(7)


class LinuxWeightDevice(Message):
    Major: int = int64(1)
    Minor: int = int64(2)
    Weight: int = uint32(3)
    LeafWeight: int = uint32(4)


class LinuxThrottleDevice(Message):
    Major: int = int64(1)
    Minor: int = int64(2)
    Rate: int = uint64(3)


class LinuxBlockIO(Message):
    Weight: int = uint32(1)
    LeafWeight: int = uint32(2)
    WeightDevice: list[LinuxWeightDevice] = repeated(3, LinuxWeightDevice)
    ThrottleReadBpsDevice: list[LinuxThrottleDevice] = repeated(4, LinuxThrottleDevice)
    ThrottleWriteBpsDevice: list[LinuxThrottleDevice] = repeated(5, LinuxThrottleDevice)
    ThrottleReadIOPSDevice: list[LinuxThrottleDevice] = repeated(6, LinuxThrottleDevice)
    ThrottleWriteIOPSDevice: list[LinuxThrottleDevice] = repeated(7, LinuxThrottleDevice)


class LinuxPids(Message):
    Limit: int = int64(1)


class LinuxDeviceCgroup(Message):
    Allow: bool = boolean(1)
    Type: str = string(2)
    Major: int = int64(3)
    Minor: int = int64(4)
    Access: str = string(5)


class LinuxHugepageLimit(Message):
    Pagesize: str = string(1)
    Limit: int = uint64(2)


class LinuxInterfacePriority(Message):
    Name: str = string(1)
    Priority: int = uint32(2)


class LinuxNetwork(Message):
    ClassID: int = uint32(1)
    Priorities: list[LinuxInterfacePriority] = repeated(2, LinuxInterfacePriority)


class LinuxResources(Message):
    Devices: list[LinuxDeviceCgroup] = repeated(1, LinuxDeviceCgroup)
    Memory: LinuxMemory | None = message(2, LinuxMemory)
    CPU: LinuxCPU | None = message(3, LinuxCPU)
    Pids: LinuxPids | None = message(4, LinuxPids)
    BlockIO: LinuxBlockIO | None = message(5, LinuxBlockIO)
    HugepageLimits: list[LinuxHugepageLimit] = repeated(6, LinuxHugepageLimit)
    Network: LinuxNetwork | None = message(7, LinuxNetwork)


class LinuxSeccompArg(Message):
    Index: int = uint64(1)
    Value: int = uint64(2)
    ValueTwo: int = uint64(3)
    Op: str = string(4)


class LinuxSyscall(Message):
    Names: list[str] = repeated(1, "string")
    Action: str = string(2)
    errnoret: int = uint32(3)
    Args: list[LinuxSeccompArg] = repeated(4, LinuxSeccompArg)


class LinuxSeccomp(Message):
    DefaultAction: str = string(1)
    Architectures: list[str] = repeated(2, "string")
    Flags: list[str] = repeated(3, "string")
    Syscalls: list[LinuxSyscall] = repeated(4, LinuxSyscall)


class LinuxIntelRdt(Message):
    L3CacheSchema: str = string(1)


class Linux(Message):
    UIDMappings: list[LinuxIDMapping] = repeated(1, LinuxIDMapping)
    GIDMappings: list[LinuxIDMapping] = repeated(2, LinuxIDMapping)
    Sysctl: dict[str, str] = string_map(3, "string")
    Resources: LinuxResources | None = message(4, LinuxResources)
    CgroupsPath: str = string(5)
    Namespaces: list[LinuxNamespace] = repeated(6, LinuxNamespace)
    Devices: list[LinuxDevice] = repeated(7, LinuxDevice)
    Seccomp: LinuxSeccomp | None = message(8, LinuxSeccomp)
    RootfsPropagation: str = string(9)
    MaskedPaths: list[str] = repeated(10, "string")
    ReadonlyPaths: list[str] = repeated(11, "string")
    MountLabel: str = string(12)
    IntelRdt: LinuxIntelRdt | None = message(13, LinuxIntelRdt)


class Spec(Message):
    Version: str = string(1)
    Process: Process | None = message(2, Process)
    Root: Root | None = message(3, Root)
    Hostname: str = string(4)
    Mounts: list[Mount] = repeated(5, Mount)
    Hooks: Hooks | None = message(6, Hooks)
    Annotations: dict[str, str] = string_map(7, "string")
    Linux: Linux | None = message(8, Linux)
    Solaris: Solaris | None = message(9, Solaris)
    Windows: Windows | None = message(10, Windows)
