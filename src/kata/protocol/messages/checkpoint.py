"""Messages of `kata.agent.v1.Checkpoint`, by which a guest with containers is saved while it runs.

This project's agent offers it beside upstream's services. `Hold` freezes every container and ends the calls that wait
for something to happen, with ABORTED: when it is answered, nothing is on its way between agent and host. `Release` is
asked of the guest that was saved, and of each that goes on from it, there after `Wake` of kata.agent.v1.Template.
"""

from __future__ import annotations

from kata.protocol.protobuf import Message, string

SERVICE = "kata.agent.v1.Checkpoint"


class Identity(Message):
    """What `Renew` gives to a copy whose original goes on: its host name, boot id and machine id."""

    hostname: str = string(1)
    boot_id: str = string(2)
    machine_id: str = string(3)
