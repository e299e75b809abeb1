"""Well-formed traffic over real sockets: what goes in comes out, and connections are kept on both sides."""

from __future__ import annotations

import pytest

from proxy.link import scoreboard as sb
from tests.kit.backends import Visit, after_request, answering
from tests.kit.stage import Stage
from tests.kit.wire import Message, Truncated, Wire, request, response
from tests.kit.workers import wait_for


def test_one_connection_on_each_side_serves_many_requests(stage: Stage) -> None:
    """A handshake per request would double the latency; ECS tasks are often a zone away."""
    backend = stage.serve()
    client = stage.client()
    for number in range(20):
        client.send(request(f"/{number}"))
        assert client.read_response().body == b"/%d" % number
    assert len(backend.visits) == 1
    wait_for(lambda: stage.cell(sb.REQUESTS + sb.CODE_CLASSES.index("2xx")) == 20, "all are counted")


def test_clients_share_the_connections_of_a_backend(stage: Stage) -> None:
    """The pool belongs to the backend, so a thousand clients with one request each need few connections."""
    backend = stage.serve()
    for number in range(10):
        assert stage.ask(request(f"/{number}")).body == b"/%d" % number
    assert len(backend.visits) == 1


def test_concurrent_requests_get_their_own_answers(stage: Stage) -> None:
    """Invariant I8: one backend connection carries one exchange at a time."""
    backend = stage.serve()
    clients = [stage.client() for _ in range(20)]
    for round_number in range(5):
        for index, client in enumerate(clients):
            client.send(request(f"/{round_number}/{index}"))
        for index, client in enumerate(clients):
            assert client.read_response().body == b"/%d/%d" % (round_number, index)
    assert len(backend.visits) <= 20


def _echo(message: Message) -> bytes:
    return response(
        message.body, f"X-Chunked: {message.chunked}", f"X-Method: {message.start.split()[0].decode()}"
    )


def _chunked(body: bytes, piece: int) -> bytes:
    parts = [
        b"%x\r\n%b\r\n" % (len(body[i : i + piece]), body[i : i + piece]) for i in range(0, len(body), piece)
    ]
    return b"".join([*parts, b"0\r\n\r\n"])


def test_a_body_with_content_length_arrives_as_such(stage: Stage) -> None:
    """Framing is written anew, but of the same kind: servers without chunked support exist."""
    stage.serve(answering(_echo))
    answer = stage.ask(request(method="POST", body=b"x" * 100_000))
    assert answer.body == b"x" * 100_000
    assert answer.get("x-chunked") == b"False"


def test_a_chunked_body_arrives_whole_and_without_extensions_and_trailers(stage: Stage) -> None:
    """S25 and S27: the strict reader behind the proxy accepts only plain chunks without trailers."""
    stage.serve(answering(_echo))
    body = b'3;a="b"\r\nabc\r\n2 \r\n'.replace(b" ", b"") + b"de\r\n0\r\nX-Sum: 1\r\nX-Length: 9\r\n\r\n"
    answer = stage.ask(request("/", "Transfer-Encoding: chunked", method="POST") + body)
    assert answer.body == b"abcde"
    assert answer.get("x-chunked") == b"True"


@pytest.mark.parametrize("size", [1, 7])
def test_one_byte_segments_give_the_same_result(stage: Stage, size: int) -> None:
    """F28 and invariant I4, through the real process, on both sides."""
    body = b"payload-" * 5

    def script(visit: Visit) -> None:
        while True:
            got = visit.read_request()
            visit.send_pieces(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + _chunked(got.body, 9), size
            )

    stage.serve(script)
    client = stage.client()
    for _ in range(2):
        client.send_pieces(
            request("/", "Transfer-Encoding: chunked", method="POST") + _chunked(body, 7), size
        )
        assert client.read_response().body == body
        client.send_pieces(request(method="PUT", body=body), size)
        assert client.read_response().body == body


def test_a_chunked_response_stays_chunked_and_complete(stage: Stage) -> None:
    """The last chunk tells the client that nothing is missing."""
    stage.serve(
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + _chunked(b"abc" * 1000, 500))
    )
    client = stage.client()
    for _ in range(3):
        client.send(request())
        answer = client.read_response()
        assert answer.chunked
        assert answer.body == b"abc" * 1000


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_a_post_without_a_body_says_so(stage: Stage, method: str) -> None:
    """RFC 9110 section 8.6: a method that anticipates a body gets Content-Length: 0, or else 411."""
    backend = stage.serve()
    stage.ask(request(method=method))
    stage.ask(request(method="GET"))
    assert [r.get("content-length") for r in backend.requests] == [b"0", None]


def _read_1_0(client: Wire) -> tuple[bytes, bytes]:
    return client.read_until(b"\r\n\r\n"), client.read_to_end()


def test_an_http_1_0_client_gets_no_chunks_and_is_closed(stage: Stage) -> None:
    """RFC 9112 section 7.1: HTTP/1.0 does not know the coding."""
    stage.serve(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
    client = stage.client()
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    head, body = _read_1_0(client)
    assert b"transfer-encoding" not in head.lower()
    assert b"Connection: close" in head
    assert body == b"abc"


def test_an_http_1_0_client_may_ask_for_keep_alive(stage: Stage) -> None:
    """S51: honoured where a Content-Length tells the end, and confirmed, because 1.0 does not assume it."""
    stage.serve()
    client = stage.client()
    for path in ("/a", "/b"):
        client.send(f"GET {path} HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n".encode())
        answer = client.read_response()
        assert answer.get("connection") == b"keep-alive"
        assert answer.body == path.encode()


def test_an_http_1_0_backend_is_understood(stage: Stage) -> None:
    """python -m http.server and many health endpoints speak 1.0; its version does not reach the client."""
    stage.serve(after_request(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    client = stage.client()
    for _ in range(2):
        client.send(request())
        answer = client.read_response()
        assert answer.start == b"HTTP/1.1 200 OK"
        assert answer.get("connection") is None


def test_connection_close_of_the_client_ends_its_side_only(stage: Stage) -> None:
    """Hop by hop: the backend's connection is ours to keep."""
    backend = stage.serve()
    for _ in range(3):
        client = stage.client()
        client.send(request("/", "Connection: close"))
        assert client.read_response().get("connection") == b"close"
        assert client.at_end()
    assert len(backend.visits) == 1
    assert backend.requests[0].get("connection") is None


def test_connection_close_of_the_backend_ends_its_side_only(stage: Stage) -> None:
    backend = stage.serve(answering(response(b"x", "Connection: close")))
    client = stage.client()
    for _ in range(3):
        client.send(request())
        assert client.read_response().get("connection") is None
    assert len(backend.visits) == 3


def test_pipelined_requests_are_answered_in_order(stage: Stage) -> None:
    """S43: strictly one after the other, bodies included."""
    stage.serve(answering(lambda m: response(m.start.split()[1] + m.body)))
    client = stage.client()
    parts = [
        request(f"/{i}", method="POST", body=b"b%d" % i) if i % 2 else request(f"/{i}") for i in range(40)
    ]
    client.send(b"".join(parts))
    for i in range(40):
        assert client.read_response().body == (b"/%db%d" % (i, i) if i % 2 else b"/%d" % i)


def test_a_half_closed_client_still_gets_every_answer(stage: Stage) -> None:
    """F33: a client that has said all it will, `nc -N` for example, still waits for what it asked."""
    stage.serve()
    client = stage.client()
    client.send(request("/1") + request("/2") + request("/3"))
    client.half_close()
    assert [client.read_response().body for _ in range(3)] == [b"/1", b"/2", b"/3"]
    assert client.at_end()


def test_a_client_that_ends_in_its_body_cancels_the_request(stage: Stage) -> None:
    """The backend must not take half a body for a whole one."""

    def script(visit: Visit) -> None:
        with pytest.raises((Truncated, ConnectionError)):
            visit.read_request()
        visit.backend.going.set()

    backend = stage.serve(script)
    client = stage.client()
    client.send(request("/", "Content-Length: 10", method="POST") + b"12345")
    wait_for(lambda: backend.touched == 1, "the backend has the head")
    client.half_close()
    assert backend.going.wait(5)
    assert client.at_end()
    stage.wait_failure("client_gone")


def test_an_early_answer_to_a_large_upload_arrives(stage: Stage) -> None:
    """F20: a 413 in the middle of an upload must not be eaten by the reset of the upload."""

    def script(visit: Visit) -> None:
        visit.read_head()
        visit.send(response(b"too large", status="413 Content Too Large"))

    stage.serve(script)
    client = stage.client()
    client.send(request("/", "Content-Length: 1000000000", method="POST") + b"x" * 50_000)
    answer = client.read_response()
    assert (answer.status, answer.body) == (413, b"too large")
    assert answer.get("connection") == b"close"
    assert client.at_end()


def test_empty_lines_before_a_request_are_skipped(stage: Stage) -> None:
    """S34 and RFC 9112 section 2.2: old clients send them behind a body; at most two, however cut."""
    stage.serve()
    for step in (1, 100):
        client = stage.client()
        client.send_pieces(b"\r\n\r\n" + request("/a"), step)
        assert client.read_response().body == b"/a"
        client.send_pieces(b"\r\n" + request("/b"), step)
        assert client.read_response().body == b"/b"
        client.send_pieces(b"\r\n\r\n\r\n" + request("/c"), step)
        assert client.read_response().status == 400


def test_a_connection_is_closed_after_its_allotted_requests(stage: Stage) -> None:
    """Old connections must move on, or new workers never get any; announced, so none is lost."""
    stage.serve(requests_per_connection=3)
    client = stage.client()
    for expected in (None, None, b"close"):
        client.send(request())
        assert client.read_response().get("connection") == expected
    assert client.at_end()
