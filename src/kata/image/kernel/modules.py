"""Which kernel modules a guest needs, and in which order they load.

`modules.dep` (depmod(8)) has a line `path: dependency dependency …` per module; a dependency stands after what needs
it, and finit_module(2) wants it before.
"""

import posixpath
from collections.abc import Iterable, Mapping

from kata.errors import NotFoundError, ProtocolError

# What every guest needs of Debian's kernel: devices, shares, volumes. Each costs an emulated guest 20 ms and more.
AT_BOOT = (
    "virtio_pci", "virtio_mmio", "virtio_blk", "virtio_console", "virtio_net", "virtio_scsi", "virtio_balloon",
    "virtio_mem", "virtio_pmem", "virtio-rng", "nd_pmem", "nfit", "sd_mod", "fuse", "virtiofs", "overlay",
    "erofs", "ext4", "loop", "vsock", "vmw_vsock_virtio_transport", "af_packet", "veth", "button",
    "qemu_fw_cfg",
)  # fmt: skip

# What the host asks the agent to load when a pod wants it (the option kernel_modules).
ON_DEMAND = (
    "xfs", "dm-mod", "dm-verity", "dm-crypt", "bridge", "br_netfilter", "tun", "dummy", "macvlan", "ipvlan",
    "8021q", "nf_tables", "nft_ct", "nft_nat", "nft_masq", "nft_redir", "nft_reject_inet", "nft_limit",
    "nft_fib_inet", "nft_compat", "nf_conntrack", "nf_conntrack_netlink", "ip_tables", "ip6_tables",
    "iptable_filter", "iptable_nat", "iptable_mangle", "iptable_raw", "ip6table_filter", "ip6table_nat",
    "ip6table_mangle", "ip6table_raw", "xt_conntrack", "xt_mark", "xt_connmark", "xt_comment", "xt_addrtype",
    "xt_multiport", "xt_owner", "xt_nat", "xt_MASQUERADE", "xt_REDIRECT", "xt_TPROXY", "xt_tcpudp", "xt_state",
    "binfmt_misc", "inet_diag", "tcp_diag", "vfio-pci", "nvme", "evdev", "vmgenid", "rtc-cmos",
)  # fmt: skip


def name_of(path: str) -> str:
    """The name of the module in a file, as the kernel writes it: without suffixes, `_` for `-`."""
    return posixpath.basename(path).split(".ko", 1)[0].replace("-", "_")


def parse_dependencies(text: str) -> dict[str, list[str]]:
    """Read modules.dep. Raises ProtocolError for a line without a colon."""
    dependencies = {}
    for line in text.splitlines():
        path, colon, needs = line.partition(":")
        if not colon:
            raise ProtocolError(f"modules.dep has a line without a colon: {line!r}")
        dependencies[path] = needs.split()
    return dependencies


def order_modules(wanted: Iterable[str], dependencies: Mapping[str, list[str]], builtin: Iterable[str]) -> list[str]:
    """Return the paths of `wanted` and all they need, each after everything it needs.

    Names that are neither a module nor `builtin` (paths in modules.builtin) are skipped: Debian's kernels differ in
    what they have. Raises NotFoundError when modules.dep names a file that it does not list, ProtocolError for a
    circle.
    """
    paths = {name_of(path): path for path in dependencies}
    present = {name_of(path) for path in builtin}
    ordered: dict[str, None] = {}
    for name in map(name_of, wanted):
        if name in paths and name not in present:
            _visit(paths[name], dependencies, ordered, ())
    return list(ordered)


def find_absent(wanted: Iterable[str], dependencies: Mapping[str, list[str]], builtin: Iterable[str]) -> list[str]:
    """Those of `wanted` that this kernel does not have at all."""
    known = {name_of(path) for path in (*dependencies, *builtin)}
    return [name for name in wanted if name_of(name) not in known]


def _visit(path: str, dependencies: Mapping[str, list[str]], ordered: dict[str, None], above: tuple[str, ...]) -> None:
    if path in ordered:
        return
    if path in above:
        raise ProtocolError(f"the module {path} needs itself, by way of {', '.join(above)}")
    if path not in dependencies:
        raise NotFoundError(f"modules.dep does not list {path}, which {above[-1] if above else 'the guest'} needs")
    for needed in dependencies[path]:
        _visit(needed, dependencies, ordered, (*above, path))
    ordered[path] = None


def format_dependencies(paths: Iterable[str], dependencies: Mapping[str, list[str]]) -> str:
    """The lines of modules.dep for the modules at `paths`, as a guest has them: without compression."""
    lines = ("".join((_plain(path), ":", *(f" {_plain(needed)}" for needed in dependencies[path]))) for path in paths)
    return "".join(f"{line}\n" for line in lines)


def _plain(path: str) -> str:
    return path.removesuffix(".xz").removesuffix(".zst")
