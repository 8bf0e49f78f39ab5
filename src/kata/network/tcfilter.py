"""The network model `tcfilter`: two links of a namespace, each sending out what comes in at the other.

Traffic control steals packets before the namespace's own stack sees them, so the link keeps its addresses, which
network plug-ins look for, and answers to nothing. Host firewalls on the other end of a veth see the pod's packets as
those of any container.
"""

from errno import EEXIST, EINVAL, ENODEV, ENOENT

from kata.errors import HostError, StateError
from kata.protocol.netlink.link import Link
from kata.protocol.netlink.traffic import (
    COOKIE_SIZE,
    add_ingress,
    delete_ingress,
    dump_ingress,
    parse_cookie,
    redirect_ingress,
)
from kata.sys.digest import digest_bytes
from kata.transport.netlink import Netlink

NOT_CONNECTED = {EINVAL, ENOENT, ENODEV}
"""What the kernel says of the ingress queue of a link that has none, or is gone."""


def make_cookie(sandbox: str) -> bytes:
    """Return what marks a sandbox's filters in the kernel."""
    return digest_bytes(sandbox.encode())[:COOKIE_SIZE]


def connect_links(netlink: Netlink, link: Link, tap: int, sandbox: str) -> None:
    """Connect a link of the pod and the tap with the index `tap`.

    Raise StateError where the link is connected to another VM already, and HostError.
    """
    cookie = make_cookie(sandbox)
    for source, target in ((link.ifindex, tap), (tap, link.ifindex)):
        if not netlink.run(add_ingress(source), unless={EEXIST}) and _has_filters(netlink, source):
            raise StateError(
                f"network interface {link.name} has an ingress filter already; another VM is connected to it",
                hint="a container of a VM cannot join the network of another container; put both into one pod",
            )
        try:
            netlink.run(redirect_ingress(source, target, cookie))
        except HostError as error:
            error.hint = error.hint or "load the kernel modules sch_ingress, cls_u32 and act_mirred"
            raise


def disconnect_link(netlink: Netlink, ifindex: int, sandbox: str) -> bool:
    """Take a sandbox's filters off a link. Return False where it has none; those of others stay."""
    if make_cookie(sandbox) not in netlink.ask(dump_ingress(ifindex), parse_cookie, unless=NOT_CONNECTED):
        return False
    return netlink.run(delete_ingress(ifindex), unless=NOT_CONNECTED)


def _has_filters(netlink: Netlink, ifindex: int) -> bool:
    return bool(netlink.ask(dump_ingress(ifindex), bytes, unless=NOT_CONNECTED))
