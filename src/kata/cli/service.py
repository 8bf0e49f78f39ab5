"""The way to a sandbox's daemon."""

from __future__ import annotations

from kata.cli.records import find_sandbox_dir
from kata.errors import (
    Code,
    ExistsError,
    GuestError,
    KataError,
    NotFoundError,
    StateError,
    UnsupportedError,
    UsageError,
)
from kata.protocol.messages.sandbox import SERVICE
from kata.protocol.protobuf import Message
from kata.transport.ttrpc_blocking import BlockingClient, connect_blocking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self, TypeVar

    Reply = TypeVar("Reply", bound=Message)

CONNECT_TIMEOUT = 10.0
CALL_TIMEOUT = 60.0
CREATE_TIMEOUT = 600.0
"""Seconds. The daemon bounds each phase of a start by itself and tells which one took too long; this only ends a wait
for a daemon that hangs. It is generous because a VM without hardware virtualisation boots slowly."""

_ERRORS: dict[Code, type[KataError]] = {
    Code.NOT_FOUND: NotFoundError,
    Code.ALREADY_EXISTS: ExistsError,
    Code.FAILED_PRECONDITION: StateError,
    Code.INVALID_ARGUMENT: UsageError,
    Code.UNIMPLEMENTED: UnsupportedError,
}


class Service:
    """A connection to a sandbox's daemon. The daemon's refusals become the errors that it raised."""

    def __init__(self, client: BlockingClient) -> None:
        self._client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_failure: object) -> None:
        self._client.close()

    def call(self, method: str, request: Message, reply: type[Reply], *, timeout: float = CALL_TIMEOUT) -> Reply:
        try:
            return self._client.call(SERVICE, method, request, reply, timeout=timeout)
        except GuestError as error:
            kind = _ERRORS.get(error.status)
            if kind is None:
                raise
            raise kind(error.message) from error


class ServiceGoneError(StateError):
    """No daemon serves this sandbox any more, so its containers are stopped."""


def open_service(root: str, sandbox: str) -> Service:
    """Connect to the daemon of a sandbox. Raise ServiceGoneError where nobody listens."""
    path = f"{find_sandbox_dir(root, sandbox)}/service.sock"
    try:
        return Service(connect_blocking(path, f"the service of sandbox {sandbox}", timeout=CONNECT_TIMEOUT))
    except GuestError as error:
        raise ServiceGoneError("container not running", hint=f"sandbox {sandbox} is gone") from error
