"""Every timeout and limit of the data plane, reached through real sockets, and what it answers."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.link import scoreboard as sb
from proxy.settings import Limits, Timeouts, WorkerSettings
from proxy.worker.http1.progress import BodyProgress
from proxy.worker.upkeep import tune
from tests.kit.backends import ScriptedBackend, Visit, answering, stalling
from tests.kit.stage import Stage, words
from tests.kit.wire import Truncated, Wire, request, response
from tests.kit.workers import wait_for

CUT = (Truncated, ConnectionError)


def _until_answered(client: Wire, data: bytes, *, every_s: float = 0.03) -> int:
    """Send *data* again and again until something comes back; return how often it was sent."""
    for count in range(1, 1000):
        try:
            client.send(data)
        except ConnectionError:
            return count
        if select.select([client.sock], [], [], every_s)[0]:
            return count
    raise AssertionError("no answer")


# Heads


def _line(size: int) -> bytes:
    """Return a request whose first line is *size* bytes long."""
    return request("/" + "x" * (size - len("GET / HTTP/1.1")))


def _header(size: int) -> bytes:
    """Return a request with a header line of *size* bytes, CRLF included."""
    return request("/", "X: " + "y" * (size - len("X: \r\n")))


def _head(size: int) -> bytes:
    head = request("/", *["X: " + "y" * 1000] * 31)
    return request("/", *["X: " + "y" * 1000] * 31, "Y: " + "z" * (size - len(head) - 5))


def _headers(count: int) -> bytes:
    return request("/", *["X: y"] * (count - 1))


@pytest.mark.parametrize(
    ("make", "largest", "status"),
    [(_line, 8192, 414), (_header, 16_384, 431), (_head, 32_768, 431), (_headers, 100, 431)],
)
def test_a_head_as_large_as_allowed_passes_and_one_byte_more_is_refused(
    stage: Stage, make: Callable[[int], bytes], largest: int, status: int
) -> None:
    """The defaults: request_line_bytes, request_header_bytes, request_head_bytes, request_headers."""
    made = stage.serve(answering(response(b"ok")))
    assert stage.ask(make(largest)).status == 200
    touched = made.touched
    answer = stage.ask(make(largest + 1))
    assert (answer.status, words(answer)) == (status, ("head_too_large", ["delivered=no", "attempts=0"]))
    assert answer.get("connection") == b"close"
    assert made.touched == touched


@pytest.mark.parametrize(
    "lines", [["X: " + "y" * 1000] * 66, ["X: y"] * 200], ids=["response_head_bytes", "response_headers"]
)
def test_a_response_head_that_is_too_large_is_502(stage: Stage, lines: list[str]) -> None:
    """More than 64 KiB, or more than 200 headers with the Content-Length; a little less passes."""
    stage.serve(answering(response(b"ok", *lines[2:])))
    assert stage.ask(request()).status == 200
    stage.serve(answering(response(b"ok", *lines)))
    answer = stage.ask(request())
    assert (answer.status, words(answer)[0]) == (502, "response_malformed")


@pytest.mark.parametrize("changes", [{"response_head_bytes": 500}, {"response_headers": 3}])
def test_limits_on_response_heads_can_be_set(stage: Stage, changes: dict[str, int]) -> None:
    stage.serve(answering(response(b"ok", *["X: " + "y" * 200] * 3)), **changes)
    assert stage.ask(request()).status == 502


def test_a_head_that_trickles_is_408_and_the_end(stage: Stage) -> None:
    """request_head_s is absolute from the first byte."""
    stage.serve(request_head_s=0.3)
    client = stage.client()
    _until_answered(client, b"G")
    answer = client.read_response()
    assert answer.status in (400, 408)
    client = stage.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
    _until_answered(client, b"y")
    answer = client.read_response()
    assert (answer.status, words(answer)[0]) == (408, "head_timeout")
    assert answer.get("connection") == b"close"
    assert client.at_end()


# Bodies of requests


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_a_body_that_trickles_is_408(stage: Stage, framing: str) -> None:
    """It never falls silent for long, so request_body_s does not see it; request_body_bytes_per_s does."""
    made = stage.serve(request_body_s=60.0, request_body_grace_s=0.5, request_body_bytes_per_s=2000)
    client = stage.client()
    client.send(request("/", framing, method="POST"))
    _until_answered(client, b"1\r\nx\r\n" if "chunked" in framing else b"x")
    answer = client.read_response()
    assert (answer.status, words(answer)) == (408, ("body_timeout", ["delivered=yes", "attempts=1"]))
    assert client.at_end()
    wait_for(lambda: made.visits[0].sock.fileno() < 0, "the backend sees that the request is cut")
    assert made.requests == []


def test_a_body_in_no_hurry_is_taken_where_that_is_wanted(stage: Stage) -> None:
    """0: as slow as it likes."""
    stage.serve(
        answering(response(b"ok")), request_body_grace_s=0.2, request_body_bytes_per_s=0, request_body_s=60.0
    )
    client = stage.client()
    client.send(request("/", "Content-Length: 20", method="POST"))
    until_ms = stage.worker.head(sb.HEARTBEAT_MS) + 1500
    client.send(b"x" * 10)
    wait_for(lambda: stage.worker.head(sb.HEARTBEAT_MS) > until_ms, "a second")
    client.send(b"x" * 10)
    assert client.read_response().status == 200


def test_a_body_that_falls_silent_is_408(stage: Stage) -> None:
    stage.serve(request_body_s=0.3)
    client = stage.client()
    client.send(request("/", "Content-Length: 20", method="POST") + b"x")
    answer = client.read_response()
    assert (answer.status, words(answer)[0]) == (408, "body_timeout")


SETTINGS = WorkerSettings(
    timeouts=Timeouts(request_body_grace_s=10.0), limits=Limits(request_body_bytes_per_s=500)
)


def test_the_average_counts_from_the_first_byte_on() -> None:
    """Whoever waits for 100 Continue has not begun yet; before the grace is over nothing is too slow."""
    progress = BodyProgress()
    assert not progress.too_slow(1000.0, 1, SETTINGS)
    assert not progress.too_slow(1010.0, 1, SETTINGS)
    assert progress.too_slow(1010.1, 5049, SETTINGS)
    assert not progress.too_slow(1010.1, 5051, SETTINGS)
    assert progress.too_slow(1100.0, 49_999, SETTINGS)
    assert not progress.too_slow(1100.0, 50_000, SETTINGS)


def test_the_time_in_which_nobody_reads_is_not_the_clients() -> None:
    """A task that is slow to take an upload must not cost the client a 408."""
    progress = BodyProgress()
    progress.pause(990.0)
    progress.resume(995.0)  # before its first byte
    assert not progress.too_slow(1000.0, 1000, SETTINGS)
    progress.pause(1001.0)
    progress.resume(1091.0)
    assert not progress.too_slow(1100.0, 1000, SETTINGS)
    assert not progress.too_slow(1101.0, 6000, SETTINGS)
    assert progress.too_slow(1101.0, 5000, SETTINGS)


@pytest.mark.parametrize("lines", [(), ("Expect: 100-continue",)])
def test_a_body_that_says_that_it_is_too_large_is_refused_before_it_comes(
    stage: Stage, lines: tuple[str, ...]
) -> None:
    """request_body_bytes: 413, and no task hears of it."""
    made = stage.serve(answering(response(b"ok")), request_body_bytes=1000)
    client = stage.client()
    client.send(request("/", "Content-Length: 1001", *lines, method="PUT"))
    answer = client.read_response()
    assert (answer.status, words(answer)) == (413, ("body_too_large", ["delivered=no", "attempts=0"]))
    assert client.at_end()
    assert made.touched == 0
    assert stage.ask(request(method="PUT", body=b"x" * 1000)).status == 200


@pytest.mark.parametrize("size", [1000, 1001, 5000])
def test_chunks_are_counted(stage: Stage, size: int) -> None:
    """In the packet of the head, and later; what is over the limit reaches no task."""
    made = stage.serve(answering(response(b"ok")), request_body_bytes=1000)
    body = b"%x\r\n%b\r\n" % (size, b"x" * size) + b"0\r\n\r\n"
    status = 200 if size == 1000 else 413
    head = request("/", "Transfer-Encoding: chunked", method="PUT")
    assert stage.ask(head + body).status == status
    heads = _heads(made)
    client = stage.client()
    client.send(head)
    wait_for(lambda: _heads(made) == heads + 1, "the head is there")
    client.send(body)
    answer = client.read_response()
    assert answer.status == status
    if status == 413:
        assert words(answer) == ("body_too_large", ["delivered=yes", "attempts=1"])
        assert made.requests == []
        stage.wait_failure("body_too_large")


def _heads(backend: ScriptedBackend) -> int:
    return sum(visit.received.count(b"PUT ") for visit in backend.visits)


# Clients that do not read, do not leave, or stay for ever


def test_a_body_until_close_that_nobody_reads_ends_with_a_reset(stage: Stage) -> None:
    """client_write_s: to an HTTP/1.0 client a FIN would be the end of a whole response."""
    size = 8_000_000
    stage.serve(answering(response(b"x" * size)), client_write_s=0.5, buffer_bytes=2 * size)
    client = stage.client(receive_buffer_bytes=4096)
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    wait_for(lambda: stage.cell(sb.RESPONSE_BYTES) == size, "the exchange is over")
    wait_for(lambda: not _connected(stage, client), "the client is given up")
    with pytest.raises(ConnectionResetError):
        client.read_to_end()


def _connected(stage: Stage, client: Wire) -> bool:
    """Return whether the worker still has its end of *client*."""
    address = f"{client.sock.getsockname()[1]:04X}"
    ends = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(
        end[1].endswith(f":{stage.worker.port:04X}") and end[2].endswith(f":{address}") and end[9] != "0"
        for end in ends
    )


def test_a_slow_reader_is_not_one_that_does_not_read(stage: Stage) -> None:
    """As long as it takes something within client_write_s."""
    size = 20_000_000
    stage.serve(answering(response(b"x" * size)), client_write_s=2.0)
    client = stage.client(receive_buffer_bytes=65_536)
    client.send(request())
    client.read_until(b"\r\n\r\n")
    received = len(client.buffer)
    until_ms = stage.worker.head(sb.HEARTBEAT_MS) + 3500
    while stage.worker.head(sb.HEARTBEAT_MS) < until_ms:
        if received < size // 2:
            received += len(client.sock.recv(16_384))
        elif received < size - 65_536:
            received += len(client.sock.recv(1024))
        threading.Event().wait(0.005)
    client.buffer = b""
    assert len(client.read_exactly(size - received)) == size - received


def test_connections_inherit_what_their_listener_was_told() -> None:
    """TCP_USER_TIMEOUT: a client that vanishes with bytes unacknowledged, or keeps its window shut."""
    with socket.socket() as listening, socket.socket() as client:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        tune(listening, Timeouts(client_write_s=30.0))
        client.connect(listening.getsockname())
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        tune(listening, replace(Timeouts(), client_write_s=1e12))
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2**31 - 1


def test_who_goes_on_sending_after_a_refusal_is_not_listened_to_for_ever(stage: Stage) -> None:
    """linger_bytes: the rest waits in the client's own kernel; linger_s: then the connection is gone."""
    stage.serve(linger_bytes=5000, linger_s=3.0)
    client = stage.client()
    client.send(b"GET /bad head\r\n\r\n")
    assert client.read_response().status == 400
    client.sock.setblocking(False)
    sent = 0
    with suppress(ConnectionError):
        while select.select([], [client.sock], [], 0.7)[1]:
            sent += client.sock.send(b"x" * 65_536)
            assert sent < 200_000_000
    assert sent > 5000
    wait_for(lambda: not _connected(stage, client), "the connection is gone")


def test_what_a_client_had_sent_already_does_not_cost_it_the_answer(stage: Stage) -> None:
    """linger_bytes, the default: a body on its way is read and dropped, so that the 413 arrives."""
    stage.serve(request_body_bytes=1000)
    client = stage.client()
    client.send(request("/", "Content-Length: 60000", method="POST") + b"x" * 60_000)
    assert client.read_response().status == 413


def test_an_old_connection_ends_with_its_next_response(stage: Stage) -> None:
    """client_age_s; the response says so, and nothing is cut."""
    stage.serve(client_age_s=0.5)
    client = stage.client()
    for number in range(1000):
        client.send(request(f"/{number}"))
        answer = client.read_response()
        assert answer.body == b"/%d" % number
        if answer.get("connection") == b"close":
            break
        threading.Event().wait(0.02)
    assert 1 < number < 999
    assert client.at_end()


# Backends


def _rounds(stage: Stage, count: int) -> None:
    for _ in range(count):
        assert stage.ask(request()).status == 200


def test_a_backends_connection_is_used_so_many_times(stage: Stage) -> None:
    """requests_per_upstream_connection: 7 requests with 3 each are three connections."""
    made = stage.serve(requests_per_upstream_connection=3)
    _rounds(stage, 7)
    assert [visit.received.count(b"GET / ") for visit in made.visits] == [3, 3, 1]


def test_no_more_idle_connections_are_kept_than_wanted(stage: Stage) -> None:
    """idle_connections_per_backend: of four at once, one stays."""

    def script(visit: Visit) -> None:
        while True:
            visit.read_request()
            visit.backend.going.wait(10)
            visit.send(response(b"ok"))

    made = stage.serve(script, idle_connections_per_backend=1)
    clients = [stage.client() for _ in range(4)]
    for client in clients:
        client.send(request())
    wait_for(lambda: made.touched == 4, "four at once")
    made.going.set()
    for client in clients:
        assert client.read_response().body == b"ok"
    wait_for(lambda: sum(visit.sock.fileno() >= 0 for visit in made.visits) == 1, "one stays")


def _wait_closed_by_us(backend: ScriptedBackend) -> None:
    wait_for(lambda: backend.visits[0].sock.fileno() < 0, "the idle connection is closed")


def test_an_idle_connection_to_a_backend_is_closed_in_time(stage: Stage) -> None:
    """upstream_idle_s; longer than all the test waits, unless it is what closes it."""
    made = stage.serve(answering(response(b"ok")), upstream_idle_s=0.5)
    _rounds(stage, 1)
    _wait_closed_by_us(made)


@pytest.mark.parametrize("value", ["timeout=3", "timeout=3, max=100"])
def test_a_backend_that_says_how_long_it_waits_is_believed(stage: Stage, value: str) -> None:
    """Keep-Alive: a request must not meet a connection that closes; one second less than it says."""
    made = stage.serve(answering(response(b"ok", f"Keep-Alive: {value}")), upstream_idle_s=60.0)
    _rounds(stage, 2)
    assert len(made.visits) == 1
    _wait_closed_by_us(made)


@pytest.mark.parametrize("timeout_s", [0, 1])
def test_a_backend_that_hardly_waits_gets_one_request_a_connection(stage: Stage, timeout_s: int) -> None:
    made = stage.serve(answering(response(b"ok", f"Keep-Alive: timeout={timeout_s}")))
    _rounds(stage, 3)
    assert len(made.visits) == 3


def test_a_backend_that_waits_for_long_changes_nothing(stage: Stage) -> None:
    """The shorter of the two counts."""
    made = stage.serve(answering(response(b"ok", "Keep-Alive: timeout=500")), upstream_idle_s=0.5)
    _rounds(stage, 1)
    _wait_closed_by_us(made)


def test_a_response_that_does_not_come_is_504(stage: Stage) -> None:
    stage.serve(stalling(), response_head_s=0.3)
    answer = stage.ask(request())
    assert (answer.status, words(answer)) == (504, ("response_timeout", ["delivered=yes", "attempts=1"]))


def test_a_response_that_falls_silent_is_cut(stage: Stage) -> None:
    stage.serve(stalling(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), response_idle_s=0.3)
    client = stage.client()
    client.send(request())
    with pytest.raises(CUT):
        client.read_response()
    stage.wait_failure("response_idle")
