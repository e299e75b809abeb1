"""Responses that can be read in two ways, too long or too short, on the wire: S41 and S45 to S49."""

from __future__ import annotations

import pytest

from proxy.link import scoreboard as sb
from tests.kit.backends import Visit, after_request, answering, resetting, stalling
from tests.kit.desync_bodies import ACCEPTED
from tests.kit.desync_bodies import REFUSED as REFUSED_BODIES
from tests.kit.desync_responses import REFUSED
from tests.kit.stage import Stage, words
from tests.kit.wire import Truncated, request, response
from tests.kit.workers import wait_for

_CUT = (Truncated, ConnectionError)
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _gone(stage: Stage) -> bool:
    return stage.worker.head(sb.UPSTREAMS) == 0


@pytest.mark.parametrize("row", REFUSED)
def test_s45_an_answer_that_can_be_read_in_two_ways_is_a_502(stage: Stage, row: str) -> None:
    """S45: its connection ends with it; the client's is kept, since nothing of it went there."""
    made = stage.serve(stalling(REFUSED[row], b"3\r\nabc\r\n0\r\n\r\n", response(b"evil")))
    client = stage.client()
    for number in (1, 2):
        client.send(request())
        answer = client.read_response()
        assert (answer.status, answer.get("connection")) == (502, None)
        assert words(answer) == ("response_malformed", ["delivered=yes", "attempts=1"])
        assert len(made.visits) == number
    wait_for(lambda: _gone(stage), "its connections are closed")
    stage.wait_failure("response_malformed", 2)


@pytest.mark.parametrize("row", REFUSED_BODIES)
def test_s45_chunks_that_can_be_read_in_two_ways_are_a_502(stage: Stage, row: str) -> None:
    """They came with the head, so nothing has been sent yet, and the client can be told."""
    stage.serve(stalling(_CHUNKED + REFUSED_BODIES[row]))
    answer = stage.ask(request())
    assert (answer.status, words(answer)[0]) == (502, "response_malformed")


@pytest.mark.parametrize("row", REFUSED_BODIES)
def test_s48_chunks_that_turn_out_malformed_cut_the_answer(stage: Stage, row: str) -> None:
    """What has been sent cannot be taken back; the client must see that something is missing."""

    def script(visit: Visit) -> None:
        visit.read_request()
        visit.send(_CHUNKED + b"3\r\nabc\r\n")
        visit.backend.going.wait(30)
        visit.send(REFUSED_BODIES[row])
        visit.more()

    made = stage.serve(script)
    client = stage.client()
    client.send(request())
    client.read_until(b"abc\r\n")
    made.going.set()
    with pytest.raises(_CUT):
        client.read_until(b"0\r\n\r\n")
    stage.wait_failure("response_truncated")


@pytest.mark.parametrize("row", ACCEPTED)
def test_chunks_of_a_response_arrive_in_chunks_of_our_own(stage: Stage, row: str) -> None:
    data, payload = ACCEPTED[row]
    made = stage.serve(answering(_CHUNKED.replace(b"\r\n\r\n", b"\r\nTrailer: X-Sum\r\n\r\n") + data))
    client = stage.client()
    for _ in range(2):
        client.send(request())
        answer = client.read_response()
        assert (answer.body, answer.chunked, answer.get("trailer")) == (payload, True, None)
    assert len(made.visits) == 1


@pytest.mark.parametrize("first", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\0", b""], ids=["SSH", "NUL", ""])
@pytest.mark.parametrize("end", ["fin", "rst"])
def test_s47_what_a_backend_says_before_it_is_asked_is_no_answer(
    stage: Stage, first: bytes, end: str
) -> None:
    """Another protocol, or a connection that ends as it begins: an answer comes soon, and it is ours."""

    def script(visit: Visit) -> None:
        if first:
            visit.send(first)
        if end == "rst":
            visit.reset()

    stage.serve(script)
    for _ in range(20):
        answer = stage.ask(request(method="POST", body=b"x"))
        assert answer.status in (502, 503)
        assert words(answer)[0] in ("connect_refused", "closed_before_response", "response_malformed")
    wait_for(stage.settled, "nothing in flight")
    wait_for(lambda: _gone(stage), "every connection is closed")


_NO_BODY = {
    "HEAD with CL": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"4"),
    "HEAD with TE": ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
    "204 with CL": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n", None),
    "204 with TE": ("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", None),
    "304 with CL": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", b"4"),
    "304 with TE": ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", None),
}


@pytest.mark.parametrize("row", _NO_BODY)
@pytest.mark.parametrize("body", [b"", b"body", b"4\r\nbody\r\n0\r\n\r\n", response(b"evil")], ids=repr)
def test_s41_a_body_that_must_not_be_there_goes_nowhere(stage: Stage, row: str, body: bytes) -> None:
    """S41: HEAD, 204 and 304 have none. What comes all the same makes the connection unfit."""
    method, head, length = _NO_BODY[row]
    made = stage.serve(answering(head + body))
    client = stage.client()
    for _ in range(3):
        client.send(request(method=method))
        answer = client.read_response(method)
        assert (answer.get("content-length"), answer.get("transfer-encoding")) == (length, None)
        assert client.buffer == b""
    assert len(made.visits) == (3 if body else 1)


@pytest.mark.parametrize("extra", [b"x", b"\r\n", b"\0", response(b"evil")], ids=repr)
@pytest.mark.parametrize(
    "answer",
    [response(b"ok"), _CHUNKED + b"2\r\nok\r\n0\r\n\r\n", response(b"")],
    ids=["length", "chunks", "empty"],
)
def test_s46_bytes_behind_an_answer_are_nobodys(stage: Stage, answer: bytes, extra: bytes) -> None:
    """S46 and F17: it is delivered, its connection closed and counted; the next answer is for the next."""
    made = stage.serve(answering(answer + extra))
    before = stage.worker.head(sb.UPSTREAM_EXTRA_BYTES)
    client = stage.client()
    for _ in range(5):
        client.send(request())
        assert client.read_response().body == (b"" if answer == response(b"") else b"ok")
    assert client.buffer == b""
    assert len(made.visits) == 5
    wait_for(lambda: stage.worker.head(sb.UPSTREAM_EXTRA_BYTES) == before + 5, "each is counted")


@pytest.mark.parametrize(
    ("said", "cell"),
    [
        (b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", sb.UPSTREAM_UNSOLICITED),
        (b"x", sb.UPSTREAM_UNSOLICITED),
        (b"", sb.UPSTREAM_CLOSED),
    ],
    ids=["an answer", "a byte", "its end"],
)
def test_s47_a_kept_connection_that_speaks_or_ends_is_not_used(stage: Stage, said: bytes, cell: int) -> None:
    """S47: discarded as soon as it happens, and counted; the next request, even a POST, gets a fresh one."""

    def script(visit: Visit) -> None:
        visit.send(response(visit.read_request().start.split()[1]))
        assert visit.backend.going.wait(30)
        if said:
            visit.send(said)
            visit.more()

    made = stage.serve(script)
    for number in range(5):
        before = stage.worker.head(cell)
        made.going.clear()
        assert stage.ask(request(f"/{number}", method="POST")).body == b"/%d" % number
        made.going.set()
        wait_for(lambda before=before: stage.worker.head(cell) == before + 1, "it is counted")  # type: ignore[misc]
        wait_for(lambda: _gone(stage), "it is discarded")
    assert len(made.visits) == 5


_SHORT = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
    "length, nothing": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
    "chunks, inside one": _CHUNKED + b"5\r\nabc",
    "chunks, between two": _CHUNKED + b"3\r\nabc\r\n",
    "chunks, inside a size": _CHUNKED + b"3\r\nabc\r\n1",
    "chunks, before the last CRLF": _CHUNKED + b"3\r\nabc\r\n0\r\n",
    "chunks, inside the last CRLF": _CHUNKED + b"3\r\nabc\r\n0\r\n\r",
    "chunks, inside a trailer": _CHUNKED + b"3\r\nabc\r\n0\r\nX: y",
}


@pytest.mark.parametrize("row", _SHORT)
@pytest.mark.parametrize("end", [after_request, resetting], ids=["fin", "rst"])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_s48_an_answer_cut_short_is_visibly_cut(stage: Stage, row: str, end: type, version: str) -> None:
    """S48: no padding, no last chunk; and for HTTP/1.0, where an end is an end, a reset."""
    stage.serve(end(_SHORT[row]))
    client = stage.client()
    client.send(f"GET / {version}\r\nHost: a.test\r\n\r\n".encode())
    if version == "HTTP/1.0" and row.startswith("chunks"):
        with pytest.raises(ConnectionResetError):
            client.read_to_end()
    else:
        with pytest.raises(_CUT):
            client.read_response()
    stage.wait_failure("response_truncated")
    wait_for(stage.settled, "nothing in flight")


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("backend_version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_s49_a_body_that_ends_with_its_connection_is_whole(
    stage: Stage, version: str, backend_version: bytes
) -> None:
    """S49: chunks for a client that knows them, so that it can tell and its connection be kept."""
    made = stage.serve(after_request(backend_version + b" 200 OK\r\n\r\nabc", b"def"))
    client = stage.client()
    if version == "HTTP/1.0":
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        head, body = client.read_until(b"\r\n\r\n"), client.read_to_end()
        assert b"\r\nConnection: close\r\n" in head
        assert body == b"abcdef"
        return
    for _ in range(2):
        client.send(request())
        answer = client.read_response()
        assert (answer.chunked, answer.body, answer.get("connection")) == (True, b"abcdef", None)
    assert len(made.visits) == 2


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("how", ["rst", "silence"])
def test_s49_a_body_until_close_that_does_not_end_well_is_cut(stage: Stage, version: str, how: str) -> None:
    """S49 and F13: only FIN is its end. A reset or a silence is none, and must not be made one."""
    head = b"HTTP/1.1 200 OK\r\n\r\nabc"
    stage.serve(resetting(head) if how == "rst" else stalling(head), response_idle_s=0.3)
    client = stage.client()
    client.send(f"GET / {version}\r\nHost: a.test\r\n\r\n".encode())
    if version == "HTTP/1.0":
        with pytest.raises(ConnectionResetError):
            client.read_to_end()
    else:
        with pytest.raises(_CUT):
            client.read_response()
    stage.wait_failure("response_truncated" if how == "rst" else "response_idle")
