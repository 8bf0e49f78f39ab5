"""Codec of the kernel's routing netlink (rtnetlink). Nothing here does I/O; kata.transport.netlink has the socket.

message     requests, answers, acknowledgements; the engine of one request-and-answers exchange
attribute   the type-length-value lists that follow every fixed header
link, address, route, rule, neighbour
            one value each, its bytes both ways, and the requests that concern it
notation    IP and link-layer addresses as people write them

Values are NamedTuples, not dataclasses: building a frozen slotted dataclass costs four times as much at import, and
the guest agent imports this for every pod. IP and link-layer addresses are packed bytes in network order.

A new kind of object (link creation, traffic control) is a new function or module that returns a Request.

Sources: netlink(7), rtnetlink(7), Documentation/userspace-api/netlink/ in the kernel tree, <linux/rtnetlink.h>.
"""
