"""vhost-net: the host's kernel moves a card's packets between tap and guest, and QEMU does not wake for each.

Source: <linux/vhost.h>; QEMU's documentation of `-netdev tap,vhost=on`.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from kata.hypervisor.spec import NetDevice

DEVICE = "/dev/vhost-net"


@contextmanager
def lend_vhost(card: NetDevice) -> Iterator[NetDevice]:
    """Have the card with a descriptor of vhost-net for each queue during the block, or as it is where there is none."""
    with ExitStack() as opened:
        descriptors: list[int] = []
        with suppress(OSError):
            for _ in card.taps:
                descriptors.append(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
                opened.callback(os.close, descriptors[-1])
        yield card._replace(vhost=tuple(descriptors)) if len(descriptors) == len(card.taps) else card
