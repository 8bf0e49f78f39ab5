"""Rules of policy routing: which table a packet's route is looked up in.

    u8 family  u8 destination bits  u8 source bits  u8 TOS  u8 table  u16 reserved  u8 action (FR_ACT_*)
    u32 flags (FIB_RULE_*)
    attributes FRA_*

A rule names interfaces by name, not by index, so that what one kernel lists means the same to another: its matches are
carried as they are, and none of them has to be known here.

Source: rtnetlink(7), ip-rule(8), <linux/fib_rules.h>.
"""

import struct
from typing import Final, NamedTuple

from kata.protocol.netlink.attribute import encode_attribute, parse_payload, read_number
from kata.protocol.netlink.message import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request

_RTM_NEWRULE = 32
_RTM_DELRULE = 33
_RTM_GETRULE = 34

FRA_L3MDEV = 19
_FRA_PRIORITY = 6
_FRA_TABLE = 15
_FRA_PAD = 18
_FRA_PROTOCOL = 21
# The other flags are the state of the interfaces and rules that a rule names.
_FIB_RULE_INVERT = 0x2

_HEADER: Final = struct.Struct("=BBBBBHBI")


class Rule(NamedTuple):
    """A rule: its header, its matches and what to do as attributes in the order of their types, and who made it.

    `protocol` is RTPROT_*. Rules are looked at in the order of `priority`.
    """

    header: bytes
    attributes: tuple[tuple[int, bytes], ...]
    protocol: int = 0

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        return self.header[0]

    @property
    def priority(self) -> int:
        return read_number(dict(self.attributes), _FRA_PRIORITY)

    @property
    def table(self) -> int:
        return read_number(dict(self.attributes), _FRA_TABLE)


def encode_rule(rule: Rule) -> bytes:
    """Return a rule as the kernel sends it."""
    attributes = (*rule.attributes, (_FRA_PROTOCOL, bytes((rule.protocol,))))
    return rule.header + b"".join(encode_attribute(kind, value) for kind, value in attributes)


def parse_rule(payload: bytes) -> Rule:
    """Return the rule in the payload of an RTM_NEWRULE message; a malformed one is a ProtocolError."""
    attributes = parse_payload(payload, _HEADER.size, "rule")
    *kept, flags = _HEADER.unpack_from(payload)
    protocol = attributes.pop(_FRA_PROTOCOL, b"\0")
    attributes.pop(_FRA_PAD, None)
    # The kernel leaves out the priority 0, and takes a request without one to be for the next that is free.
    attributes.setdefault(_FRA_PRIORITY, bytes(4))
    header = _HEADER.pack(*kept, flags & _FIB_RULE_INVERT)
    return Rule(header, tuple(sorted(attributes.items())), protocol[0] if protocol else 0)


def dump_rules(family: int) -> Request:
    """Ask for the rules of one family."""
    return Request(_RTM_GETRULE, NLM_F_DUMP, _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0), "list rules of policy routing")


def add_rule(rule: Rule) -> Request:
    """Ask for a new rule; the kernel says EEXIST where there is the same one, whoever made it."""
    return Request(_RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, encode_rule(rule), f"add {format_rule(rule)}")


def delete_rule(rule: Rule) -> Request:
    """Ask for the removal of a rule; the kernel says ENOENT if there is none."""
    return Request(_RTM_DELRULE, 0, encode_rule(rule), f"delete {format_rule(rule)}")


def format_rule(rule: Rule) -> str:
    """Return what tells a rule from others in a sentence."""
    return f"rule {rule.priority} of policy routing, table {rule.table}"
