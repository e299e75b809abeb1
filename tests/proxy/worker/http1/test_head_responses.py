"""Response heads: what a backend may say, and what makes it a 502 (S40, S41, S45)."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.settings import Limits
from proxy.worker.http1.head import CHUNKED, UNTIL_CLOSE, HeadError, ResponseHead, parse_response

LIMITS = Limits()


def parse(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK", method: bytes = b"GET") -> ResponseHead:
    return parse_response(b"\r\n".join([line, *lines, b"", b""]), method, LIMITS)


REFUSED: dict[str, tuple[bytes, list[bytes]]] = {
    "CL and TE": (b"HTTP/1.1 200 OK", [b"Content-Length: 3", b"Transfer-Encoding: chunked"]),
    "same CL twice": (b"HTTP/1.1 200 OK", [b"Content-Length: 3", b"Content-Length: 3"]),
    "different CL": (b"HTTP/1.1 200 OK", [b"Content-Length: 3", b"Content-Length: 4"]),
    "bad CL": (b"HTTP/1.1 200 OK", [b"Content-Length: 1_0"]),
    "negative CL": (b"HTTP/1.1 200 OK", [b"Content-Length: -1"]),
    "CL list": (b"HTTP/1.1 200 OK", [b"Content-Length: 3, 3"]),
    "TE gzip": (b"HTTP/1.1 200 OK", [b"Transfer-Encoding: gzip, chunked"]),
    "TE twice": (b"HTTP/1.1 200 OK", [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"]),
    "TE in HTTP/1.0": (b"HTTP/1.0 200 OK", [b"Transfer-Encoding: chunked"]),
    "TE look-alike": (b"HTTP/1.1 200 OK", [b"Transfer_Encoding: chunked"]),
    "NUL": (b"HTTP/1.1 200 OK", [b"X: a\0"]),
    "bare CR": (b"HTTP/1.1 200 OK", [b"X: a\rb"]),
    "bare LF": (b"HTTP/1.1 200 OK", [b"X: a\nSet-Cookie: b"]),
    "obs-fold": (b"HTTP/1.1 200 OK", [b"X: a", b" b"]),
    "bad name": (b"HTTP/1.1 200 OK", [b"X Y: a"]),
    "space before colon": (b"HTTP/1.1 200 OK", [b"X : a"]),
    "no colon": (b"HTTP/1.1 200 OK", [b"nonsense"]),
    "two digits": (b"HTTP/1.1 20 OK", []),
    "four digits": (b"HTTP/1.1 2000 OK", []),
    "status 099": (b"HTTP/1.1 099 OK", []),
    "status 600": (b"HTTP/1.1 600 OK", []),
    "status +20": (b"HTTP/1.1 +20 OK", []),
    "HTTP/2.0": (b"HTTP/2.0 200 OK", []),
    "lower case": (b"http/1.1 200 OK", []),
    "CTL in the reason": (b"HTTP/1.1 200 O\x01K", []),
    "201 headers": (b"HTTP/1.1 200 OK", [b"X-%d: y" % i for i in range(201)]),
    "Connection names Content-Length": (b"HTTP/1.1 200 OK", [b"Connection: Content-Length"]),
}


@pytest.mark.parametrize("row", REFUSED)
def test_an_answer_that_can_be_read_two_ways_is_refused(row: str) -> None:
    """S45: passed on, it would poison the client's connection or a cache; the code is X04."""
    line, lines = REFUSED[row]
    with pytest.raises(HeadError) as caught:
        parse(*lines, line=line)
    assert caught.value.error is errors.RESPONSE_MALFORMED


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
