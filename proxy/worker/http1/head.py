# cython: boundscheck=False, wraparound=False
"""Heads of HTTP/1.1 messages: bytes in, one validated struct out. The only parser there is.

HOT PATH, compiled: `head.pxd` gives the types, `setup.py` compiles this source as it stands, and without
a compiler it runs as plain Python, slower and otherwise the same. Hence the style: loops over bytes with
an integer index, tables instead of expressions.

Reject, don't repair (RFC 9112): whatever is malformed, or could be read in two ways, raises
`HeadError`. What is kept for forwarding are spans of validated lines; nothing else is ever copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product
from typing import Final

from proxy import errors
from proxy.errors import ErrorCode
from proxy.settings import Limits

CHUNKED: Final = -1  # as a body length: the body says itself where it ends
UNTIL_CLOSE: Final = -2  # as a body length, responses only: it ends with the connection

# What a byte may be part of, as bits of a table with a cell per byte.
_TOKEN_BIT, _VALUE_BIT, _TARGET_BIT, _NAME_BIT, _DIGIT_BIT, _ID_BIT = 1, 2, 4, 8, 16, 32


def _byte_classes() -> bytes:
    cells = bytearray(256)
    for byte in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        cells[byte] |= _TOKEN_BIT
    for byte in range(256):
        if byte == 9 or (byte >= 32 and byte != 127):  # obs-text passes untouched
            cells[byte] |= _VALUE_BIT
        if 33 <= byte <= 126 and byte != 35:  # "#" starts a fragment, which is never sent
            cells[byte] |= _TARGET_BIT
    for byte in b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._~!$&'()*+;=%-":
        cells[byte] |= _NAME_BIT  # of a registered name in a Host header
    for byte in b"0123456789":
        cells[byte] |= _DIGIT_BIT
    for byte in b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._=+/-":
        cells[byte] |= _ID_BIT  # of a request id that may stand in a log, a page and a header
    return bytes(cells)


_CLASS: Final = _byte_classes()
_VERSION = re.compile(rb"HTTP/([0-9])\.([0-9])")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BRACKETED_HOST = re.compile(rb"\[[0-9A-Fa-f:.]+\](?::([0-9]{1,5}))?")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
_CODINGS = re.compile(rb"[!#-'*+\-.^-z|~0-9A-Z]+(?:[ \t]*,[ \t]*[!#-'*+\-.^-z|~0-9A-Z]+)*")
_REQUEST_ID_BYTES_MAX: Final = 128
_WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")  # 16 bytes in base64 (RFC 6455 section 4.1)
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:.*[, ])?timeout=([0-9]{1,6})(?:[, ].*)?", re.IGNORECASE)
_LENGTH_DIGITS_MAX: Final = 19
_LENGTH_MAX: Final = 2**63 - 1
_METHOD_BYTES_MAX: Final = 32
_GET: Final = b"GET"
_PORT_MAX: Final = 65_535
_MALFORMED: Final = errors.RESPONSE_MALFORMED
_NOT_SERVED: Final = frozenset((b"TRACE", b"TRACK", b"CONNECT"))
_METHODS_WITH_BODY: Final = frozenset((b"POST", b"PUT", b"PATCH"))

# What a header name means to this parser. A name that is not here is kept as it stands.
(
    _HOST_FIELD, _LENGTH, _CODING, _CONNECTION, _UPGRADE, _EXPECT, _DROP, _REFUSE,
    _FORWARDED_FOR, _FORWARDED_PROTO, _ID, _KEEP_ALIVE,
) = range(12)  # fmt: skip

_FORWARDING: Final = (
    b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-host",
    b"x-real-ip",
)  # fmt: skip
# A Connection header that names one of these would make the next hop lose it (reliability S44).
_NOT_NOMINABLE: Final = frozenset(
    (
        *_FORWARDING, b"host", b"content-length", b"transfer-encoding", b"cookie", b"authorization",
        b"x-request-id",
    )
)  # fmt: skip
_NOT_NOMINABLE_BEGINNINGS: Final = (b"x-forwarded-", b"x-anyport-")
_CONNECTION_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade", b""))
_KEEP_ALIVE_ALONE: Final = frozenset((b"keep-alive", b"Keep-Alive"))
_COMMON_CONNECTION: Final = {
    b"keep-alive": frozenset((b"keep-alive",)),
    b"close": frozenset((b"close",)),
    b"Keep-Alive": frozenset((b"keep-alive",)),
    b"Upgrade": frozenset((b"upgrade",)),
}
_HOP: Final = (b"keep-alive", b"proxy-connection", b"te", b"trailer", b"http2-settings")


def _lookalikes(names: Iterable[bytes]) -> dict[bytes, int]:
    """Return the spellings with "_" for "-" of *names*: some servers read them as the real ones (S11)."""
    twins: dict[bytes, int] = {}
    for name in names:
        parts = name.split(b"-")
        for joints in product(b"-_", repeat=len(parts) - 1):
            twin = parts[0] + b"".join(bytes([j]) + p for j, p in zip(joints, parts[1:], strict=True))
            if twin != name:
                twins[twin] = _REFUSE
    return twins


_REQUEST_FIELDS: Final[dict[bytes, int]] = {
    **_lookalikes((*_FORWARDING, b"content-length", b"transfer-encoding", b"x-request-id")),
    b"host": _HOST_FIELD,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"expect": _EXPECT,
    **dict.fromkeys(_FORWARDING, _DROP),
    b"x-forwarded-for": _FORWARDED_FOR,
    b"x-forwarded-proto": _FORWARDED_PROTO,
    b"x-request-id": _ID,
    b"x-anyport-attempt": _DROP,  # ours to say, and only of a retry
    **dict.fromkeys(_HOP, _DROP),
}
_RESPONSE_FIELDS: Final[dict[bytes, int]] = {
    **_lookalikes((b"content-length", b"transfer-encoding")),
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"x-anyport-error": _DROP,  # ours to say: a backend must not be able to forge it
    **dict.fromkeys(_HOP, _DROP),
    b"keep-alive": _KEEP_ALIVE,
}
# As most of the world writes them, so that most look-ups need no lower().
_REQUEST_FIELDS.update({name.title(): meaning for name, meaning in _REQUEST_FIELDS.items()})
_RESPONSE_FIELDS.update({name.title(): meaning for name, meaning in _RESPONSE_FIELDS.items()})
_NAME_BYTES_MAX: Final = 32  # no name above is longer


def _shapes(fields: Iterable[bytes]) -> bytes:
    """Return a table that says, for a name's (length, first letter), whether it is worth a look-up."""
    cells = bytearray(_NAME_BYTES_MAX * 32)
    for name in fields:
        cells[len(name) * 32 + (name[0] & 31)] = 1
    return bytes(cells)


_REQUEST_SHAPES: Final = _shapes(_REQUEST_FIELDS)
_RESPONSE_SHAPES: Final = _shapes(_RESPONSE_FIELDS)


class HeadError(Exception):
    """The head is refused. `status` may be more precise than the code's usual one."""

    def __init__(self, error: ErrorCode, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail
        self.status = status or error.status


class HeadLimits:
    """The limits on heads, as the parser reads them."""

    __slots__ = (
        "request_head_bytes", "request_header_bytes", "request_headers", "request_line_bytes",
        "response_head_bytes", "response_headers",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self.request_line_bytes = limits.request_line_bytes
        self.request_head_bytes = limits.request_head_bytes
        self.request_header_bytes = limits.request_header_bytes
        self.request_headers = limits.request_headers
        self.response_head_bytes = limits.response_head_bytes
        self.response_headers = limits.response_headers


class RequestHead:
    """What the proxy needs to know of a request."""

    __slots__ = (
        "expects_continue", "forwarded_for", "forwarded_proto", "host", "keep_alive", "length", "lines",
        "method", "minor", "path", "request_id", "size", "target", "upgrade",
    )  # fmt: skip

    def __init__(self) -> None:
        self.lines = b""  # request line and header lines to send on, each with CRLF; one framing header
        self.method = b""
        self.target = b""  # as it will be sent on: origin-form, or * of OPTIONS
        self.path = b""  # the target without its query
        self.minor = 1  # 0 or 1, of HTTP/1.x
        self.size = 0  # of the head as it came, in bytes
        self.host = b""  # as the client wrote it; b"" only in HTTP/1.0
        self.length = 0  # of the body; 0 none, CHUNKED
        self.keep_alive = True
        self.upgrade = b""  # the protocol asked for, lower case; b"" none
        self.expects_continue = False
        self.request_id = b""  # the client's, if it is fit to be logged, and then in `lines` too; else b""
        self.forwarded_for = b""  # what the client's proxies say: to be believed if the peer is trusted
        self.forwarded_proto = b""


class ResponseHead:
    """What the proxy needs to know of a response."""

    __slots__ = ("keep_alive", "keep_alive_s", "length", "lines", "status", "upgrade")

    def __init__(self) -> None:
        self.lines = b""  # status line and header lines to send on, each with CRLF; no Transfer-Encoding
        self.status = 0
        self.length = 0  # of the body that follows: 0, n, CHUNKED or UNTIL_CLOSE
        self.keep_alive = True
        self.keep_alive_s = (
            -1
        )  # for how long the backend says it keeps an idle connection; -1 it does not say
        self.upgrade = b""


def find_end(buffer: bytes, start: int, limit: int) -> int:
    """Return the offset behind the blank line that ends the head in *buffer*, or -1 if it is not there yet.

    *start* is how far an earlier call has looked. Raises `HeadError` as soon as no continuation can
    make it a head, so that a client is not left waiting for its timeout.
    """
    end = _blank_line(buffer, start - 3 if start > 3 else 0, len(buffer))
    if end >= 0 and end + 4 <= limit:
        return end + 4
    if end >= 0 or len(buffer) > limit:
        in_first_line = buffer.find(b"\r\n", 0, limit) < 0
        raise HeadError(
            errors.HEAD_TOO_LARGE, f"the head is larger than {limit} bytes", 414 if in_first_line else 0
        )
    if _BARE_LF.search(buffer, max(0, start - 1)):
        raise HeadError(errors.BAD_REQUEST, "a line ends in LF without CR")
    return -1


def _blank_line(data: bytes, at: int, size: int) -> int:
    """Return the offset of the first CR LF CR LF from *at* on, or -1. Looks at every fourth byte of text."""
    at += 3
    while at < size:
        last = data[at]
        if last == 10:
            if data[at - 1] == 13 and data[at - 2] == 10 and data[at - 3] == 13:
                return at - 3
            at += 2  # it may be the first LF of two
        elif last == 13:
            at += 1
        else:
            at += 4
    return -1


def _token_end(data: bytes, at: int) -> int:
    """Return the offset of the first byte from *at* on that no token holds."""
    while _CLASS[data[at]] & _TOKEN_BIT:
        at += 1
    return at


def _value_end(data: bytes, at: int) -> int:
    """Return the offset of the first byte from *at* on that no field value holds."""
    while _CLASS[data[at]] & _VALUE_BIT:
        at += 1
    return at


def _trimmed(data: bytes, start: int, end: int) -> bytes:
    """Return the part of *data* without the blanks around it."""
    while start < end and (data[start] == 32 or data[start] == 9):
        start += 1
    while end > start and (data[end - 1] == 32 or data[end - 1] == 9):
        end -= 1
    return data[start:end]


def parse_request(head: bytes, limits: HeadLimits) -> RequestHead:
    """Return the request that *head* begins with; there is a blank line in it, and `size` says where.

    Every loop below ends at the latest at the CR of that blank line, so no index runs past the end.
    """
    request = RequestHead()
    size = len(head)
    raw = head
    at = _token_end(raw, 0)
    if at == 0 or raw[at] != 32:
        raise _refused_request_line(head, limits)
    # The usual one is always the same object: it is looked up several times, and keeps its hash.
    method = _GET if at == 3 and raw[0] == 71 and raw[1] == 69 and raw[2] == 84 else raw[:at]
    target_at = at = at + 1
    query_at = 0
    while _CLASS[raw[at]] & _TARGET_BIT:
        if raw[at] == 63 and not query_at:  # "?"
            query_at = at
        at += 1
    if (
        at == target_at
        or at + 11 > size
        or not head.startswith(b" HTTP/1.", at)
        or not 48 <= raw[at + 8] <= 49  # "0" or "1"
        or raw[at + 9] != 13
        or raw[at + 10] != 10
        or at + 9 > limits.request_line_bytes
    ):
        raise _refused_request_line(head, limits)
    if method in _NOT_SERVED:
        raise HeadError(errors.PROTOCOL_REFUSED, "this method is not served")
    if len(method) > _METHOD_BYTES_MAX:
        raise HeadError(errors.BAD_REQUEST, "the method is too long")
    minor = raw[at + 8] - 48
    target = raw[target_at:at]
    request.method, request.target, request.minor = method, target, minor
    request.path = raw[target_at:query_at] if query_at else target

    host: bytes | None = None
    coding: bytes | None = None
    connection: bytes | None = None
    upgrade: bytes | None = None
    length = -1
    length_in_place = False
    at += 11
    anew = not minor or raw[target_at] != 47  # "/": else the request line is kept as well
    kept_at = at if anew else 0
    count = 0
    spans: list[bytes] = []
    field_bytes_max = limits.request_header_bytes
    while raw[at] != 13 or raw[at + 1] != 10:
        name_at = at
        colon = _token_end(raw, at)
        if colon == name_at or raw[colon] != 58:  # ":"
            raise HeadError(errors.BAD_REQUEST, "a header line is malformed")
        at = _value_end(raw, colon + 1)
        if raw[at] != 13 or raw[at + 1] != 10:
            raise HeadError(errors.BAD_REQUEST, "a header line is malformed")
        at += 2
        count += 1
        if at - name_at > field_bytes_max:
            raise HeadError(errors.HEAD_TOO_LARGE, f"a header is larger than {field_bytes_max} bytes")
        name_bytes = colon - name_at
        if name_bytes >= _NAME_BYTES_MAX or not _REQUEST_SHAPES[name_bytes * 32 + (raw[name_at] & 31)]:
            continue
        name = raw[name_at:colon]
        meaning = _REQUEST_FIELDS.get(name)
        if meaning is None:
            meaning = _REQUEST_FIELDS.get(name.lower())
        if meaning is None:
            continue
        value = _trimmed(raw, colon + 1, at - 2)
        if meaning == _HOST_FIELD:
            if host is not None:
                raise HeadError(errors.BAD_REQUEST, "more than one Host header")
            host = value
            continue
        if meaning == _ID:
            if not request.request_id and _is_request_id(value):
                request.request_id = value
                continue
        elif meaning == _LENGTH:
            if length >= 0:
                raise HeadError(errors.BAD_REQUEST, "more than one Content-Length")
            length = _body_length(value, errors.BAD_REQUEST)
            if value[0] != 48 or len(value) == 1:  # else it has leading zeros, and is written anew
                length_in_place = True
                continue
        elif meaning == _CODING:
            if coding is not None:
                raise HeadError(errors.BAD_REQUEST, "more than one Transfer-Encoding")
            coding = value
        elif meaning == _CONNECTION:
            connection = value if connection is None else connection + b"," + value
        elif meaning == _REFUSE:
            raise HeadError(errors.BAD_REQUEST, "a header name imitates one that frames or forwards")
        elif meaning == _EXPECT:
            if request.expects_continue or value.lower() != b"100-continue":
                raise HeadError(errors.PROTOCOL_REFUSED, "only Expect: 100-continue is understood", 417)
            if minor:  # HTTP/1.0 does not know it (RFC 9110 section 10.1.1)
                request.expects_continue = True
                continue
        elif meaning == _UPGRADE:
            upgrade = value if upgrade is None else upgrade + b"," + value
        elif meaning == _FORWARDED_FOR:
            request.forwarded_for = request.forwarded_for + b", " + value if request.forwarded_for else value
        elif meaning == _FORWARDED_PROTO:
            request.forwarded_proto = value
        # This line does not go on: close the span of kept lines before it.
        if kept_at < name_at:
            spans.append(raw[kept_at:name_at])
        kept_at = at
    if count > limits.request_headers:
        raise HeadError(errors.HEAD_TOO_LARGE, f"more than {limits.request_headers} headers")

    keep_alive = minor == 1
    if connection is not None:
        tokens = _connection_tokens(connection)
        if b"close" in tokens:
            keep_alive = False
        elif not minor and b"keep-alive" in tokens:
            keep_alive = True
        if upgrade is not None and b"upgrade" in tokens:
            request.upgrade = upgrade.lower()
    else:
        tokens = None
    request.keep_alive = keep_alive
    added = b""
    if coding is not None:
        if length >= 0:
            raise HeadError(errors.BAD_REQUEST, "both Content-Length and Transfer-Encoding")
        _only_chunked(coding, minor)
        length = CHUNKED
        added = b"Transfer-Encoding: chunked\r\n"
    elif length < 0:
        length = 0
        if method in _METHODS_WITH_BODY:
            added = b"Content-Length: 0\r\n"
    elif not length_in_place:
        added = b"Content-Length: %d\r\n" % length
    request.length = length
    if host is None:
        if minor:
            raise HeadError(errors.HOST_MISSING, "no Host header")
        host = b""
        added += b"Host: \r\n"
    elif not _is_host(host):
        raise HeadError(errors.BAD_REQUEST if host else errors.HOST_MISSING, "the Host header is not a host")
    request.host = host

    request.size = at + 2
    if kept_at < at:
        spans.append(raw[kept_at:at])
    request.lines = _joined(spans, added)
    if anew:
        _write_request_line(request)
    if tokens is not None:
        _drop_nominated(request, tokens)
    if request.upgrade:
        _check_upgrade(request)
    if not minor and length and method in (b"GET", b"HEAD", b"DELETE"):
        raise HeadError(errors.BAD_REQUEST, "an HTTP/1.0 request of this method has no body")
    return request


def _joined(spans: list[bytes], added: bytes) -> bytes:
    lines = spans[0] if len(spans) == 1 else b"".join(spans)
    return lines + added if added else lines


def _write_request_line(request: RequestHead) -> None:
    """Put the request line before the `lines`, and settle a target that is no path (RFC 9112 section 3.2)."""
    host = b""
    if request.target[:1] != b"/":
        host, request.target = _other_target(request.method, request.target, request.host)
        request.host = host
        request.path = request.target.partition(b"?")[0]
    request.lines = b"%b %b HTTP/1.1\r\n%b" % (request.method, request.target, request.lines)
    if host:
        request.lines = _without(request.lines, frozenset((b"host",))) + b"Host: %b\r\n" % host


def _check_upgrade(request: RequestHead) -> None:
    """Leave only an upgrade that may go through."""
    if not request.minor or request.length or request.upgrade != b"websocket":
        # A second protocol behind our back, or a body before it: it goes on without the upgrade (S42).
        request.upgrade = b""
        return
    if request.method != b"GET":
        raise HeadError(errors.BAD_REQUEST, "a WebSocket handshake is a GET")
    if _WEBSOCKET_KEY.fullmatch(field_value(request.lines, b"sec-websocket-key")) is None:
        raise HeadError(errors.BAD_REQUEST, "Sec-WebSocket-Key is not one key of 16 bytes in base64")
    if field_value(request.lines, b"sec-websocket-version") != b"13":
        raise HeadError(errors.BAD_REQUEST, "Sec-WebSocket-Version is not 13")


def parse_response(head: bytes, method: bytes, limits: HeadLimits) -> ResponseHead:
    """Return the response to a *method* request whose head is *head*.

    The body length follows RFC 9112 section 6.3. Raises `HeadError` with response_malformed.
    """
    bad = _MALFORMED
    response = ResponseHead()
    size = len(head)
    raw = head
    if (
        size < 16
        or not head.startswith(b"HTTP/1.")
        or not 48 <= raw[7] <= 49
        or raw[8] != 32
        or not 49 <= raw[9] <= 53
        or not _CLASS[raw[10]] & _CLASS[raw[11]] & _DIGIT_BIT
        or (raw[12] != 32 and raw[12] != 13)
    ):
        raise HeadError(bad, "the status line is malformed")
    minor = raw[7] - 48
    status = (raw[9] - 48) * 100 + (raw[10] - 48) * 10 + raw[11] - 48
    line_end = at = _value_end(raw, 12)
    if raw[at] != 13 or raw[at + 1] != 10:
        raise HeadError(bad, "the status line is malformed")
    at += 2
    coding = False
    connection: bytes | None = None
    length = -1
    no_length = status < 200 or status == 204
    anew = not minor or raw[12] != 32  # else the status line is kept as well
    kept_at = at if anew else 0
    count = 0
    spans: list[bytes] = []
    added = b""
    last = size - 2
    while at < last:
        name_at = at
        colon = _token_end(raw, at)
        if colon == name_at or raw[colon] != 58:
            raise HeadError(bad, "a header line is malformed")
        at = _value_end(raw, colon + 1)
        if raw[at] != 13 or raw[at + 1] != 10:
            raise HeadError(bad, "a header line is malformed")
        at += 2
        count += 1
        name_bytes = colon - name_at
        if name_bytes >= _NAME_BYTES_MAX or not _RESPONSE_SHAPES[name_bytes * 32 + (raw[name_at] & 31)]:
            continue
        name = raw[name_at:colon]
        meaning = _RESPONSE_FIELDS.get(name)
        if meaning is None:
            meaning = _RESPONSE_FIELDS.get(name.lower())
        if meaning is None:
            continue
        value = _trimmed(raw, colon + 1, at - 2)
        if meaning == _LENGTH:
            if length >= 0:
                raise HeadError(bad, "more than one Content-Length")
            length = _body_length(value, bad)
            if not no_length:
                if value[0] != 48 or len(value) == 1:
                    continue
                added = b"Content-Length: %d\r\n" % length
        elif meaning == _CONNECTION:
            connection = value if connection is None else connection + b"," + value
        elif meaning == _CODING:
            if coding or value.lower() != b"chunked":
                raise HeadError(bad, "Transfer-Encoding is not exactly chunked")
            coding = True
        elif meaning == _UPGRADE:
            response.upgrade = value.lower()
        elif meaning == _KEEP_ALIVE:
            timeout = _KEEP_ALIVE_TIMEOUT.fullmatch(value)
            if timeout is not None:
                response.keep_alive_s = int(timeout[1])
        elif meaning == _REFUSE:
            raise HeadError(bad, "a header name imitates one that frames")
        if kept_at < name_at:
            spans.append(raw[kept_at:name_at])
        kept_at = at
    if count > limits.response_headers:
        raise HeadError(bad, f"more than {limits.response_headers} headers")
    if coding and (length >= 0 or not minor):
        raise HeadError(bad, "Transfer-Encoding with Content-Length or in HTTP/1.0")

    if no_length or status == 304 or method == b"HEAD":
        follows = 0
    elif coding:
        follows = CHUNKED
    else:
        follows = UNTIL_CLOSE if length < 0 else length
    response.status, response.length = status, follows
    if kept_at < last:
        spans.append(raw[kept_at:last])
    response.lines = _joined(spans, added)
    if anew:
        reason = raw[13:line_end] if line_end > 13 else b""
        response.lines = b"HTTP/1.1 %d %b\r\n%b" % (status, reason, response.lines)
    keep_alive = minor == 1
    if connection is not None and connection in _KEEP_ALIVE_ALONE:  # what nearly all say who say something
        keep_alive = True
    elif connection is not None:
        tokens = _connection_tokens(connection)
        keep_alive = b"close" not in tokens and (keep_alive or b"keep-alive" in tokens)
        names = tokens - _CONNECTION_OPTIONS
        if names:
            if names & _NOT_NOMINABLE:
                raise HeadError(bad, "the Connection header names a header that must not be dropped")
            response.lines = _without(response.lines, names)
    response.keep_alive = keep_alive and follows != UNTIL_CLOSE
    return response


def field_value(lines: bytes, name: bytes) -> bytes:
    """Return the value of header *name* (lower case) in *lines*, or b"". Not for the hot path.

    Several headers of the name give their values joined by commas (RFC 9110 section 5.3).
    """
    values = []
    for line in lines.split(b"\r\n")[1:]:
        colon = line.find(b":")
        if line[:colon].lower() == name:
            values.append(line[colon + 1 :].strip(b" \t"))
    return b", ".join(values)


def _without(lines: bytes, names: frozenset[bytes]) -> bytes:
    """Return *lines*, whose first is no header, less the headers of *names* (lower case)."""
    first, *fields = lines.split(b"\r\n")
    kept = [field for field in fields if field.partition(b":")[0].lower() not in names]
    return b"\r\n".join([first, *kept])


def _is_host(value: bytes) -> bool:
    """Return whether *value* is uri-host [":" port] (RFC 9110 section 7.2)."""
    size = len(value)
    at = 0
    while at < size and _CLASS[value[at]] & _NAME_BIT:
        at += 1
    if at == size:
        return size > 0
    if at == 0 and value[0] == 91:  # "[", an IPv6 literal
        literal = _BRACKETED_HOST.fullmatch(value)
        return literal is not None and int(literal[1] or 0) <= _PORT_MAX
    if value[at] != 58 or at == 0 or size - at > 6 or size - at < 2:  # ":" and at most five digits
        return False
    at += 1
    port = 0
    while at < size and _CLASS[value[at]] & _DIGIT_BIT:
        port = port * 10 + value[at] - 48
        at += 1
    return at == size and port <= _PORT_MAX


def _is_request_id(value: bytes) -> bool:
    size = len(value)
    at = 0
    while at < size and _CLASS[value[at]] & _ID_BIT:
        at += 1
    return 0 < size <= _REQUEST_ID_BYTES_MAX and at == size


def _body_length(value: bytes, error: ErrorCode) -> int:
    size = len(value)
    at = length = 0
    if 0 < size <= _LENGTH_DIGITS_MAX:
        while at < size and _CLASS[value[at]] & _DIGIT_BIT:
            length = length * 10 + value[at] - 48
            at += 1
        if at == size and length <= _LENGTH_MAX:
            return length
    raise HeadError(error, "Content-Length is not one decimal number below 2^63")


def _only_chunked(coding: bytes, minor: int) -> None:
    if not minor:
        raise HeadError(errors.BAD_REQUEST, "Transfer-Encoding in HTTP/1.0")
    coding = coding.lower()
    if coding != b"chunked":
        before_the_last = [name.strip(b" \t") for name in coding.split(b",")]
        before_the_last.pop()
        if _CODINGS.fullmatch(coding) and b"chunked" not in before_the_last:
            raise HeadError(errors.PROTOCOL_REFUSED, "this transfer coding is not implemented", 501)
        raise HeadError(errors.BAD_REQUEST, "Transfer-Encoding is not exactly chunked")


def _connection_tokens(value: bytes) -> frozenset[bytes]:
    known = _COMMON_CONNECTION.get(value)
    if known is not None:
        return known
    return frozenset([token.strip(b" \t") for token in value.lower().split(b",")])


def _drop_nominated(request: RequestHead, tokens: frozenset[bytes]) -> None:
    """Remove what the Connection header wants removed (RFC 9110 section 7.6.1)."""
    names = tokens - _CONNECTION_OPTIONS
    if names:
        if names & _NOT_NOMINABLE or any(name.startswith(_NOT_NOMINABLE_BEGINNINGS) for name in names):
            raise HeadError(
                errors.BAD_REQUEST, "the Connection header names a header that must not be dropped"
            )
        request.lines = _without(request.lines, names)


def _other_target(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """Return (host, origin-form target) of a target that is not a path."""
    if target == b"*" and method == b"OPTIONS":
        return host, target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not _is_host(absolute[1]):
        raise HeadError(errors.BAD_REQUEST, "the request target is neither a path nor an http URL")
    authority, rest = absolute[1], absolute[2] or b"/"
    if host and host.lower() != authority.lower():
        raise HeadError(errors.BAD_REQUEST, "the Host header and the request target disagree")
    return authority, rest if rest[:1] == b"/" else b"/" + rest


def _refused_request_line(head: bytes, limits: HeadLimits) -> HeadError:
    """Say as precisely as possible why *head* does not begin with a request line."""
    line = head[: head.find(b"\r\n")]
    if len(line) > limits.request_line_bytes:
        return HeadError(
            errors.HEAD_TOO_LARGE, f"the request line is larger than {limits.request_line_bytes} bytes", 414
        )
    if line == b"PRI * HTTP/2.0":
        return HeadError(errors.BAD_REQUEST, "this is HTTP/2, which is not served without being agreed on")
    version = _VERSION.fullmatch(line[line.rfind(b" ") + 1 :])
    if version and version[1] >= b"2":
        return HeadError(errors.PROTOCOL_REFUSED, "this HTTP version is not served", 505)
    return HeadError(errors.BAD_REQUEST, "the request line is malformed")
