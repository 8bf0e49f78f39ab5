"""Traffic control by a program: what a link sends is passed on or dropped as a BPF program says.

    u8 family  3 bytes -  i32 link index  u32 handle  u32 parent  u32 priority << 16 | EtherType in network order
    attributes TCA_*

Sources: tc-bpf(8); <linux/rtnetlink.h>, <linux/pkt_sched.h>, <linux/pkt_cls.h>.
"""

from kata.protocol.netlink.attribute import (
    encode_number,
    encode_text,
    nest_attributes,
    parse_attributes,
    parse_payload,
    read_text,
)
from kata.protocol.netlink.message import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request
from kata.protocol.netlink.traffic import (
    EVERY_PACKET,
    RTM_DELQDISC,
    RTM_GETTFILTER,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
    TCA_KIND,
    TCA_OPTIONS,
    TRAFFIC_HEADER_SIZE,
    encode_traffic_header,
)

_CLSACT_PARENT = 0xFFFFFFF1
_CLSACT_HANDLE = 0xFFFF0000
_EGRESS_PARENT = 0xFFFFFFF3
_TCA_BPF_FD = 6
_TCA_BPF_NAME = 7
_TCA_BPF_FLAGS = 8
_TCA_BPF_FLAG_ACT_DIRECT = 1


def add_clsact(ifindex: int) -> Request:
    """Ask for the qdisc that filters of what a link sends hang on. The kernel says EEXIST where there is one."""
    payload = encode_traffic_header(ifindex, _CLSACT_HANDLE, _CLSACT_PARENT) + encode_text(TCA_KIND, "clsact")
    return Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, payload, f"add an egress queue to link {ifindex}")


def delete_clsact(ifindex: int) -> Request:
    """Ask for the removal of that qdisc with its filters. The kernel says EINVAL or ENOENT where there is none."""
    payload = encode_traffic_header(ifindex, _CLSACT_HANDLE, _CLSACT_PARENT) + encode_text(TCA_KIND, "clsact")
    return Request(RTM_DELQDISC, 0, payload, f"delete the egress queue of link {ifindex}")


def filter_egress(ifindex: int, program: int, name: str) -> Request:
    """Ask that a program decide on what a link sends: its result is a verdict, TC_ACT_*.

    `program` is a descriptor; the kernel keeps the program, and the name, of 255 bytes at most.
    """
    options = [
        encode_number(_TCA_BPF_FD, program),
        encode_text(_TCA_BPF_NAME, name),
        encode_number(_TCA_BPF_FLAGS, _TCA_BPF_FLAG_ACT_DIRECT),
    ]
    payload = encode_traffic_header(ifindex, 0, _EGRESS_PARENT, EVERY_PACKET)
    payload += encode_text(TCA_KIND, "bpf") + nest_attributes(TCA_OPTIONS, options)
    return Request(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, payload, f"filter what link {ifindex} sends")


def dump_egress(ifindex: int) -> Request:
    """Ask for the filters of what a link sends. The kernel says EINVAL or ENOENT where it has no such qdisc."""
    payload = encode_traffic_header(ifindex, 0, _EGRESS_PARENT)
    return Request(RTM_GETTFILTER, NLM_F_DUMP, payload, f"list the egress filters of link {ifindex}")


def parse_program_name(payload: bytes) -> str:
    """Return the name that a filter's program was given, "" for a filter of another kind.

    A malformed message is a ProtocolError.
    """
    attributes = parse_payload(payload, TRAFFIC_HEADER_SIZE, "filter")
    if attributes.get(TCA_KIND) != b"bpf\0":
        return ""
    return read_text(parse_attributes(attributes.get(TCA_OPTIONS, b"")), _TCA_BPF_NAME)
