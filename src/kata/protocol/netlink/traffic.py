"""Traffic control: filters that send each packet that comes in at a link out of another, and limits for a link.

    u8 family  3 bytes -  i32 link index  u32 handle  u32 parent  u32 priority << 16 | EtherType in network order
    attributes TCA_*

Sources: tc(8), tc-u32(8), tc-mirred(8), tc-tbf(8); <linux/rtnetlink.h>, <linux/pkt_sched.h>, <linux/pkt_cls.h>,
<linux/tc_act/tc_mirred.h>.
"""

import struct
from socket import htons

from kata.protocol.netlink.attribute import (
    encode_attribute,
    encode_number,
    encode_text,
    nest_attributes,
    parse_attributes,
    parse_payload,
)
from kata.protocol.netlink.message import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request

RTM_NEWQDISC = 36
RTM_DELQDISC = 37
RTM_NEWTFILTER = 44
RTM_GETTFILTER = 46

COOKIE_SIZE = 16

_ROOT_PARENT = 0xFFFFFFFF
# No tool picks this one by itself, so that what has it is known to be ours.
_LIMIT_HANDLE = 0x6B610000
_INGRESS_PARENT = 0xFFFFFFF1
_INGRESS_HANDLE = 0xFFFF0000
# Priority 1, and ETH_P_ALL, which is 3, in the order of the network.
EVERY_PACKET = 1 << 16 | htons(3)

TCA_KIND = 1
TCA_OPTIONS = 2
_TCA_U32_SEL = 5
_TCA_U32_ACT = 7
_TC_U32_TERMINAL = 1
_TCA_ACT_KIND = 1
_TCA_ACT_OPTIONS = 2
_TCA_ACT_COOKIE = 6
_TCA_MIRRED_PARMS = 2
_TCA_EGRESS_REDIR = 1
_TC_ACT_STOLEN = 4
_FIRST_ACTION = 1
_TCA_TBF_PARMS = 1
_TCA_TBF_RATE64 = 4
_TCA_TBF_BURST = 6
_TC_LINKLAYER_ETHERNET = 1

_HEADER = struct.Struct("=BxxxiIII")
TRAFFIC_HEADER_SIZE = _HEADER.size
# flags, shift of the offset, number of keys, padding, and the fields of a variable offset, which is not used.
_SELECTOR = struct.Struct("=BBBxHHhhI")
# mask, value, offset, mask of the offset: nothing of the packet is looked at, so every one matches.
_KEY = struct.Struct("=IIii")
# index, capabilities, verdict, two counts of references, what to do, link index.
_MIRRED = struct.Struct("=IIiiiiI")
# tc_tbf_qopt: of rate and peak rate only the link layer, since the rate comes in 64 bits, then limit, buffer and MTU.
_BUCKET = struct.Struct("=xB10x12xIII")
_RATE = struct.Struct("=Q")


def encode_traffic_header(ifindex: int, handle: int, parent: int, info: int = 0) -> bytes:
    """Return the fixed part of every message of traffic control."""
    return _HEADER.pack(0, ifindex, handle, parent, info)


def add_ingress(ifindex: int) -> Request:
    """Ask for the qdisc that incoming packets' filters hang on. The kernel says EEXIST where the link has one."""
    payload = encode_traffic_header(ifindex, _INGRESS_HANDLE, _INGRESS_PARENT) + encode_text(TCA_KIND, "ingress")
    return Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, payload, f"add an ingress queue to link {ifindex}")


def delete_ingress(ifindex: int) -> Request:
    """Ask for the removal of that qdisc with its filters. The kernel says EINVAL or ENOENT where there is none."""
    payload = encode_traffic_header(ifindex, _INGRESS_HANDLE, _INGRESS_PARENT) + encode_text(TCA_KIND, "ingress")
    return Request(RTM_DELQDISC, 0, payload, f"delete the ingress queue of link {ifindex}")


def redirect_ingress(ifindex: int, target: int, cookie: bytes) -> Request:
    """Ask that whatever comes in at one link leaves by the link `target`, unseen by the host's network stack.

    `cookie`, COOKIE_SIZE bytes at most, is kept by the kernel with the action and tells whose filter it is.
    """
    mirred = _MIRRED.pack(0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, target)
    action = nest_attributes(
        _FIRST_ACTION,
        [
            encode_text(_TCA_ACT_KIND, "mirred"),
            nest_attributes(_TCA_ACT_OPTIONS, [encode_attribute(_TCA_MIRRED_PARMS, mirred)]),
            encode_attribute(_TCA_ACT_COOKIE, cookie),
        ],
    )
    selector = _SELECTOR.pack(_TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _KEY.pack(0, 0, 0, 0)
    options = [encode_attribute(_TCA_U32_SEL, selector), nest_attributes(_TCA_U32_ACT, [action])]
    payload = encode_traffic_header(ifindex, 0, _INGRESS_HANDLE, EVERY_PACKET)
    payload += encode_text(TCA_KIND, "u32") + nest_attributes(TCA_OPTIONS, options)
    purpose = f"redirect what comes in at link {ifindex} to link {target}"
    return Request(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, payload, purpose)


def limit_egress(ifindex: int, rate: int, burst: int, backlog: int) -> Request:
    """Ask that a link send no more than `rate` bytes a second, but `burst` bytes at once, and drop beyond a `backlog`.

    The kernel says EEXIST where somebody has given the link a queueing discipline of his own.
    """
    options = [
        encode_attribute(_TCA_TBF_PARMS, _BUCKET.pack(_TC_LINKLAYER_ETHERNET, backlog, 0, 0)),
        encode_attribute(_TCA_TBF_RATE64, _RATE.pack(rate)),
        encode_number(_TCA_TBF_BURST, burst),
    ]
    payload = encode_traffic_header(ifindex, _LIMIT_HANDLE, _ROOT_PARENT)
    payload += encode_text(TCA_KIND, "tbf") + nest_attributes(TCA_OPTIONS, options)
    return Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, payload, f"limit what link {ifindex} sends")


def delete_limit(ifindex: int) -> Request:
    """Ask for the removal of that limit. The kernel says EINVAL or ENOENT where there is none."""
    payload = encode_traffic_header(ifindex, _LIMIT_HANDLE, _ROOT_PARENT)
    return Request(RTM_DELQDISC, 0, payload, f"delete the limit of link {ifindex}")


def dump_ingress(ifindex: int) -> Request:
    """Ask for the filters of a link's ingress qdisc. The kernel says EINVAL or ENOENT where there is none."""
    payload = encode_traffic_header(ifindex, 0, _INGRESS_HANDLE)
    return Request(RTM_GETTFILTER, NLM_F_DUMP, payload, f"list the ingress filters of link {ifindex}")


def parse_cookie(payload: bytes) -> bytes:
    """Return the cookie of the first action of a u32 filter, b"" for a filter that has none.

    A malformed message is a ProtocolError.
    """
    attributes = parse_payload(payload, _HEADER.size, "filter")
    if attributes.get(TCA_KIND) != b"u32\0":
        return b""
    options = parse_attributes(attributes.get(TCA_OPTIONS, b""))
    actions = parse_attributes(options.get(_TCA_U32_ACT, b""))
    return parse_attributes(actions.get(_FIRST_ACTION, b"")).get(_TCA_ACT_COOKIE, b"")
