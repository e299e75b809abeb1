"""When one side ends, stalls or says too much: the other side must see it, and nobody else may."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from proxy.link import scoreboard as sb
from tests.kit.backends import Visit, after_request, answering, stalling
from tests.kit.stage import Stage
from tests.kit.wire import Truncated, request, response
from tests.kit.workers import wait_for

CUT = (Truncated, ConnectionError)


def test_a_response_that_falls_silent_is_cut(stage: Stage) -> None:
    """F23."""
    stage.serve(stalling(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"), response_idle_s=0.3)
    client = stage.client()
    client.send(request())
    with pytest.raises(CUT):
        client.read_response()
    stage.wait_failure("response_idle")


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("extra", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"])
def test_bytes_behind_a_response_never_become_an_answer(stage: Stage, extra: bytes, gap: bool) -> None:
    """S46, S47 and F17: the next request, whoever's it is, gets a clean connection."""
    step = 0.002 if gap else 0.0

    def script(visit: Visit) -> None:
        while True:
            got = visit.read_request()
            answer = response(got.start.split()[1])
            if not gap:
                visit.send(answer + extra)
            else:
                visit.send(answer)
                visit.backend.going.wait(step)
                visit.send(extra)

    backend = stage.serve(script)
    client = stage.client()
    for number in range(20):
        client.send(request(f"/{number}"))
        assert client.read_response().body == b"/%d" % number
        if gap:
            wait_for(lambda: stage.worker.head(sb.UPSTREAMS) == 0, "the connection is discarded")
    assert len(backend.visits) == 20


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_closed_while_idle_is_not_used(stage: Stage, method: str) -> None:
    """F7: with a short keep-alive of the backend this happens all day, also to a POST."""
    backend = stage.serve(after_request(response(b"ok")))
    client = stage.client()
    for _ in range(30):
        client.send(request(method=method))
        assert client.read_response().body == b"ok"
        wait_for(lambda: backend.visits[-1].sock.fileno() < 0, "the backend has closed")
    assert len(backend.visits) == 30
    succeeded = sb.REQUESTS + sb.METHODS.index(method) * len(sb.CODE_CLASSES) + 2
    wait_for(lambda: stage.cell(succeeded) == 30, "all are counted")


@pytest.mark.parametrize("last_words", [b"", response(b"evil")])
def test_what_the_loop_has_not_read_yet_is_seen_before_a_connection_is_reused(
    stage: Stage, last_words: bytes
) -> None:
    """S47: a request and the end of an idle connection may arrive in one turn of the loop, in this order."""

    def script(visit: Visit) -> None:
        visit.read_request()
        visit.send(response(b"ok"))
        if visit.number == 0:
            visit.backend.going.wait(10)
            visit.send(last_words)
        else:
            visit.read_request()

    backend = stage.serve(script)
    client = stage.client()
    client.send(request())
    assert client.read_response().body == b"ok"
    process = stage.worker.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: _is_stopped(process.pid), "the worker stands still")
        client.send(request("/next", method="POST"))
        backend.going.set()
        wait_for(lambda: backend.visits[0].sock.fileno() < 0, "the backend has closed")
    finally:
        process.send_signal(signal.SIGCONT)
    answer = client.read_response()
    assert (answer.status, answer.body) == (200, b"ok")
    assert len(backend.visits) == 2


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_client_that_resets_cancels_what_the_backend_does(stage: Stage) -> None:
    """F32: nobody reads the answer, so nobody should compute it."""

    def script(visit: Visit) -> None:
        visit.read_request()
        with pytest.raises((Truncated, ConnectionError)):
            visit.read_exactly(1)
        visit.backend.going.set()

    backend = stage.serve(script)
    client = stage.client()
    client.send(request())
    wait_for(lambda: backend.touched == 1, "the backend has the request")
    client.reset()
    assert backend.going.wait(2)
    stage.wait_failure("client_gone")
    wait_for(stage.settled, "nothing in flight")


def test_a_client_that_resets_in_its_upload_cancels_it(stage: Stage) -> None:
    """F32: half a body must not be taken for a whole one."""

    def script(visit: Visit) -> None:
        with pytest.raises((Truncated, ConnectionError)):
            visit.read_request()
        visit.backend.going.set()

    backend = stage.serve(script)
    client = stage.client()
    client.send(request("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n")
    wait_for(lambda: backend.touched == 1, "the backend has the head")
    client.reset()
    assert backend.going.wait(2)
    stage.wait_failure("client_gone")


def test_a_malformed_chunk_in_the_middle_of_an_upload_cancels_it(stage: Stage) -> None:
    """Rule 5: 400 for the client, and a visible cut for the backend."""

    def script(visit: Visit) -> None:
        with pytest.raises((Truncated, ConnectionError)):
            visit.read_request()
        visit.backend.going.set()

    backend = stage.serve(script)
    client = stage.client()
    client.send(request("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n")
    wait_for(lambda: backend.touched == 1, "the backend has the head")
    client.send(b"3\nabc\r\n0\r\n\r\n" + request("/smuggled"))
    assert client.read_response().status == 400
    assert client.at_end()
    assert backend.going.wait(2)
    assert backend.requests == []


def test_a_slow_reader_gets_the_whole_of_a_last_response(stage: Stage) -> None:
    """The time to linger is for bytes of the client; what is still on its way to it has its own."""
    size = 7_000_000
    stage.serve(answering(response(b"x" * size)), buffer_bytes=2 * size)
    client = stage.client(receive_buffer_bytes=4096)
    client.keep_received = False
    client.send(request("/", "Connection: close"))
    wait_for(lambda: stage.cell(sb.RESPONSE_BYTES) == size, "the exchange is over")
    _let_pass_s(stage, 2.75)
    assert len(client.read_to_end().partition(b"\r\n\r\n")[2]) == size


def _let_pass_s(stage: Stage, duration_s: float) -> None:
    """Return once the worker's own clock has moved on so far."""
    until_ms = stage.worker.head(sb.HEARTBEAT_MS) + duration_s * 1000
    wait_for(lambda: stage.worker.head(sb.HEARTBEAT_MS) >= until_ms, f"{duration_s} s of the worker's clock")


def _wait_responses(stage: Stage, count: int, size: int) -> None:
    wait_for(lambda: stage.cell(sb.RESPONSE_BYTES) == count * size, f"{count} responses", 0.5)


def test_a_backends_connection_is_read_again_after_a_slow_client(stage: Stage) -> None:
    """Paused for one client's sake, it must not stay deaf for the next request.

    A response that comes in one read fills the client's buffer and ends in the same moment.
    """
    size = 200_000
    stage.serve(answering(response(b"x" * size)), response_head_s=1.0, buffer_bytes=4096)
    slow = stage.client(receive_buffer_bytes=65_536)
    rounds = 100
    for number in range(rounds):
        slow.send(request())
        try:
            _wait_responses(stage, 2 * number + 1, size)
        except AssertionError:
            assert number > 2
            break  # the client is full to the brim
        answer = stage.ask(request())
        assert (answer.status, len(answer.body)) == (200, size)
        _wait_responses(stage, 2 * number + 2, size)
    else:
        raise AssertionError("the client never was full")
    assert stage.failures("response_timeout") == 0


def test_a_client_that_reads_nothing_is_given_up(stage: Stage) -> None:
    """F30: it holds a connection of the backend, and memory here."""
    stage.serve(answering(response(b"x" * 30_000_000)), client_write_s=0.5)
    client = stage.client(receive_buffer_bytes=4096)
    client.keep_received = False
    client.send(request())
    stage.wait_failure("client_gone")
    with pytest.raises(CUT):
        client.read_response()
    wait_for(stage.settled, "nothing in flight")


@pytest.mark.parametrize("lines", [(), ("Connection: close",)])
def test_a_client_that_leaves_the_end_of_a_response_unread_is_given_up(
    stage: Stage, lines: tuple[str, ...]
) -> None:
    """F30: also where the exchange is over and only our buffer still holds the rest."""
    before = stage.worker.head(sb.CLIENTS)
    stage.serve(
        answering(response(b"x" * 6_000_000)), client_write_s=1.0, client_idle_s=1.0, buffer_bytes=8_000_000
    )
    client = stage.client(receive_buffer_bytes=4096)
    client.send(request("/", *lines))
    wait_for(lambda: stage.cell(sb.RESPONSE_BYTES) == 6_000_000, "the exchange is over")
    wait_for(lambda: stage.worker.head(sb.CLIENTS) == before, "the client is gone")


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_a_pipelined_request_that_will_never_be_whole_is_given_up_at_once(stage: Stage, framing: str) -> None:
    """Its client has ended while the request before it was served: no body timeout has to pass for that."""
    backend = stage.serve()
    client = stage.client()
    client.send(request("/first") + request("/half", framing, method="POST"))
    client.half_close()
    assert client.read_response().body == b"/first"
    assert client.at_end()
    assert [message.start for message in backend.requests] == [b"GET /first HTTP/1.1"]
    wait_for(stage.settled, "nothing in flight")
