"""Response heads: what a backend may say, and what makes it a 502 (S40, S41, S45)."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.settings import Limits
from proxy.worker.http1.head import (
    CHUNKED,
    UNTIL_CLOSE,
    HeadError,
    HeadLimits,
    ResponseHead,
    find_end,
    parse_response,
)
from tests.kit.desync_responses import REFUSED

LIMITS = HeadLimits(Limits())


def parse(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK", method: bytes = b"GET") -> ResponseHead:
    return parse_response(b"\r\n".join([line, *lines, b"", b""]), method, LIMITS)


@pytest.mark.parametrize("row", REFUSED)
def test_an_answer_that_can_be_read_two_ways_is_refused(row: str) -> None:
    """S45: passed on, it would poison the client's connection or a cache; the code is X04."""
    head = REFUSED[row]
    with pytest.raises(HeadError) as caught:
        parse_response(head[: find_end(head, 0, LIMITS.response_head_bytes)], b"GET", LIMITS)
    assert caught.value.error in (errors.RESPONSE_MALFORMED, errors.HEAD_TOO_LARGE, errors.BAD_REQUEST)


@pytest.mark.parametrize(
    ("status", "method", "lines", "follows", "declared"),
    [
        (b"200 OK", b"GET", [b"Content-Length: 7"], 7, 7),
        (b"200 OK", b"GET", [b"Content-Length: 007"], 7, 7),
        (b"200 OK", b"GET", [b"Transfer-Encoding: Chunked"], CHUNKED, -1),
        (b"200 OK", b"GET", [], UNTIL_CLOSE, -1),
        (b"200 OK", b"HEAD", [b"Content-Length: 7"], 0, 7),
        (b"200 OK", b"HEAD", [b"Transfer-Encoding: chunked"], 0, -1),
        (b"200 OK", b"HEAD", [], 0, -1),
        (b"204 No Content", b"GET", [b"Content-Length: 2"], 0, -1),
        (b"304 Not Modified", b"GET", [b"Content-Length: 7"], 0, 7),
        (b"304 Not Modified", b"GET", [], 0, -1),
        (b"103 Early Hints", b"GET", [], 0, -1),
    ],
)
def test_the_length_of_a_body_follows_from_method_status_and_framing(
    status: bytes, method: bytes, lines: list[bytes], follows: int, declared: int
) -> None:
    """RFC 9112 section 6.3; 204 keeps no framing header, 304 and HEAD keep their Content-Length (S41)."""
    head = parse(*lines, line=b"HTTP/1.1 " + status, method=method)
    assert head.length == follows
    kept = b"Content-Length: %d\r\n" % declared if declared >= 0 else b""
    assert head.lines == b"HTTP/1.1 %b\r\n%b" % (status, kept)


@pytest.mark.parametrize(
    ("line", "lines", "expected"),
    [
        (b"HTTP/1.1 200 OK", [b"Content-Length: 0"], True),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 0", b"Connection: close"], False),
        (b"HTTP/1.1 200 OK", [], False),
        (b"HTTP/1.0 200 OK", [b"Content-Length: 0"], False),
        (b"HTTP/1.0 200 OK", [b"Content-Length: 0", b"Connection: keep-alive"], True),
    ],
)
def test_a_connection_is_kept_only_if_both_framing_and_backend_allow(
    line: bytes, lines: list[bytes], expected: bool
) -> None:
    """A reused connection whose message ended elsewhere than we think is someone else's answer."""
    assert parse(*lines, line=line).keep_alive is expected


def test_the_status_line_leaves_as_http_1_1_with_the_reason_kept() -> None:
    """The version is ours, hop by hop (RFC 9110 section 2.5); a missing reason still needs its space."""
    assert parse(line=b"HTTP/1.0 404 Nix da \xfc").lines == b"HTTP/1.1 404 Nix da \xfc\r\n"
    assert parse(line=b"HTTP/1.1 200").lines == b"HTTP/1.1 200 \r\n"


def test_what_concerns_only_the_backends_connection_is_not_kept() -> None:
    """Hop-by-hop names, those that Connection nominates, and our own error header, which must be ours."""
    head = parse(
        b"Set-Cookie: a=1", b"Keep-Alive: timeout=5", b"Connection: X-Hop, keep-alive", b"X-Hop: 1",
        b"Proxy-Connection: x", b"Trailer: T", b"X-Anyport-Error: U01 forged", b"Set-Cookie: b=2",
        b"Content-Length: 1",
    )  # fmt: skip
    assert head.lines == b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 1\r\n"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"timeout=5", 5), (b"max=100, timeout=7", 7), (b"Timeout=9,max=1", 9), (b"max=100", -1),
     (b"timeout=", -1), (b"timeout=-5", -1), (b"xtimeout=5", -1), (b"timeout=9999999", -1)],
)  # fmt: skip
def test_how_long_the_backend_keeps_the_connection_is_learnt(value: bytes, expected: int) -> None:
    assert parse(b"Content-Length: 1", b"Keep-Alive: " + value).keep_alive_s == expected
    assert parse(b"Content-Length: 1").keep_alive_s == -1
