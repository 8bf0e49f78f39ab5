"""Netlink messages, and the engine of one exchange: a request, its answers, and the kernel's verdict.

    u32 length of header and payload     u16 type     u16 flags     u32 sequence     u32 port id
    payload, padded to a multiple of four; several messages may share a datagram

A change is answered by NLMSG_ERROR, whose error number 0 means "done". A dump is answered by any number of messages
in any number of datagrams and ended by NLMSG_DONE. Both may carry the kernel's explanation ("extended
acknowledgement"). Source: netlink(7); Documentation/userspace-api/netlink/intro.rst.
"""

import struct
from typing import NamedTuple

from kata.errors import ProtocolError
from kata.protocol.netlink.attribute import parse_attributes, read_text

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300

_NLMSG_NOOP = 1
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLMSG_OVERRUN = 4
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1

_HEADER = struct.Struct("=IHHII")
_VERDICT = struct.Struct("=i")


class Request(NamedTuple):
    """What to send. `purpose` continues the sentence "the kernel refused to …" in an error."""

    kind: int
    flags: int
    payload: bytes
    purpose: str


class Message(NamedTuple):
    """One message as it came. `port` is 0 when the kernel speaks of its own accord."""

    kind: int
    flags: int
    sequence: int
    port: int
    payload: bytes


def encode_message(message: Message) -> bytes:
    length = _HEADER.size + len(message.payload)
    header = _HEADER.pack(length, message.kind, message.flags, message.sequence, message.port)
    return header + message.payload + bytes(-length % 4)


def parse_messages(datagram: bytes) -> list[Message]:
    """Cut a datagram into messages. A header that is cut off or lies about its length is a ProtocolError."""
    messages = []
    offset = 0
    while offset < len(datagram):
        left = len(datagram) - offset
        if left < _HEADER.size:
            raise ProtocolError(f"netlink datagram ends with {left} bytes, too few for a header")
        length, kind, flags, sequence, port = _HEADER.unpack_from(datagram, offset)
        if not _HEADER.size <= length <= left:
            raise ProtocolError(f"netlink message of type {kind} says {length} bytes, {left} are left")
        messages.append(Message(kind, flags, sequence, port, datagram[offset + _HEADER.size : offset + length]))
        offset += length + -length % 4
    return messages


class Exchange:
    """Collects what the kernel answers to one request.

    Send `datagram`, then pass every datagram received to `feed` until it returns True. After that `error` is 0 or a
    positive errno, `explanation` is the kernel's sentence or "", `answers` holds the payloads in order, and
    `interrupted` says that the objects changed during the dump, so that the answers may contradict each other.
    """

    __slots__ = ("_dump", "_sequence", "answers", "datagram", "error", "explanation", "interrupted")

    def __init__(self, request: Request, sequence: int) -> None:
        self._sequence = sequence
        self._dump = request.flags & NLM_F_DUMP == NLM_F_DUMP and _is_read(request.kind)
        # Without the acknowledgement a lookup of a single object would end with its answer, a change with nothing.
        flags = request.flags | NLM_F_REQUEST | (0 if self._dump else NLM_F_ACK)
        self.datagram = encode_message(Message(request.kind, flags, sequence, 0, request.payload))
        self.answers: list[bytes] = []
        self.error = 0
        self.explanation = ""
        self.interrupted = False

    def feed(self, datagram: bytes) -> bool:
        """Take one datagram; return True when the exchange is over. Answers to other requests are passed over."""
        for message in parse_messages(datagram):
            # A late answer to a request that ran out of time is still in the socket's queue.
            if message.sequence != self._sequence or message.kind == _NLMSG_NOOP:
                continue
            if message.flags & NLM_F_DUMP_INTR and self._dump:
                self.interrupted = True
            if message.kind in {_NLMSG_ERROR, _NLMSG_DONE}:
                self._conclude(message)
                return True
            if message.kind == _NLMSG_OVERRUN:
                raise ProtocolError("the kernel lost netlink data on its way to this socket")
            self.answers.append(message.payload)
        return False

    def _conclude(self, message: Message) -> None:
        # NLMSG_DONE of a kernel before 4.4 may come without a number.
        if len(message.payload) < _VERDICT.size:
            if message.kind == _NLMSG_ERROR:
                raise ProtocolError(f"netlink error message of {len(message.payload)} bytes, at least 4 belong there")
            return
        self.error = -_VERDICT.unpack_from(message.payload)[0]
        if message.flags & _NLM_F_ACK_TLVS:
            offset = _VERDICT.size
            if message.kind == _NLMSG_ERROR:
                offset += _echo_length(message)
            self.explanation = read_text(parse_attributes(message.payload, offset), _NLMSGERR_ATTR_MSG)


def _is_read(kind: int) -> bool:
    # NLM_F_DUMP shares its bits with NLM_F_REPLACE and NLM_F_EXCL. rtnetlink numbers its messages in fours,
    # NEW, DEL, GET, SET, so the remainder tells which meaning applies. Source: rtnetlink_rcv_msg in the kernel.
    return kind % 4 == 2


def _echo_length(message: Message) -> int:
    # The rejected request comes back whole, or its header only when the socket asked for that.
    if len(message.payload) < _VERDICT.size + _HEADER.size:
        raise ProtocolError(f"netlink error message of {len(message.payload)} bytes does not hold the rejected header")
    if message.flags & _NLM_F_CAPPED:
        return _HEADER.size
    length: int = _HEADER.unpack_from(message.payload, _VERDICT.size)[0]
    return length + -length % 4
