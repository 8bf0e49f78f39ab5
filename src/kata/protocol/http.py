"""HTTP/1.1 as the management socket and the node's monitor speak it: both ends, without the connection.

What they need of RFC 9112 and no more: bodies with a Content-Length, persistent connections, `Expect: 100-continue`.
A message has bounds before it is read, so a peer cannot make this process hold more than `MAX_HEAD` and the body's
limit. The standard library's server with its parser would cost a pod's daemon 2.9 MB and 25 ms, this 0.2 MB and 6 ms.
"""

from typing import NamedTuple

from kata.errors import ProtocolError

MAX_HEAD = 16 << 10
"""Bytes of a start line with all header fields."""

MAX_BODY = 1 << 20
"""Bytes of a request's body."""

TEXT = "text/plain; charset=utf-8"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}
"""The statuses in use. Source: RFC 9110, section 15."""

_END = b"\r\n\r\n"
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_HEX = frozenset("0123456789abcdefABCDEF")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/")
_VERSIONS = ("HTTP/1.1", "HTTP/1.0")
_EMPTY: dict[str, str] = {}


class RefusedError(ProtocolError):
    """A request that cannot be served. `status` is what its sender is told before the connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request(NamedTuple):
    """A request. `query` has decoded names and values, `headers` lower-case names; `last` says that none may follow."""

    method: str
    path: str
    query: dict[str, str] = _EMPTY
    headers: dict[str, str] = _EMPTY
    body: bytes = b""
    last: bool = False


class Response(NamedTuple):
    """A response. `headers` has lower-case names in what was read, any in what is to be sent."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = _EMPTY


class RequestReader:
    """The server's end. Feed bytes with `feed`, then take requests one at a time with `next`."""

    def __init__(self, *, max_body: int = MAX_BODY) -> None:
        self._held = bytearray()
        self._max_body = max_body
        self._head: Request | None = None
        self._length = 0
        self._expects = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a further request has come."""
        return not self._held and self._head is None

    def feed(self, data: bytes) -> None:
        self._held += data

    def next(self) -> Request | None:
        """Return the next whole request, or None until more has come. Raise RefusedError: the connection has to end."""
        if self._head is None:
            lines = _take_head(self._held)
            if lines is None:
                return None
            self._head = self._read_head(lines)
        if len(self._held) < self._length:
            return None
        request = self._head._replace(body=bytes(self._held[: self._length]))
        del self._held[: self._length]
        self._head, self._expects = None, False
        return request

    def take_interim(self) -> bytes:
        """Return what a client that waits for leave to send its body is to be sent now, once; mostly nothing."""
        if self._expects and self._head is not None and not self._held:
            self._expects = False
            return CONTINUE
        return b""

    def _read_head(self, lines: list[str]) -> Request:
        words = lines[0].split(" ")
        if len(words) != 3 or not _is_token(words[0]) or not words[1]:
            raise RefusedError(400, "the request line is not `METHOD TARGET HTTP/1.1`")
        method, target, version = words
        if version not in _VERSIONS:
            raise RefusedError(505, f"the version {version[:20]!r} is not HTTP/1.1")
        headers = _read_fields(lines[1:])
        if "host" not in headers and version == "HTTP/1.1":
            raise RefusedError(400, "the request has no Host")
        if "transfer-encoding" in headers:
            raise RefusedError(411, "a body needs a Content-Length here: Transfer-Encoding is not understood")
        self._length = _read_length(headers.get("content-length", "0"))
        if self._length > self._max_body:
            raise RefusedError(413, f"a body of {self._length} bytes is over the limit of {self._max_body}")
        expected = headers.get("expect", "").lower()
        if expected not in ("", "100-continue"):
            raise RefusedError(417, f"the expectation {expected[:40]!r} cannot be met")
        self._expects = bool(expected) and self._length > 0
        path, query = _read_target(target)
        return Request(method, path, query, headers, b"", _says_close(headers, version))


_BODILESS = {"204", "304"}
"""Statuses whose responses end with their head, whatever it says (RFC 9112, section 6.3)."""


class ResponseReader:
    """The client's end: reads one response, which ends at its Content-Length or with the connection."""

    def __init__(self, *, max_body: int) -> None:
        self._held = bytearray()
        self._max_body = max_body
        self._head: Response | None = None
        self._length: int | None = None

    def feed(self, data: bytes) -> Response | None:
        """Return the response when it is whole. Empty `data` says that the connection ended. Raise ProtocolError."""
        self._held += data
        while self._head is None:
            lines = _take_head(self._held)
            if lines is None:
                if not data:
                    raise ProtocolError("the connection ended before the HTTP response's head did")
                return None
            self._head = self._read_head(lines)
        if len(self._held) > self._max_body:
            raise ProtocolError(f"the body of the HTTP response is over the limit of {self._max_body} bytes")
        if self._length is None:
            return None if data else self._head._replace(body=bytes(self._held))
        if len(self._held) >= self._length:
            return self._head._replace(body=bytes(self._held[: self._length]))
        if not data:
            raise ProtocolError(f"the HTTP response ended after {len(self._held)} of {self._length} bytes")
        return None

    def _read_head(self, lines: list[str]) -> Response | None:
        version, _, rest = lines[0].partition(" ")
        code = rest.partition(" ")[0]
        if version not in _VERSIONS or not _is_number(code) or len(code) != 3:
            raise ProtocolError(f"{lines[0][:60]!r} is no HTTP status line")
        headers = _read_fields(lines[1:])
        if "transfer-encoding" in headers:
            raise ProtocolError("the HTTP response has a Transfer-Encoding, which was not asked for")
        if int(code) < 200:  # an interim response: the real one follows
            return None
        if code in _BODILESS:
            self._length = 0
        elif "content-length" in headers:
            self._length = _read_length(headers["content-length"])
        return Response(int(code), b"", headers)


def encode_request(
    method: str, target: str, *, body: bytes = b"", headers: dict[str, str] | None = None, host: str = "kata"
) -> bytes:
    """Return a request after which the connection ends. `target` is what `quote_target` returns."""
    fields = {"Host": host, "Connection": "close", **(headers or {})}
    if body:
        fields["Content-Length"] = str(len(body))
    return f"{method} {target} HTTP/1.1\r\n{_join(fields)}\r\n".encode("latin-1") + body


def encode_response(response: Response, *, close: bool, head_only: bool = False) -> bytes:
    """Return a response, as text unless its headers say otherwise. `head_only` leaves the body out, as HEAD asks."""
    fields = {"Content-Type": TEXT, **response.headers, "Content-Length": str(len(response.body))}
    if close:
        fields["Connection"] = "close"
    reason = REASONS.get(response.status, "Unknown")
    head = f"HTTP/1.1 {response.status} {reason}\r\n{_join(fields)}\r\n".encode("latin-1")
    return head if head_only else head + response.body


def quote_target(path: str, query: dict[str, str] | None = None) -> str:
    """Return a request target; what it decodes to is `path` and `query` again."""
    pairs = [f"{_quote(name)}={_quote(value)}" for name, value in (query or {}).items()]
    return _quote(path) + ("?" + "&".join(pairs) if pairs else "")


def _take_head(held: bytearray) -> list[str] | None:
    """Remove a message's head and return its lines; None until all of it has come. Raise RefusedError."""
    while held[:2] == b"\r\n":  # RFC 9112, section 2.2: an empty line before a request is to be ignored
        del held[:2]
    end = held.find(_END, 0, MAX_HEAD)
    if end < 0:
        if len(held) >= MAX_HEAD:
            raise RefusedError(431, f"the head of the message is over the limit of {MAX_HEAD} bytes")
        return None
    head = held[:end].decode("latin-1")
    del held[: end + len(_END)]
    lines = head.split("\r\n")
    if any("\n" in line or "\r" in line or "\0" in line for line in lines):
        raise RefusedError(400, "a line of the message's head does not end in CR LF")
    return lines


def _read_fields(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _is_token(name):
            raise RefusedError(400, f"{line[:40]!r} is no header field")
        name, value = name.lower(), value.strip(" \t")
        if name in fields:
            if name in ("content-length", "host") and fields[name] != value:
                raise RefusedError(400, f"the message has two fields {name}")
            value = value if fields[name] == value else f"{fields[name]}, {value}"
        fields[name] = value
    return fields


def _read_length(text: str) -> int:
    if not _is_number(text) or len(text) > 18:
        raise RefusedError(400, f"the Content-Length {text[:40]!r} is no number of bytes")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_token(text: str) -> bool:
    return bool(text) and _TOKEN.issuperset(text)


def _says_close(headers: dict[str, str], version: str) -> bool:
    options = [option.strip().lower() for option in headers.get("connection", "").split(",")]
    return "close" in options or (version == "HTTP/1.0" and "keep-alive" not in options)


def _read_target(target: str) -> tuple[str, dict[str, str]]:
    """Read `/path?query`, or the absolute form that RFC 9112, section 3.2.2 has servers accept."""
    scheme, found, rest = target.partition("://")
    if found and scheme.lower() in ("http", "https"):
        target = "/" + rest.partition("/")[2]
    if not target.startswith("/"):
        raise RefusedError(400, f"the target {target[:40]!r} does not begin with /")
    path, _, text = target.partition("#")[0].partition("?")
    query: dict[str, str] = {}
    for pair in text.split("&"):
        name, _, value = pair.replace("+", " ").partition("=")
        if name:
            query.setdefault(_unquote(name), _unquote(value))
    return _unquote(path), query


def _unquote(text: str) -> str:
    first, *parts = text.split("%")
    out = bytearray(first.encode("latin-1"))
    for part in parts:
        if len(part) < 2 or not _HEX.issuperset(part[:2]):
            raise RefusedError(400, f"the target has %{part[:2]}, which encodes nothing")
        out.append(int(part[:2], 16))
        out += part[2:].encode("latin-1")
    try:
        return out.decode()
    except UnicodeDecodeError:
        raise RefusedError(400, "the target is not UTF-8") from None


def _quote(text: str) -> str:
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in text.encode())


def _join(fields: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items())
