"""Every error that this project raises on purpose.

KataError
├── ConfigError           the operator wrote something that cannot be honoured
├── UsageError            the caller asked for something malformed (flag, bundle, id)
├── StateError            the call is valid, but not now
├── NotFoundError         no such sandbox, container, process or file
├── ExistsError           it is there already
├── UnsupportedError      understood, but not implemented or not possible in a VM
├── DeadlineError         a wait ran out of time
├── ProtocolError         the peer broke a wire format
├── GuestError            the guest said no, or stopped talking
├── HostError             the host refused a system call or a tool failed
└── StartError            a sandbox did not start; knows the phase and the console's end

Errors become outcomes in two places only: the ttrpc dispatcher (status code) and the command line (exit code).
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing costs 5 ms, which each process of each pod would pay
if TYPE_CHECKING:
    from typing import ClassVar


class Code(int):
    """Status codes of gRPC, which ttrpc uses, in the order of their numbers. Source: google.golang.org/grpc/codes.

    No enumeration: the module `enum` is a third of all that a shim's `start` would import.
    """

    OK: ClassVar[Code]
    CANCELLED: ClassVar[Code]
    UNKNOWN: ClassVar[Code]
    INVALID_ARGUMENT: ClassVar[Code]
    DEADLINE_EXCEEDED: ClassVar[Code]
    NOT_FOUND: ClassVar[Code]
    ALREADY_EXISTS: ClassVar[Code]
    PERMISSION_DENIED: ClassVar[Code]
    RESOURCE_EXHAUSTED: ClassVar[Code]
    FAILED_PRECONDITION: ClassVar[Code]
    ABORTED: ClassVar[Code]
    OUT_OF_RANGE: ClassVar[Code]
    UNIMPLEMENTED: ClassVar[Code]
    INTERNAL: ClassVar[Code]
    UNAVAILABLE: ClassVar[Code]
    DATA_LOSS: ClassVar[Code]
    UNAUTHENTICATED: ClassVar[Code]

    def __repr__(self) -> str:
        return f"<Code.{_CODE_NAMES[self]}: {int(self)}>" if self < len(_CODE_NAMES) else f"<Code {int(self)}>"

    @classmethod
    def find(cls, number: int) -> Code:
        """Return the code of a peer's number, UNKNOWN for a number that is none."""
        code: Code = getattr(cls, _CODE_NAMES[number]) if 0 <= number < len(_CODE_NAMES) else cls.UNKNOWN
        return code


_CODE_NAMES = tuple(Code.__annotations__)
for _number, _name in enumerate(_CODE_NAMES):
    setattr(Code, _name, Code(_number))


class KataError(Exception):
    """Base class. `hint` tells the operator what to do; `code` is what a ttrpc peer is told."""

    code: ClassVar[Code] = Code.INTERNAL

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(KataError):
    code = Code.INVALID_ARGUMENT


class UsageError(KataError):
    code = Code.INVALID_ARGUMENT


class StateError(KataError):
    code = Code.FAILED_PRECONDITION


class NotFoundError(KataError):
    code = Code.NOT_FOUND


class ExistsError(KataError):
    code = Code.ALREADY_EXISTS


class UnsupportedError(KataError):
    code = Code.UNIMPLEMENTED


class DeadlineError(KataError):
    code = Code.DEADLINE_EXCEEDED


class ProtocolError(KataError):
    """The peer sent bytes that the wire format does not allow. The connection is of no further use."""

    code = Code.DATA_LOSS


class HostError(KataError):
    """A system call or a tool on this machine failed."""


class GuestError(KataError):
    """The peer answered with an error status, or went away. `status` is what it said."""

    def __init__(self, message: str, *, status: Code = Code.UNKNOWN, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class StartError(KataError):
    """A sandbox did not start. The message names the phase and quotes the end of the guest's console."""

    def __init__(self, phase: str, reason: str, *, console: str = "", hint: str | None = None) -> None:
        tail = f"; end of the guest console:\n{console}" if console else ""
        super().__init__(f"start failed in phase {phase}: {reason}{tail}", hint=hint)
        self.phase = phase
        self.reason = reason
        self.console = console
