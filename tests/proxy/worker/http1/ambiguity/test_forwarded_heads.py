"""What is unusual and yet clear, on the wire: it is served, and what leaves can be read in one way only.

Rows S5, S6, S11, S19, S28, S30, S31, S34, S36, S37, S42, S44 and S51 of the table of ambiguities.
"""

from __future__ import annotations

import pytest

from proxy.link import scoreboard as sb
from tests.kit.backends import answering
from tests.kit.desync import bare, get, post
from tests.kit.stage import Stage, settings, words
from tests.kit.wire import Message, request, response
from tests.kit.workers import backend, service, wait_for

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def _arrives(stage: Stage, head: bytes, method: str = "GET") -> Message:
    """Return *head* as a backend has received it; it was answered with 200."""
    made = stage.serve(answering(lambda seen: response(b"" if seen.start.startswith(b"HEAD") else b"ok")))
    assert stage.ask(head, method).status == 200
    (seen,) = made.requests
    return seen


@pytest.mark.parametrize(
    ("value", "leaves"),
    [
        (b"3", b"3"),
        (b"003", b"3"),
        (b"0000000000000000003", b"3"),
        (b" \t3 \t", b"3"),
        (b"0", b"0"),
        (b"000", b"0"),
    ],
)
def test_s6_a_content_length_leaves_in_its_canonical_form(stage: Stage, value: bytes, leaves: bytes) -> None:
    """S6: whoever reads a leading zero as octal, or does not read it at all, sees another body."""
    body = b"abc"[: int(leaves)]
    seen = _arrives(stage, post(b"Content-Length: " + value) + body)
    assert (seen.get("content-length"), seen.body) == (leaves, body)


def test_s5_the_largest_content_length_is_a_length(stage: Stage) -> None:
    """S5: 2^63 - 1 is no less a number than 5, whatever it is good for. The client ends it."""
    made = stage.serve()
    client = stage.client()
    client.send(post(b"Content-Length: 9223372036854775807") + b"abc")
    wait_for(lambda: made.touched == 1, "it is forwarded")
    client.reset()
    stage.wait_failure("client_gone")
    assert made.requests == []


@pytest.mark.parametrize(
    "line",
    [
        b"Transfer---Encoding: chunked",
        b"X-Transfer-Encoding: chunked",
        b"Transfer-Encoding-X: chunked",
        b"Xost: b",
    ],
)
def test_s11_another_name_is_another_header(stage: Stage, line: bytes) -> None:
    """S11: a name that only resembles one, and that no server folds into it, is a header like any other."""
    seen = _arrives(stage, post(line, b"Content-Length: 3") + b"abc")
    assert line in seen.raw_head.split(b"\r\n")
    assert (seen.body, seen.chunked) == (b"abc", False)


def test_s19_bytes_of_old_encodings_pass_untouched(stage: Stage) -> None:
    """S19: names of files in Latin-1, for example; blanks and capitals are the user's own too."""
    lines = (
        b"X-Latin: caf\xe9 \xff\x80\xa0",
        b"X-UTF8: caf\xc3\xa9",
        b"aCCept-Language:  de,\ten ",
        b"X-Empty:",
    )
    seen = _arrives(stage, get(*lines))
    assert [line for line in seen.raw_head.split(b"\r\n") if line in lines] == list(lines)


@pytest.mark.parametrize(
    ("head", "target", "host"),
    [
        (get(target=b"http://a.test/x?y"), b"/x?y", b"a.test"),
        (get(target=b"https://a.test/x"), b"/x", b"a.test"),
        (get(target=b"HTTP://A.TEST/x"), b"/x", b"A.TEST"),
        (get(target=b"http://a.test"), b"/", b"a.test"),
        (get(target=b"http://a.test?q"), b"/?q", b"a.test"),
        (get(target=b"http://a.test//b/../c"), b"//b/../c", b"a.test"),
        (bare(target=b"http://a.test:80/", version=b"HTTP/1.0"), b"/", b"a.test:80"),
        (get(method=b"OPTIONS", target=b"http://a.test/x"), b"/x", b"a.test"),
        (
            bare(b"Host: [2001:db8::1]:8080", target=b"http://[2001:DB8::1]:8080/"),
            b"/",
            b"[2001:DB8::1]:8080",
        ),
    ],
)
def test_s28_an_absolute_target_leaves_as_path_and_one_host(
    stage: Stage, head: bytes, target: bytes, host: bytes
) -> None:
    """S28: the backend meets one name of the host, the one that was routed by."""
    seen = _arrives(stage, head)
    assert seen.start.split()[1:] == [target, b"HTTP/1.1"]
    assert seen.get("host") == host


def test_s28_the_host_of_the_url_is_routed_by(stage: Stage) -> None:
    made = stage.backend()
    stage.worker.settings = settings()
    stage.worker.publish([service(slot=stage.slot, hosts=["a.test"])], [backend(made.port)])
    assert stage.ask(bare(target=b"http://a.test/", version=b"HTTP/1.0")).status == 200
    assert words(stage.ask(bare(target=b"http://b.test/", version=b"HTTP/1.0")))[0] == "unknown_service"
    assert made.touched == 1


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_s30_options_asterisk_is_answered_here_and_counted(stage: Stage, version: bytes) -> None:
    """S30: it asks about the server it is connected to, and that is us. Its body is no request."""
    made = stage.serve()
    cell = sb.REQUESTS + sb.METHODS.index("OPTIONS") * len(sb.CODE_CLASSES) + sb.CODE_CLASSES.index("2xx")
    before = stage.worker.cell(sb.NO_SERVICE, cell)
    client = stage.client()
    client.send(get(method=b"OPTIONS", target=b"*", version=version))
    assert client.read_response().status == 204
    if version == b"HTTP/1.1":
        client.send(get(b"Content-Length: 40", method=b"OPTIONS", target=b"*") + request("/smuggled"))
        assert client.read_response().get("connection") == b"close"
    assert client.at_end()
    assert made.touched == 0
    count = 2 if version == b"HTTP/1.1" else 1
    wait_for(lambda: stage.worker.cell(sb.NO_SERVICE, cell) == before + count, "it is counted")


def test_s31_http_1_0_without_a_host_goes_where_every_host_goes(stage: Stage) -> None:
    """S31: health checks of old load balancers. What leaves has a Host, an empty one (RFC 9112 3.2)."""
    seen = _arrives(stage, b"GET / HTTP/1.0\r\n\r\n")
    assert (seen.get("host"), seen.start) == (b"", b"GET / HTTP/1.1")


@pytest.mark.parametrize(
    "host",
    [
        b"a.test",
        b"A.Test:8080",
        b"a.test.",
        b"10.0.0.1",
        b"[::1]",
        b"[::1]:80",
        b"a_b.test",
        b"xn--a",
        b"a:65535",
    ],
)
def test_s31_a_host_leaves_as_it_came(stage: Stage, host: bytes) -> None:
    assert _arrives(stage, bare(b"Host: " + host)).get("host") == host


@pytest.mark.parametrize("lines", [b"\r\n", b"\r\n\r\n"])
def test_s34_two_empty_lines_before_a_request_are_forgiven(stage: Stage, lines: bytes) -> None:
    """S34 and RFC 9112 section 2.2: old clients send them behind a body."""
    assert _arrives(stage, lines + get()).start == b"GET / HTTP/1.1"


def test_s34_three_are_not(stage: Stage) -> None:
    made = stage.serve()
    client = stage.client()
    client.send(b"\r\n" * 3 + get() + request("/smuggled"))
    assert client.read_response().status == 400
    assert client.at_end()
    assert made.touched == 0


@pytest.mark.parametrize(
    "target",
    [
        b"/%00", b"/a%2fb", b"/../x", b"/a/../../b", b"//b.test/x", b"/a;b=c", b"/%2e%2e/", b"/%zz",
        b'/"<>\\^`{|}', b"/*", b"/?a=b?c=d", b"/%0d%0aX:%20y", b"/http://b.test/",
    ],
)  # fmt: skip
def test_s36_a_path_leaves_as_it_came(stage: Stage, target: bytes) -> None:
    """S36: without rules on paths nothing can be got wrong, and what it means is the backend's to say."""
    assert _arrives(stage, get(target=target)).start == b"GET " + target + b" HTTP/1.1"


@pytest.mark.parametrize(
    "path",
    ["/x/../admin", "//admin/x", "/%61dmin", "/./admin", "/x%2f..%2fadmin", "/\\admin", "/x/%2e%2e/admin"],
)
def test_s36_a_path_that_another_server_routes_elsewhere_goes_nowhere(stage: Stage, path: str) -> None:
    """S36: with a rule for /admin, a path that becomes it once normalised is refused."""
    made = stage.backend()
    stage.worker.settings = settings()
    stage.worker.publish(
        [service(slot=stage.slot), service("admin", slot=stage.slot, path="/admin")], [backend(made.port)]
    )
    assert words(stage.ask(request(path)))[0] == "bad_request"
    assert stage.ask(request("/adminx")).status == 200
    assert made.touched == 1


@pytest.mark.parametrize(
    "method", [b"PROPFIND", b"get", b"trace", b"M-SEARCH", b"!#$%&'*+-.^_`|~", b"A" * 32]
)
def test_s37_an_unknown_method_passes_as_it_is(stage: Stage, method: bytes) -> None:
    """S37: methods are case-sensitive, and the list of them is open."""
    made = stage.serve(answering(response(b"ok")))
    assert stage.ask(get(method=method)).status == 200
    assert made.requests[0].start == method + b" / HTTP/1.1"
    other = sb.REQUESTS + sb.METHODS.index("OTHER") * len(sb.CODE_CLASSES) + sb.CODE_CLASSES.index("2xx")
    wait_for(lambda: stage.cell(other) == 1, "it is counted without becoming a label")


_HANDSHAKE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": _KEY, "Sec-WebSocket-Version": "13",
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"Sec-WebSocket-Key": None}, {"Sec-WebSocket-Version": None}, {"Sec-WebSocket-Version": "8"},
        {"Sec-WebSocket-Version": "13, 8"}, {"Sec-WebSocket-Key": ""}, {"Sec-WebSocket-Key": "dGVzdA=="},
        {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ"}, {"Sec-WebSocket-Key": f"{_KEY}, {_KEY}"},
        {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25j*Q=="}, {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZR=="},
        {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZWxvbmdlcg=="}, {"Sec-WebSocket-Version": "013"},
    ],
    ids=str,
)  # fmt: skip
def test_s42_a_handshake_no_server_may_accept_is_refused(
    stage: Stage, changes: dict[str, str | None]
) -> None:
    """S42: a 101 to it would open a tunnel that one side does not know of (RFC 6455 section 4.2.1)."""
    made = stage.serve()
    lines = [f"{name}: {value}" for name, value in {**_HANDSHAKE, **changes}.items() if value is not None]
    client = stage.client()
    client.send(request("/", *lines) + request("/smuggled"))
    answer = client.read_response()
    assert (answer.status, words(answer)) == (400, ("bad_request", ["delivered=no", "attempts=0"]))
    assert client.at_end()
    assert made.touched == 0


def test_s42_a_second_key_is_refused(stage: Stage) -> None:
    made = stage.serve()
    lines = [f"{name}: {value}" for name, value in _HANDSHAKE.items()]
    assert stage.ask(request("/", *lines, f"Sec-WebSocket-Key: {_KEY}")).status == 400
    assert stage.ask(request("/", *lines, method="POST")).status == 400
    assert made.touched == 0


@pytest.mark.parametrize(
    ("version", "lines"),
    [
        (b"HTTP/1.1", (b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABk")),
        (b"HTTP/1.1", (b"Upgrade: H2C", b"Connection: upgrade", b"HTTP2-Settings: AAMAAABk")),
        (b"HTTP/1.1", (b"Upgrade: websocket, h2c", b"Connection: Upgrade")),
        (b"HTTP/1.1", (b"Upgrade: websocket", b"Upgrade: h2c", b"Connection: Upgrade")),
        (b"HTTP/1.1", (b"Upgrade: websocket",)),
        (b"HTTP/1.1", (b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABk")),
        (b"HTTP/1.0", (b"Upgrade: websocket", b"Connection: Upgrade")),
        (b"HTTP/1.1", (b"Upgrade: TLS/1.2", b"Connection: Upgrade")),
    ],
)
def test_s42_a_wish_that_is_not_granted_does_not_reach_the_backend(
    stage: Stage, version: bytes, lines: tuple[bytes, ...]
) -> None:
    """S42: h2c behind our back would carry requests that nobody here has checked."""
    seen = _arrives(stage, get(*lines, version=version))
    assert [seen.get(name) for name in ("upgrade", "connection", "http2-settings")] == [None] * 3


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ((b"Connection: X-Hop", b"X-Hop: 1", b"X-Hop2: 2", b"x-hop: 3"), [b"x-hop2"]),
        ((b"X-Hop: 1", b"Connection: close, x-HOP ,", b"X-Hop2: 2"), [b"x-hop2"]),
        ((b"Connection: X-Hop", b"Connection: X-Hop2", b"X-Hop: 1", b"X-Hop2: 2"), []),
        ((b"Connection: keep-alive", b"Keep-Alive: timeout=5", b"TE: trailers", b"Trailer: X-Hop"), []),
        ((b"Proxy-Connection: keep-alive", b"X-Hop: 1"), [b"x-hop"]),
    ],
)
def test_s44_what_belongs_to_one_connection_ends_here(
    stage: Stage, lines: tuple[bytes, ...], kept: list[bytes]
) -> None:
    """S44 and S51: RFC 9110 section 7.6.1; the Connection header itself never leaves."""
    seen = _arrives(stage, get(*lines))
    ours = {b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-port", b"x-request-id"}
    assert [name for name, _ in seen.headers if name not in ours] == kept


@pytest.mark.parametrize(
    "name",
    [
        "X-Anyport-Attempt",
        "X-Forwarded-For",
        "Forwarded",
        "X-Real-IP",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
    ],
)
def test_what_only_a_proxy_may_say_is_not_taken_from_a_client(stage: Stage, name: str) -> None:
    """Set anew or not at all: a client could claim to be anybody."""
    seen = _arrives(stage, get(f"{name}: 6.6.6.6".encode()))
    assert b"6.6.6.6" not in seen.raw_head


_CHUNKED_OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "lines", "kept"),
    [
        (response(b"ok"), b"Connection: keep-alive\r\n", True),
        (response(b"ok"), b"connection: Keep-Alive, x\r\n", True),
        (response(b"ok"), b"", False),
        (response(b"ok"), b"Connection: keep-alive, close\r\n", False),
        (response(b"ok"), b"Proxy-Connection: keep-alive\r\n", False),
        (_CHUNKED_OK, b"Connection: keep-alive\r\n", False),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", b"Connection: keep-alive\r\n", True),
    ],
)  # fmt: skip
def test_s51_http_1_0_keeps_a_connection_only_where_both_know_the_end(
    stage: Stage, answer: bytes, lines: bytes, kept: bool
) -> None:
    """S51: asked for by Connection, not by Proxy-Connection, and granted where a length tells the end."""
    made = stage.serve(answering(answer))
    client = stage.client()
    client.send(b"GET / HTTP/1.0\r\nHost: a.test\r\n" + lines + b"\r\n")
    head = client.read_until(b"\r\n\r\n")
    assert (b"\r\nConnection: keep-alive\r\n" in head) is kept
    assert (b"\r\nConnection: close\r\n" in head) is not kept
    if kept:
        body = b"" if b" 304 " in head else client.read_exactly(2)
        assert body in (b"", b"ok")
        client.send(b"GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
        client.read_until(b"\r\n\r\n")
    assert client.read_to_end() in (b"ok", b"")
    assert made.requests[0].start == b"GET / HTTP/1.1"
