"""The first call to a guest: whether it is up, or that it is to wake as a copy of a template."""

import os
from collections.abc import Awaitable, Sequence
from typing import Protocol

from kata.hypervisor.spec import PciAddress
from kata.sandbox.guest import Guest

_ENTROPY = 512
"""Bytes for the guest's random number generator, as many as upstream's runtime sends."""


class FirstCall(Protocol):
    """What the agent is asked first of all, with a time limit in seconds. It may be asked more than once."""

    def __call__(self, guest: Guest, /, *, timeout: float) -> Awaitable[None]: ...


def find_root_slots(addresses: Sequence[PciAddress]) -> list[int]:
    """Return the root bus's slots in which a guest is to look for these devices.

    For one on the root bus itself that is the host bridge's: a look into a slot is one at all of its bus.
    """
    return [int(address.path[:2], 16) if "/" in address.path else 0 for address in addresses]


def describe_waking(slots: Sequence[PciAddress]) -> FirstCall:
    """Ask a copy of a template to become itself, and to find what was plugged in: no call before it is worth a wait."""
    entropy, numbers = os.urandom(_ENTROPY), find_root_slots(slots)

    def wake(guest: Guest, *, timeout: float) -> Awaitable[None]:
        return guest.wake(entropy, numbers, timeout=timeout)

    return wake
