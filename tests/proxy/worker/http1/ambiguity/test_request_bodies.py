"""Where the body of a request ends, on the wire: S7 and S21 to S27, S39, S43, S50."""

from __future__ import annotations

import pytest

from proxy.link import scoreboard as sb
from tests.kit.backends import Visit, answering
from tests.kit.desync_bodies import ACCEPTED, REFUSED
from tests.kit.stage import Stage, words
from tests.kit.wire import Truncated, request, response
from tests.kit.workers import wait_for

_CHUNKED = request("/", "Transfer-Encoding: chunked", method="POST")
_SMUGGLED = request("/smuggled")


@pytest.mark.parametrize("row", REFUSED)
def test_a_body_that_can_end_in_two_places_reaches_no_backend(stage: Stage, row: str) -> None:
    """S21 to S27: it came with its head, so nothing of it has been sent anywhere when it is refused."""
    backend = stage.serve()
    client = stage.client()
    client.send(_CHUNKED + REFUSED[row] + _SMUGGLED)

    answer = client.read_response()
    assert (answer.status, answer.get("connection")) == (400, b"close")
    assert words(answer) == ("bad_request", ["delivered=no", "attempts=0"])
    assert client.at_end()
    assert stage.ask(request("/canary")).body == b"/canary"
    assert [seen.start for seen in backend.requests] == [b"GET /canary HTTP/1.1"]


@pytest.mark.parametrize("row", REFUSED)
def test_a_body_that_turns_out_malformed_is_visibly_cut_for_the_backend(stage: Stage, row: str) -> None:
    """S21 to S27: its head has been forwarded. The backend must not take what it has for a whole request."""
    backend = stage.serve()
    client = stage.client()
    client.send(_CHUNKED + b"1\r\na\r\n")
    wait_for(lambda: bool(backend.visits) and b"1\r\na\r\n" in backend.visits[0].received, "it is forwarded")
    client.send(REFUSED[row] + _SMUGGLED)

    answer = client.read_response()
    assert (answer.status, answer.get("connection")) == (400, b"close")
    assert words(answer) == ("bad_request", ["delivered=yes", "attempts=1"])
    assert client.at_end()
    wait_for(lambda: backend.visits[0].sock.fileno() < 0, "the backend has noticed")
    assert stage.ask(request("/canary")).body == b"/canary"
    assert [seen.start for seen in backend.requests] == [b"GET /canary HTTP/1.1"]
    assert len(backend.visits) == 2


@pytest.mark.parametrize("row", ACCEPTED)
def test_a_chunked_body_leaves_in_chunks_of_our_own(stage: Stage, row: str) -> None:
    """S24, S25 and S27: no extension, no trailer and no leading zero of the client's goes on."""
    data, payload = ACCEPTED[row]
    backend = stage.serve(answering(lambda seen: response(seen.start.split()[1])))
    client = stage.client()
    client.send(_CHUNKED + data + request("/next"))

    assert [client.read_response().body for _ in range(2)] == [b"/", b"/next"]
    first, second = backend.requests
    assert (first.body, first.chunked) == (payload, True)
    assert first.get("trailer") is None
    assert second.start == b"GET /next HTTP/1.1"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(payload), payload) if payload else b"0\r\n\r\n"
    assert backend.visits[0].received.startswith(first.raw_head + chunks + b"GET /next ")


def test_s25_extensions_are_bounded_over_the_whole_message(stage: Stage) -> None:
    """Each line is small enough; together they would be work without payload, for as long as one likes."""
    backend = stage.serve()
    client = stage.client()
    client.send(_CHUNKED)
    for _ in range(70):
        client.send(b"1;" + b"e" * 250 + b"\r\na\r\n")

    assert client.read_response().status == 400
    assert backend.requests == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "FROB"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_s7_a_body_of_any_method_is_forwarded_as_a_body(stage: Stage, method: str, framing: str) -> None:
    """Legal, if unusual. What follows it is the next request and never its end."""
    body = _SMUGGLED
    backend = stage.serve(answering(lambda seen: response(b"" if seen.start.startswith(b"HEAD") else b"ok")))
    client = stage.client()
    if framing == "length":
        client.send(request(method=method, body=body) + request("/next"))
    else:
        client.send(
            request("/", "Transfer-Encoding: chunked", method=method)
            + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            + request("/next")
        )

    assert client.read_response(method).status == 200
    assert client.read_response().body == b"ok"
    assert [seen.start.split()[1] for seen in backend.requests] == [b"/", b"/next"]
    assert backend.requests[0].body == body


def _answers_at_the_head(visit: Visit) -> None:
    """Answer each head at once and take whatever follows for the next request, as a careless server does."""
    while True:
        head = visit.read_head()
        visit.backend.requests.append(head)
        visit.send(response(head.start.split()[1]))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_s7_s50_an_answer_before_the_body_is_whole_ends_both_connections(stage: Stage, method: str) -> None:
    """CL.0 and TE.0: the rest of the body would be a request for a backend that did not expect a body."""
    backend = stage.serve(_answers_at_the_head)
    client = stage.client()
    client.send(request("/first", f"Content-Length: {len(_SMUGGLED)}", method=method))

    answer = client.read_response()
    assert (answer.body, answer.get("connection")) == (b"/first", b"close")
    client.send(_SMUGGLED)
    assert client.at_end()
    assert stage.ask(request("/canary")).body == b"/canary"
    assert [seen.start.split()[1] for seen in backend.requests] == [b"/first", b"/canary"]
    assert len(backend.visits) == 2


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_s7_a_body_nobody_expects_never_answers_the_next_request(stage: Stage, method: str) -> None:
    """CL.0 in one segment: two answers come. Whether the body was read stays open: nobody gets the second."""
    backend = stage.serve(_answers_at_the_head)
    for number in range(10):
        client = stage.client()
        client.send(request(f"/{number}", method=method, body=_SMUGGLED) + request(f"/next/{number}"))
        assert client.read_response(method).status == 200
        assert client.read_response().body == b"/next/%d" % number
        assert stage.ask(request(f"/other/{number}")).body == b"/other/%d" % number
    assert b"/smuggled" in {seen.start.split()[1] for seen in backend.requests}


def test_s7_an_answer_too_many_makes_the_connection_unfit(stage: Stage) -> None:
    """CL.0 of a POST: the answer to its body arrives on a connection at rest, or behind the first answer."""
    backend = stage.serve(_answers_at_the_head)
    head = stage.worker.head

    def unfit() -> int:
        return head(sb.UPSTREAM_EXTRA_BYTES) + head(sb.UPSTREAM_UNSOLICITED) + head(sb.UPSTREAM_CLOSED)

    for number in range(10):
        before = unfit()
        assert stage.ask(request(f"/{number}", method="POST", body=_SMUGGLED)).body == b"/%d" % number
        wait_for(lambda before=before: unfit() > before, "it is seen and counted")  # type: ignore[misc]
        assert stage.ask(request(f"/next/{number}")).body == b"/next/%d" % number
    assert [seen.start for seen in backend.requests].count(b"GET /smuggled HTTP/1.1") == 10


def test_s50_an_early_answer_stops_the_upload(stage: Stage) -> None:
    """F20: a gigabyte is on its way when 413 comes. That arrives, and little more is taken of the rest."""
    body = b"too large" * 1000

    def script(visit: Visit) -> None:
        visit.read_head()
        visit.send(response(body, status="413 Content Too Large"))
        visit.backend.going.wait(30)

    backend = stage.serve(script)
    client = stage.client()
    client.send(request("/", "Content-Length: 1000000000", method="POST"))
    wait_for(lambda: backend.touched == 1, "the backend has the head")
    client.sock.settimeout(0.5)
    sent = 0
    try:
        while sent < 100_000_000:
            sent += client.sock.send(b"x" * 65_536)
    except OSError:
        pass  # it does not take any more, or has ended the connection
    client.sock.settimeout(15)

    answer = client.read_response()
    assert (answer.status, answer.body) == (413, body)
    assert answer.get("connection") == b"close"
    assert client.at_end()
    assert sent < 50_000_000
    wait_for(stage.settled, "nothing in flight")


def test_s50_request_and_response_may_stream_side_by_side(stage: Stage) -> None:
    """An answer that begins before the request has ended is not early: a converter answers as it reads."""

    def script(visit: Visit) -> None:
        visit.read_head()
        visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            visit.read_until(b"\r\n")
            visit.send(b"1\r\n%b\r\n" % visit.read_exactly(3)[:1])
        assert visit.read_exactly(5) == b"0\r\n\r\n"
        visit.send(b"0\r\n\r\n")

    stage.serve(script)
    client = stage.client()
    client.send(_CHUNKED)
    assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    for letter in (b"a", b"b", b"c"):
        client.send(b"1\r\n" + letter + b"\r\n")
        assert client.read_until(b"\r\n" + letter + b"\r\n").startswith(b"1")
    client.send(b"0\r\n\r\n")
    assert client.read_exactly(5) == b"0\r\n\r\n"


def test_s43_pipelined_requests_are_served_in_order_and_one_at_a_time(stage: Stage) -> None:
    """The second one reaches a backend only when the first has been answered."""

    def script(visit: Visit) -> None:
        while True:
            seen = visit.read_request()
            assert not visit.buffer, "a second request before the answer to the first"
            visit.send(response(seen.start.split()[1]))

    backend = stage.serve(script)
    client = stage.client()
    client.send(b"".join(request(f"/{number}") for number in range(300)))
    for number in range(300):
        assert client.read_response().body == b"/%d" % number
    assert len(backend.visits) == 1


@pytest.mark.parametrize("end", ["half a request", "half a body"])
def test_s43_what_is_pipelined_and_never_whole_is_not_forwarded_whole(stage: Stage, end: str) -> None:
    """The requests before it keep their answers."""
    whole = request("/half") if end == "half a request" else request("/half", method="PUT", body=b"abc")
    backend = stage.serve()
    client = stage.client()
    client.send(request("/1") + whole[:-2])
    client.half_close()

    assert client.read_response().body == b"/1"
    with pytest.raises((Truncated, ConnectionError)):
        client.read_response()
    assert [seen.start.split()[1] for seen in backend.requests] == [b"/1"]
