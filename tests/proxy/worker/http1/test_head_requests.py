"""Request heads, row by row of the desync table (S1 to S54): what is refused, and as what."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.settings import Limits
from proxy.worker.http1.head import CHUNKED, HeadError, HeadLimits, RequestHead, find_end, parse_request
from tests.kit.desync import REFUSED, get, post

LIMITS = HeadLimits(Limits())
HANDSHAKE = [b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13"]


def parse(head: bytes) -> RequestHead:
    end = find_end(head, 0, LIMITS.request_head_bytes)
    assert end == len(head), "the case is not one whole head"
    return parse_request(head, LIMITS)


def fields(parsed: RequestHead) -> bytes:
    """Return the header lines that leave, without the request line."""
    return parsed.lines.partition(b"\r\n")[2]


@pytest.mark.parametrize("row", REFUSED)
def test_what_two_parsers_could_read_two_ways_is_refused(row: str) -> None:
    """Rule 5: reject, don't repair. A repaired message is the first half of every smuggling attack."""
    head, status = REFUSED[row]
    with pytest.raises(HeadError) as caught:
        parse(head)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("row", "head", "expected", "framing"),
    [
        ("S6 leading zeros", post(b"Content-Length: 003"), 3, b"Content-Length: 3"),
        ("S6 nothing but zeros", post(b"Content-Length: 000"), 0, b"Content-Length: 0"),
        (
            "S5 2^63-1",
            post(b"Content-Length: 9223372036854775807"),
            2**63 - 1,
            b"Content-Length: 9223372036854775807",
        ),
        ("S7 CL on GET", get(b"Content-Length: 5"), 5, b"Content-Length: 5"),
        ("S7 CL 0 on GET", get(b"Content-Length: 0"), 0, b"Content-Length: 0"),
        ("chunked", post(b"Transfer-Encoding: chunked"), CHUNKED, b"Transfer-Encoding: chunked"),
        (
            "chunked in capitals",
            post(b"TRANSFER-ENCODING:\tCHUNKED "),
            CHUNKED,
            b"Transfer-Encoding: chunked",
        ),
        ("no framing: no body", post(), 0, b"Content-Length: 0"),
        ("GET without framing", get(), 0, None),
    ],
)
def test_the_length_of_a_body_follows_from_one_framing_header(
    row: str, head: bytes, expected: int, framing: bytes | None
) -> None:
    """RFC 9112 section 6.3; exactly one leaves, in its canonical form. A POST without a body says so."""
    parsed = parse(head)
    assert parsed.length == expected
    names = (b"content-length", b"transfer-encoding")
    leaving = [line for line in parsed.lines.split(b"\r\n") if line.partition(b":")[0].lower() in names]
    assert leaving == ([framing] if framing else [])


def test_kept_lines_leave_byte_by_byte() -> None:
    """Obs-text, capitals and blanks of a validated line are the user's own (S19); order is kept."""
    lines = (b"X-Utf8: caf\xc3\xa9 \xff", b"ACCEPT-language:de,\ten", b'Cookie: a=1; b="2"', b"Empty:")
    assert parse(get(*lines)).lines == b"GET / HTTP/1.1\r\n" + b"\r\n".join((b"Host: a.test", *lines, b""))


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: keep-alive", b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: trailers",
        b"Trailer: X-Sum", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-Proto: https", b"X-Forwarded-Port: 1",
        b"X-Forwarded-Host: evil", b"X-Real-IP: 6.6.6.6", b"Forwarded: for=6.6.6.6",
    ],
)  # fmt: skip
def test_hop_by_hop_and_forwarding_headers_are_not_kept(line: bytes) -> None:
    """The first kind is about the client's connection only; the second could be forged by any client."""
    assert fields(parse(get(line))) == b"Host: a.test\r\n"


def test_connection_nominated_headers_are_not_kept() -> None:
    """RFC 9110 section 7.6.1: the client says itself that these end at the next hop (S44)."""
    parsed = parse(get(b"Connection: X-Hop, close", b"x-hop: 1", b"X-Hop2: 2", b"X-HOP: 3"))
    assert fields(parsed) == b"Host: a.test\r\nX-Hop2: 2\r\n"
    assert not parsed.keep_alive


@pytest.mark.parametrize(
    ("version", "lines", "expected"),
    [
        (b"HTTP/1.1", [], True),
        (b"HTTP/1.1", [b"Connection: close"], False),
        (b"HTTP/1.1", [b"Connection: foo", b"Connection: CLOSE"], False),
        (b"HTTP/1.1", [b"Connection: keep-alive, close"], False),
        (b"HTTP/1.0", [], False),
        (b"HTTP/1.0", [b"Connection: Keep-Alive"], True),
        (b"HTTP/1.0", [b"Proxy-Connection: keep-alive"], False),
    ],
)
def test_keep_alive_is_what_version_and_connection_say(
    version: bytes, lines: list[bytes], expected: bool
) -> None:
    """RFC 9112 section 9.3 and S51."""
    assert parse(get(*lines, version=version)).keep_alive is expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"http://a.test/x?y", b"/x?y"),
        (b"HTTP://A.test", b"/"),
        (b"https://a.test?q", b"/?q"),
        (b'/%00/%2f/../a//b;c?d=%zz&{}|\\^`"<>', b'/%00/%2f/../a//b;c?d=%zz&{}|\\^`"<>'),
    ],
)
def test_a_target_leaves_in_origin_form_and_otherwise_verbatim(target: bytes, expected: bytes) -> None:
    """S28 and S36: the backend must not meet a second way to name the host, nor a path we have "mended"."""
    parsed = parse(get(target=target))
    assert parsed.target == expected
    assert parsed.lines.startswith(b"GET " + expected + b" HTTP/1.1\r\n")
    assert parsed.path == expected.partition(b"?")[0]


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_the_host_of_an_absolute_target_becomes_the_host_header(version: bytes) -> None:
    """S28: exactly one Host leaves and it is the URL's; HTTP/1.0 clients may have sent none at all."""
    host = b"Host: a.test:80\r\n" if version == b"HTTP/1.1" else b""
    parsed = parse(b"GET http://A.test:80/p " + version + b"\r\n" + host + b"X: y\r\n\r\n")
    assert parsed.host == b"A.test:80"
    assert parsed.lines == b"GET /p HTTP/1.1\r\nX: y\r\nHost: A.test:80\r\n"


def test_an_absolute_target_alone_makes_a_host_header() -> None:
    """S28, with not one header in the request: HTTP/1.0 allows that."""
    lines = parse(b"GET http://a.test/ HTTP/1.0\r\n\r\n").lines
    assert lines == b"GET / HTTP/1.1\r\nHost: a.test\r\n"


@pytest.mark.parametrize("value", [b"h2c", b"websocket, h2c", b"H2C,websocket"])
def test_a_request_for_h2c_goes_on_without_it(value: bytes) -> None:
    """S42: a second protocol behind our back would carry requests that nobody here has checked."""
    parsed = parse(get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + value, b"HTTP2-Settings: AAMA"))
    assert parsed.upgrade == b""
    assert fields(parsed) == b"Host: a.test\r\n"


def test_an_upgrade_counts_only_if_connection_names_it_and_there_is_no_body() -> None:
    """RFC 9110 section 7.8; a body and an upgrade together leave open where the tunnel begins (S42)."""
    upgrade = b"Upgrade: WebSocket"
    assert parse(get(upgrade, b"Connection: keep-alive, UPGRADE", *HANDSHAKE)).upgrade == b"websocket"
    assert parse(get(upgrade)).upgrade == b""
    assert parse(get(upgrade, b"Connection: upgrade", b"Content-Length: 1")).upgrade == b""
    assert parse(get(upgrade, b"Connection: upgrade", version=b"HTTP/1.0")).upgrade == b""
    with pytest.raises(HeadError):
        parse(get(upgrade, b"Connection: upgrade", *HANDSHAKE, method=b"POST"))


@pytest.mark.parametrize(
    "lines",
    [
        [], HANDSHAKE[:1], HANDSHAKE[1:], [*HANDSHAKE, HANDSHAKE[0]], [*HANDSHAKE, HANDSHAKE[1]],
        [b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=", HANDSHAKE[1]],
        [b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==", HANDSHAKE[1]],
        [HANDSHAKE[0], b"Sec-WebSocket-Version: 8"],
    ],
)  # fmt: skip
def test_a_websocket_handshake_has_one_key_of_16_bytes_and_version_13(lines: list[bytes]) -> None:
    """S42: a 101 to anything less is how a tunnel is opened to smuggle requests through."""
    with pytest.raises(HeadError) as caught:
        parse(get(b"Upgrade: websocket", b"Connection: upgrade", *lines))
    assert caught.value.status == 400


def test_one_header_line_may_not_be_larger_than_its_limit() -> None:
    """S54, the limit of a single header: 431, whatever the head as a whole may be."""
    limits = HeadLimits(Limits(request_header_bytes=1000, request_head_bytes=10_000))
    fits = get(b"X: " + b"y" * (1000 - 5))
    assert fields(parse_request(fits, limits))
    with pytest.raises(HeadError) as caught:
        parse_request(get(b"X: " + b"y" * (1000 - 4)), limits)
    assert caught.value.status == 431


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"abc-DEF.1/2=+_", b"abc-DEF.1/2=+_"), (b"a b", b""), (b"a\"b", b""), (b"<b>", b""), (b"x" * 129, b"")],
)  # fmt: skip
def test_a_request_id_of_the_client_is_taken_over_only_if_fit_for_log_and_page(
    value: bytes, expected: bytes
) -> None:
    """It goes into JSON, HTML and header lines; what is not plainly harmless is replaced by our own."""
    parsed = parse(get(b"X-Request-Id: " + value))
    assert parsed.request_id == expected
    assert (b"equest-" in parsed.lines) is bool(expected)


def test_only_the_first_request_id_is_taken_over() -> None:
    parsed = parse(get(b"X-Request-Id: one", b"X-REQUEST-ID: two"))
    assert parsed.request_id == b"one"
    assert fields(parsed) == b"Host: a.test\r\nX-Request-Id: one\r\n"


_text = st.binary(max_size=12)
_line = st.one_of(
    st.builds(lambda n, v: n + b": " + v, st.sampled_from([b"Host", b"X", b"Content-Length", b"Connection",
              b"Transfer-Encoding", b"Upgrade", b"Expect", b"TE", b"X-Forwarded-For"]),
              st.one_of(_text, st.sampled_from([b"a.test", b"chunked", b"close", b"3", b"upgrade", b"x-y"]))),
    st.builds(lambda n, v: n + b":" + v, _text, _text),
    _text,
)  # fmt: skip
_target = st.one_of(st.just(b"/"), st.builds(lambda t: b"/" + t, _text), _text, st.just(b"http://a.test/"))


@given(
    method=st.sampled_from([b"GET", b"POST", b"G\0T", b"OPTIONS"]),
    target=_target,
    version=st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.1\n"]),
    lines=st.lists(_line, max_size=5),
    host=st.booleans(),
)
def test_no_line_end_and_no_nul_ever_leaves(
    method: bytes, target: bytes, version: bytes, lines: list[bytes], host: bool
) -> None:
    """Invariant I5: whatever comes in, each part that is sent on is free of what could split it."""
    lines = [b"Host: a.test", *lines] if host else lines
    head = b"\r\n".join([method + b" " + target + b" " + version, *lines, b"", b""])
    if head.find(b"\r\n\r\n") + 4 != len(head):
        return
    try:
        parsed = parse_request(head, LIMITS)
    except HeadError:
        return
    for part in (parsed.method, parsed.target, parsed.host, parsed.upgrade, parsed.request_id,
                 parsed.forwarded_for, parsed.forwarded_proto):  # fmt: skip
        assert not set(part) & {0, 10, 13}
    first, *kept = parsed.lines.split(b"\r\n")
    assert first == b"%b %b HTTP/1.1" % (parsed.method, parsed.target)
    assert kept.pop() == b""
    for line in kept:
        framing = line.startswith((b"Content-Length: ", b"Transfer-Encoding: chunked"))
        assert line in lines or line.startswith(b"Host: ") or framing
        assert not set(line) & {0, 10, 13}
        assert line.partition(b":")[0].lower() not in (b"te", b"connection", b"upgrade", b"x-forwarded-for")


@given(
    data=st.lists(st.sampled_from([b"GET / HTTP/1.1", b"\r\n", b"\r", b"\n", b"Host: a", b"x"]), max_size=12)
)
def test_the_end_of_a_head_is_found_wherever_it_is_cut(data: list[bytes]) -> None:
    """Invariant I4 for `find_end`: byte by byte it finds the same end, or refuses what is refused at once."""
    whole = b"".join(data)

    def search(step: int) -> int:
        scanned = 0
        for at in [*range(step, len(whole), step), len(whole)]:
            end = find_end(whole[:at], scanned, LIMITS.request_head_bytes)
            if end >= 0:
                try:
                    parse_request(whole[:end], LIMITS)
                except HeadError:
                    return -2
                return end
            scanned = at
        return -1

    def outcome(step: int) -> int:
        try:
            return search(step)
        except HeadError:
            return -2

    assert outcome(1) == outcome(len(whole) + 1)


@pytest.mark.parametrize("limit_first", [True, False])
def test_time_grows_with_the_bytes_not_with_their_square(limit_first: bool) -> None:
    """Invariant I7: a flood of headers must not cost more per byte the larger it is."""
    limits = (
        HeadLimits(Limits(request_headers=10**6, request_head_bytes=10**8)) if not limit_first else LIMITS
    )

    def spent_s(count: int) -> float:
        head = get(*[b"X-%d: y" % i for i in range(count)])
        best = 9.9
        for _ in range(3):
            start = time.process_time()
            try:
                parse_request(head, limits)
            except HeadError:
                assert limit_first
            best = min(best, time.process_time() - start)
        return best

    assert spent_s(40_000) < 6 * spent_s(10_000) + 0.02
