"""Heads of HTTP/1.1 messages: bytes in, one validated struct out. The only parser there is.

HOT PATH. Reject, don't repair (RFC 9112): whatever is malformed, or could be read in two ways, raises
`HeadError`. What is kept for forwarding is a span of validated lines; nothing else is ever copied.
Regular expressions here are `fullmatch` on explicit ASCII classes, and linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product
from typing import Final, NamedTuple

from proxy import errors
from proxy.errors import ErrorCode
from proxy.settings import Limits

CHUNKED: Final = -1  # as a body length: the body says itself where it ends
UNTIL_CLOSE: Final = -2  # as a body length, responses only: it ends with the connection

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!\"$-~]+) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
# No header name holds a colon and no value a line end, so there is one way to match and it is linear.
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb":[\t -~\x80-\xff]*\r\n)*")
_VERSION = re.compile(rb"HTTP/([0-9])\.([0-9])")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_DIGITS = re.compile(rb"[0-9]{1,19}")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._=+/-]{1,128}")
_LENGTH_MAX: Final = 2**63 - 1
_METHOD_BYTES_MAX: Final = 32
_NOT_SERVED: Final = frozenset((b"TRACE", b"TRACK", b"CONNECT"))

# What a header name means to this parser. A name that is not here is kept as it stands.
(
    _HOST_FIELD, _LENGTH, _CODING, _CONNECTION, _UPGRADE, _EXPECT, _DROP, _REFUSE,
    _FORWARDED_FOR, _FORWARDED_PROTO, _ID, _ACCEPT, _WS_KEY, _WS_ACCEPT,
) = range(14)  # fmt: skip

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
_CONNECTION_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade", b""))
# What nearly every Connection header says: taking it apart anew costs more than the rest of a response.
_USUAL_CONNECTION: Final = {
    value: frozenset((value.lower(),)) for value in (b"keep-alive", b"Keep-Alive", b"close", b"Upgrade")
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
    b"accept": _ACCEPT,
    b"sec-websocket-key": _WS_KEY,
    **dict.fromkeys(_HOP, _DROP),
}
_RESPONSE_FIELDS: Final[dict[bytes, int]] = {
    **_lookalikes((b"content-length", b"transfer-encoding")),
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"sec-websocket-accept": _WS_ACCEPT,
    b"x-anyport-error": _DROP,  # ours to say: a backend must not be able to forge it
    **dict.fromkeys(_HOP, _DROP),
}


class HeadError(Exception):
    """The head is refused. `status` may be more precise than the code's usual one."""

    def __init__(self, error: ErrorCode, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail
        self.status = status or error.status


class RequestHead(NamedTuple):
    """What the proxy needs to know of a request; `fields` are its kept header lines, each with CRLF."""

    method: bytes
    target: bytes  # origin-form, as it will be sent on
    path: bytes  # the target without its query
    minor: int  # 0 or 1, of HTTP/1.x
    host: bytes  # as the client wrote it; b"" only in HTTP/1.0
    length: int  # of the body; 0 none, CHUNKED
    keep_alive: bool
    upgrade: bytes  # the protocol asked for, lower case; b"" none
    expects_continue: bool
    fields: bytes
    request_id: bytes  # the client's, if it is fit to be logged, else b""
    forwarded_for: bytes  # what the client's proxies say; only to be believed if the peer is trusted
    forwarded_proto: bytes
    accept: bytes
    websocket_key: bytes


class ResponseHead(NamedTuple):
    """What the proxy needs to know of a response."""

    status: int
    status_line: bytes  # "HTTP/1.1 200 OK\r\n", whatever 1.x the backend speaks
    length: int  # of the body that follows: 0, n, CHUNKED or UNTIL_CLOSE
    keep_alive: bool
    upgrade: bytes
    fields: bytes  # kept header lines, each with CRLF; framing and connection headers are not among them
    websocket_accept: bytes
    declared_length: int  # Content-Length as sent, for HEAD and 304; -1 none


def find_end(buffer: bytes | bytearray, start: int, limit: int) -> int:
    """Return the offset behind the blank line that ends the head in *buffer*, or -1 if it is not there yet.

    *start* is how far an earlier call has looked. Raises `HeadError` as soon as no continuation can
    make it a head, so that a client is not left waiting for its timeout.
    """
    end = buffer.find(b"\r\n\r\n", max(0, start - 3))
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


def parse_request(head: bytes, limits: Limits) -> RequestHead:
    """Return the request whose head, up to and with its blank line, is *head*."""
    line_end = head.find(b"\r\n")
    line = _REQUEST_LINE.fullmatch(head, 0, line_end)
    if line is None or line_end > limits.request_line_bytes:
        raise _refused_request_line(head[:line_end], limits)
    method, target, minor_digit = line.groups()
    if method in _NOT_SERVED:
        raise HeadError(errors.PROTOCOL_REFUSED, "this method is not served")
    if len(method) > _METHOD_BYTES_MAX:
        raise HeadError(errors.BAD_REQUEST, "the method is too long")
    minor = minor_digit == b"1"
    block = head[line_end + 2 : -2]
    if _FIELDS.fullmatch(block) is None:
        raise HeadError(errors.BAD_REQUEST, "a header line is malformed")
    lines = block.split(b"\r\n")
    lines.pop()
    count = len(lines)
    if count > limits.request_headers:
        raise HeadError(errors.HEAD_TOO_LARGE, f"more than {limits.request_headers} headers")

    host: bytes | None = None
    length = coding = connection = upgrade = expect = None
    forwarded_for = forwarded_proto = request_id = accept = key = b""
    dropped: list[int] = []
    for index, field in enumerate(lines):
        colon = field.find(b":")
        meaning = _REQUEST_FIELDS.get(field[:colon].lower())
        if meaning is None:
            continue
        value = field[colon + 1 :].strip(b" \t")
        if meaning == _HOST_FIELD:
            if host is not None:
                raise HeadError(errors.BAD_REQUEST, "more than one Host header")
            host = value
        elif meaning == _ACCEPT:
            accept = value
        elif meaning == _CONNECTION:
            connection = value if connection is None else connection + b"," + value
            dropped.append(index)
        elif meaning == _LENGTH:
            if length is not None:
                raise HeadError(errors.BAD_REQUEST, "more than one Content-Length")
            length = _body_length(value, errors.BAD_REQUEST)
            dropped.append(index)
        elif meaning == _CODING:
            if coding is not None:
                raise HeadError(errors.BAD_REQUEST, "more than one Transfer-Encoding")
            coding = value
            dropped.append(index)
        elif meaning == _REFUSE:
            raise HeadError(errors.BAD_REQUEST, "a header name imitates one that frames or forwards")
        elif meaning == _EXPECT:
            if expect is not None or value.lower() != b"100-continue":
                raise HeadError(errors.PROTOCOL_REFUSED, "only Expect: 100-continue is understood", 417)
            expect = value
        elif meaning == _WS_KEY:
            key = value
        elif meaning == _ID:
            if _REQUEST_ID.fullmatch(value) and not request_id:
                request_id = value
            dropped.append(index)
        else:
            if meaning == _UPGRADE:
                upgrade = value if upgrade is None else upgrade + b"," + value
            elif meaning == _FORWARDED_FOR:
                forwarded_for = forwarded_for + b", " + value if forwarded_for else value
            elif meaning == _FORWARDED_PROTO:
                forwarded_proto = value
            dropped.append(index)

    if coding is not None:
        if length is not None:
            raise HeadError(errors.BAD_REQUEST, "both Content-Length and Transfer-Encoding")
        _only_chunked(coding, minor)
        length = CHUNKED
    elif length is None:
        length = 0
    if host is None:
        if minor:
            raise HeadError(errors.HOST_MISSING, "no Host header")
        host = b""
    elif _HOST.fullmatch(host) is None:
        raise HeadError(errors.BAD_REQUEST if host else errors.HOST_MISSING, "the Host header is not a host")
    if target[0] != 47:  # "/"
        host, target = _other_target(method, target, host)
        dropped += [i for i, field in enumerate(lines) if field[:5].lower() == b"host:"]
        lines.append(b"Host: " + host)
    if not minor and length and method in (b"GET", b"HEAD", b"DELETE"):
        raise HeadError(errors.BAD_REQUEST, "an HTTP/1.0 request of this method has no body")

    keep_alive = bool(minor)
    asks_upgrade = False
    if connection is not None:
        tokens = _connection_tokens(connection)
        if b"close" in tokens:
            keep_alive = False
        elif not minor and b"keep-alive" in tokens:
            keep_alive = True
        asks_upgrade = b"upgrade" in tokens
        dropped += _nominated(lines, tokens)
    wanted = b""
    if upgrade is not None and asks_upgrade and minor and not length:
        wanted = upgrade.lower()
        if b"h2c" in wanted:
            wanted = b""  # a second protocol behind our back: the request goes on without it (S42)
        elif wanted == b"websocket" and method != b"GET":
            raise HeadError(errors.BAD_REQUEST, "a WebSocket handshake is a GET")

    if dropped or len(lines) > count:
        for index in sorted(set(dropped), reverse=True):
            del lines[index]
        block = b"\r\n".join(lines) + b"\r\n" if lines else b""
    query = target.find(b"?")
    return RequestHead(
        method, target, target if query < 0 else target[:query], int(minor), host, length, keep_alive,
        wanted, expect is not None, block, request_id, forwarded_for, forwarded_proto, accept, key,
    )  # fmt: skip


def parse_response(head: bytes, method: bytes, limits: Limits) -> ResponseHead:
    """Return the response to a *method* request whose head is *head*.

    The body length follows RFC 9112 section 6.3. Raises `HeadError` with response_malformed.
    """
    bad = errors.RESPONSE_MALFORMED
    line_end = head.find(b"\r\n")
    line = _STATUS_LINE.fullmatch(head, 0, line_end)
    if line is None:
        raise HeadError(bad, "the status line is malformed")
    minor_digit, status_digits, reason = line.groups()
    status = int(status_digits)
    block = head[line_end + 2 : -2]
    if _FIELDS.fullmatch(block) is None:
        raise HeadError(bad, "a header line is malformed")
    lines = block.split(b"\r\n")
    lines.pop()
    if len(lines) > limits.response_headers:
        raise HeadError(bad, f"more than {limits.response_headers} headers")

    length = coding = connection = None
    upgrade = accept = b""
    dropped: list[int] = []
    for index, field in enumerate(lines):
        colon = field.find(b":")
        meaning = _RESPONSE_FIELDS.get(field[:colon].lower())
        if meaning is None:
            continue
        value = field[colon + 1 :].strip(b" \t")
        if meaning == _WS_ACCEPT:
            accept = value
            continue
        dropped.append(index)
        if meaning == _LENGTH:
            if length is not None:
                raise HeadError(bad, "more than one Content-Length")
            length = _body_length(value, bad)
        elif meaning == _CODING:
            if coding is not None or value.lower() != b"chunked":
                raise HeadError(bad, "Transfer-Encoding is not exactly chunked")
            coding = value
        elif meaning == _CONNECTION:
            connection = value if connection is None else connection + b"," + value
        elif meaning == _UPGRADE:
            upgrade = value.lower()
        elif meaning == _REFUSE:
            raise HeadError(bad, "a header name imitates one that frames")
    if coding is not None and (length is not None or minor_digit == b"0"):
        raise HeadError(bad, "Transfer-Encoding with Content-Length or in HTTP/1.0")

    keep_alive = minor_digit == b"1"
    if connection is not None:
        tokens = _connection_tokens(connection)
        keep_alive = b"close" not in tokens and (keep_alive or b"keep-alive" in tokens)
        for index in _nominated(lines, tokens, bad):
            if index not in dropped:
                dropped.append(index)
    if dropped:
        for index in sorted(dropped, reverse=True):
            del lines[index]
        block = b"\r\n".join(lines) + b"\r\n" if lines else b""
    declared = -1 if length is None or status == 204 or status < 200 else length
    if method == b"HEAD" or status < 200 or status == 204 or status == 304:
        follows = 0
    elif coding is not None:
        follows = CHUNKED
    else:
        follows = UNTIL_CLOSE if length is None else length
    return ResponseHead(
        status, b"HTTP/1.1 %b %b\r\n" % (status_digits, reason or b""), follows,
        keep_alive and follows != UNTIL_CLOSE, upgrade, block, accept, declared,
    )  # fmt: skip


def _body_length(value: bytes, error: ErrorCode) -> int:
    if _DIGITS.fullmatch(value) is None or (length := int(value)) > _LENGTH_MAX:
        raise HeadError(error, "Content-Length is not one decimal number below 2^63")
    return length


def _only_chunked(coding: bytes, minor: bool) -> None:
    if not minor:
        raise HeadError(errors.BAD_REQUEST, "Transfer-Encoding in HTTP/1.0")
    if coding.lower() != b"chunked":
        known_shape = re.fullmatch(rb"[a-z]+(?:, ?chunked)?", coding.lower())
        if known_shape and not coding.lower().startswith((b"chunked", b"identity", b"xchunked")):
            raise HeadError(errors.PROTOCOL_REFUSED, "this transfer coding is not implemented", 501)
        raise HeadError(errors.BAD_REQUEST, "Transfer-Encoding is not exactly chunked")


def _connection_tokens(value: bytes) -> frozenset[bytes]:
    usual = _USUAL_CONNECTION.get(value)
    if usual is not None:
        return usual
    return frozenset(token.strip(b" \t") for token in value.lower().split(b","))


def _nominated(
    lines: list[bytes], tokens: frozenset[bytes], error: ErrorCode = errors.BAD_REQUEST
) -> list[int]:
    """Return which lines the Connection header wants removed (RFC 9110 section 7.6.1)."""
    names = tokens - _CONNECTION_OPTIONS
    if not names:
        return []
    if names & _NOT_NOMINABLE:
        raise HeadError(error, "the Connection header names a header that must not be dropped")
    return [i for i, field in enumerate(lines) if field[: field.find(b":")].lower() in names]


def _other_target(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """Return (host, origin-form target) of a target that is not a path (RFC 9112 section 3.2)."""
    if target == b"*" and method == b"OPTIONS":
        return host, target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or _HOST.fullmatch(absolute[1]) is None:
        raise HeadError(errors.BAD_REQUEST, "the request target is neither a path nor an http URL")
    authority, rest = absolute[1], absolute[2] or b"/"
    if host and host.lower() != authority.lower():
        raise HeadError(errors.BAD_REQUEST, "the Host header and the request target disagree")
    return authority, rest if rest[:1] == b"/" else b"/" + rest


def _refused_request_line(line: bytes, limits: Limits) -> HeadError:
    """Say as precisely as possible why *line* is no request line."""
    if len(line) > limits.request_line_bytes:
        return HeadError(
            errors.HEAD_TOO_LARGE, f"the request line is larger than {limits.request_line_bytes} bytes", 414
        )
    version = _VERSION.fullmatch(line[line.rfind(b" ") + 1 :])
    if version and version[1] >= b"2":
        return HeadError(errors.PROTOCOL_REFUSED, "this HTTP version is not served", 505)
    return HeadError(errors.BAD_REQUEST, "the request line is malformed")
