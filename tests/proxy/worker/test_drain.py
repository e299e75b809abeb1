"""The end of a worker: who is there is served, who comes is sent elsewhere, nobody is dropped unheard."""

from __future__ import annotations

import asyncio
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from proxy.link import scoreboard as sb
from proxy.link.sockets import listen
from proxy.worker.drain import _HANDSHAKE_S, Ending, _empty_queues, goodbyes_due
from tests.kit.backends import Visit
from tests.kit.stage import Stage, staged, words
from tests.kit.wire import Truncated, Wire, request
from tests.kit.workers import WorkerProcess, wait_for
from tests.proxy.worker.http1.test_tunnel import handshake, switched, tunnelling


@pytest.fixture
def alone() -> Iterator[Stage]:
    """A stage on a worker of its own, which the test ends."""
    with WorkerProcess() as worker, staged(worker, 1) as made:
        yield made


def _send(stage: Stage, number: int) -> None:
    assert stage.worker.process is not None
    stage.worker.process.send_signal(number)


def _terminate(stage: Stage) -> None:
    _send(stage, signal.SIGTERM)
    wait_for(lambda: stage.worker.head(sb.DRAINING) == 1, "draining")


def _exit_status(stage: Stage) -> int:
    process = stage.worker.process
    assert process is not None
    stage.worker.log, _ = process.communicate(timeout=30)
    stage.worker.process = None
    return process.returncode


# Accepting while load balancers find out


def test_it_still_accepts_until_load_balancers_have_noticed(alone: Stage) -> None:
    """A refused connection is an error page; one that is told to close is not."""
    alone.serve(lb_drain_s=30.0, drain_s=60.0)
    kept = alone.client()
    kept.send(request("/before"))
    assert kept.read_response().get("connection") is None
    _terminate(alone)
    for number in range(5):
        client = alone.client()
        client.send(request(f"/{number}"))
        answer = client.read_response()
        assert (answer.body, answer.get("connection")) == (f"/{number}".encode(), b"close")
        assert client.at_end()
    kept.send(request("/kept"))
    answer = kept.read_response()
    assert (answer.body, answer.get("connection")) == (b"/kept", b"close")
    _send(alone, signal.SIGTERM)
    assert _exit_status(alone) == 0


def test_backend_connections_stay_in_use_while_it_drains(alone: Stage) -> None:
    """Seconds full of requests are no time to dial for each of them."""
    backend = alone.serve(lb_drain_s=30.0, drain_s=60.0)
    _terminate(alone)
    for _ in range(5):
        assert alone.ask(request()).status == 200
    assert len(backend.visits) == 1
    _send(alone, signal.SIGTERM)
    assert _exit_status(alone) == 0


def test_whoever_could_connect_is_answered(alone: Stage) -> None:
    """The accept queue is emptied before the socket is closed: closing it would reset everyone in it."""
    alone.serve(lb_drain_s=0.2)
    port, failures, answered = alone.worker.port, [], []
    alone.worker.listener.close()  # as the supervisor does
    refused = threading.Event()

    def keep_asking() -> None:
        while not refused.is_set():
            sock = socket.socket()
            sock.settimeout(0.5)
            try:
                sock.connect(("127.0.0.1", port))
            except OSError:  # refused, or its SYN was dropped: it never had a connection
                refused.set()
                sock.close()
                return
            with Wire(sock) as wire:
                try:
                    wire.send(request())
                    answered.append(wire.read_response().status)
                except (OSError, Truncated) as exc:
                    failures.append(exc)

    threads = [threading.Thread(target=keep_asking) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(answered) > 50, "requests")
    _send(alone, signal.SIGTERM)
    for thread in threads:
        thread.join(20)

    assert failures == []
    assert set(answered) == {200}
    assert _exit_status(alone) == 0


def test_who_waits_in_the_queue_of_a_busy_worker_is_answered(alone: Stage) -> None:
    """The same without luck: a worker that had no time to accept when the end came."""
    alone.serve()
    assert alone.ask(request()).status == 200
    alone.worker.listener.close()
    _send(alone, signal.SIGSTOP)
    waiting = [alone.client() for _ in range(20)]
    for client in waiting:
        client.send(request("/waited"))
    _send(alone, signal.SIGTERM)
    _send(alone, signal.SIGCONT)
    for client in waiting:
        assert client.read_response().body == b"/waited"
        client.close()
    assert _exit_status(alone) == 0


@pytest.mark.asyncio
async def test_the_queue_is_emptied_before_the_sockets_are_closed() -> None:
    """Without luck or speed: nobody accepts for a while, and the close has to wait for that."""
    loop = asyncio.get_running_loop()
    listener = listen("127.0.0.1", 0)
    with listener, socket.create_connection(listener.getsockname()):
        emptying = loop.create_task(_empty_queues([listener], Ending(), loop, loop.time() + 60))
        await asyncio.sleep(3 * _HANDSHAKE_S)
        assert not emptying.done()
        listener.accept()[0].close()
        await asyncio.wait_for(emptying, 20)
        with socket.socket() as late:
            late.setblocking(False)
            late.connect_ex(listener.getsockname())
            assert not select.select([listener], [], [], 0.2)[0], "its SYN is not answered"


# Handing over


def test_after_a_hand_over_idle_connections_are_answered_once_more(alone: Stage) -> None:
    """Their next request may be on its way; closing them would lose it."""
    alone.serve(lb_drain_s=30.0, drain_s=60.0)
    idle, silent = alone.client(), alone.client()
    idle.send(request())
    assert idle.read_response().status == 200
    wait_for(lambda: alone.worker.head(sb.CLIENTS) == 2, "both are accepted")
    _send(alone, signal.SIGUSR2)
    wait_for(lambda: alone.worker.head(sb.DRAINING) == 1, "draining")
    for client in (idle, silent):
        client.send(request("/once-more"))
        answer = client.read_response()
        assert (answer.body, answer.get("connection")) == (b"/once-more", b"close")
        assert client.at_end()
        client.close()
    assert _exit_status(alone) == 0


def test_after_a_hand_over_the_sockets_are_left_as_they_are(alone: Stage) -> None:
    """Who connects now waits for the successor, and is not refused."""
    backend = alone.serve()
    _send(alone, signal.SIGUSR2)
    assert _exit_status(alone) == 0
    client = alone.client()
    client.send(request("/next"))
    alone.worker.start()
    alone.route(backend)
    assert client.read_response().status in (200, 503)  # 503: served before the table came, and said so


def test_one_sigterm_after_a_hand_over_does_not_cut_anything(alone: Stage) -> None:
    """The deployment that started the successor sends it to every old task."""
    slow = alone.serve(_slow)
    client = alone.client()
    client.send(request("/slow"))
    client.read_until(b"ab")
    _send(alone, signal.SIGUSR2)
    wait_for(lambda: alone.worker.head(sb.DRAINING) == 1, "draining")
    _send(alone, signal.SIGTERM)
    until_ms = alone.worker.head(sb.HEARTBEAT_MS) + 600
    wait_for(lambda: alone.worker.head(sb.HEARTBEAT_MS) > until_ms, "it has been seen")
    slow.going.set()
    assert client.read_exactly(2) == b"cd"
    client.close()
    assert _exit_status(alone) == 0


def _slow(visit: Visit) -> None:
    visit.read_request()
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    visit.backend.going.wait(20)
    visit.send(b"cd")


# P02


def _unanswering() -> tuple[int, Callable[[], None]]:
    """Return a port where handshakes get no answer, and what ends that."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    port: int = full.getsockname()[1]
    queued = []
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        queued.append(sock)

    def close() -> None:
        for sock in (*queued, full):
            sock.close()

    return port, close


@pytest.mark.parametrize("how", ["deadline", "second sigterm"])
def test_a_request_that_no_backend_has_seen_is_told_so(alone: Stage, how: str) -> None:
    """P02: it was still waiting for a connection when the time was up; sending it again is safe."""
    port, close = _unanswering()
    try:
        alone.route(port, connect_s=30.0, connect_total_s=30.0, drain_s=0.5 if how == "deadline" else 60.0)
        client = alone.client()
        client.send(request())
        wait_for(lambda: alone.cell(sb.IN_FLIGHT) == 1, "it waits")
        _terminate(alone)
        if how == "second sigterm":
            _send(alone, signal.SIGTERM)
        answer = client.read_response()
        assert answer.status == 503
        assert words(answer) == ("shutting_down", ["delivered=no", "attempts=1"])
        assert answer.get("connection") == b"close"
        client.close()
        assert _exit_status(alone) == 0
        assert alone.failures("shutting_down") == 1
        assert b'"error":"P02 shutting_down"' in alone.worker.log
    finally:
        close()


def test_half_a_request_is_told_that_it_is_too_late(alone: Stage) -> None:
    """P02: the rest of its head would come to nobody."""
    alone.serve(drain_s=0.5)
    client = alone.client()
    client.send(b"GET / HTTP/1.1\r\nHost: ")
    wait_for(lambda: alone.worker.head(sb.CLIENTS) == 1, "it is accepted")
    _terminate(alone)
    answer = client.read_response()
    assert (answer.status, words(answer)[0]) == (503, "shutting_down")
    client.close()
    assert _exit_status(alone) == 0


# WebSockets


def test_websockets_are_told_to_go_away_and_answer_their_server(alone: Stage) -> None:
    """1001 to the client; the server sees the closing handshake of its own client. An independent library."""
    codes: list[int | None] = []

    def echo(peer: ServerConnection) -> None:
        for message in peer:
            peer.send(message)
        codes.append(peer.close_code)

    with serve(echo, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port: int = server.socket.getsockname()[1]
        alone.route(port, drain_s=20.0)
        with connect(f"ws://127.0.0.1:{alone.worker.port}/chat") as client:
            client.send("hello")
            assert client.recv(5) == "hello"
            _terminate(alone)
            with pytest.raises(ConnectionClosed):
                client.recv(15)
            assert client.close_code == 1001
        assert _exit_status(alone) == 0
        wait_for(lambda: codes == [1001], "the server has seen it")
        server.shutdown()
        thread.join(5)
    assert alone.failures("drain_deadline") == 0


def test_the_close_frame_tears_no_frame(alone: Stage) -> None:
    """A message of which one half has come is finished first, and nothing follows the close frame."""

    def script(visit: Visit) -> None:
        visit.send(switched(visit.read_request()) + b"\x82\x7e\x01\x00" + b"a" * 100)
        visit.backend.going.wait(20)
        visit.send(b"b" * 156)
        visit.read_until(answered)
        visit.send(b"\x82\x04late")

    answered = b"\x88\x82\0\0\0\0\x03\xe9"
    backend = alone.serve(script, drain_s=20.0)
    client = alone.client()
    client.send(handshake())
    assert client.read_response().status == 101
    client.read_exactly(104)
    _terminate(alone)
    until_ms = alone.worker.head(sb.HEARTBEAT_MS) + 600
    wait_for(lambda: alone.worker.head(sb.HEARTBEAT_MS) > until_ms, "the time of the goodbye")
    backend.going.set()
    assert client.read_exactly(156 + 4) == b"b" * 156 + b"\x88\x02\x03\xe9"
    client.send(answered)
    assert client.at_end()
    client.close()
    assert _exit_status(alone) == 0


@pytest.mark.parametrize("how", ["silent", "chatting"])
def test_a_client_that_does_not_answer_the_close_frame_holds_nobody_up(alone: Stage, how: str) -> None:
    alone.serve(tunnelling(), drain_s=100.0)
    client = alone.client()
    client.send(handshake())
    assert client.read_response().status == 101
    _terminate(alone)
    assert client.read_exactly(4) == b"\x88\x02\x03\xe9"
    if how == "chatting":
        with pytest.raises(OSError, match=r"reset|pipe"):
            _chat(client)
    assert client.at_end()
    client.close()
    assert _exit_status(alone) == 0
    assert alone.failures("drain_deadline") == 0


def _chat(client: Wire) -> None:
    while True:
        client.send(b"\x81\x80\0\0\0\0")
        threading.Event().wait(0.02)


def test_goodbyes_are_spread(alone: Stage) -> None:
    """Clients that all come back in one moment would be the next incident."""
    alone.serve(tunnelling(), drain_s=4.0)
    with ExitStack() as stack:
        clients = []
        for _ in range(3):
            clients.append(stack.enter_context(Wire.connect(alone.worker.port)))
            clients[-1].send(handshake())
            assert clients[-1].read_response().status == 101
        _terminate(alone)
        told: list[int] = []
        for client in clients:
            client.sock.setblocking(False)
        while len(told) < 3:
            before = len(told)
            for number, client in enumerate(clients):
                if number not in told and _has_close(client):
                    told.append(number)
            assert len(told) - before <= 1, "two in one moment"
    assert _exit_status(alone) == 0


def _has_close(client: Wire) -> bool:
    try:
        return client.sock.recv(4, socket.MSG_PEEK) == b"\x88\x02\x03\xe9"
    except BlockingIOError:
        return False


@pytest.mark.parametrize(
    ("passed", "told", "waiting", "due"),
    [
        (0.0, 0, 0, 0),
        (0.0, 0, 1, 1),  # the first at once
        (0.0, 0, 100, 1),
        (0.005, 1, 99, 0),
        (0.5, 1, 99, 50),
        (0.99, 50, 50, 50),  # the last before the end
        (1.0, 0, 5, 5),
        (0.5, 10, 0, 0),
        (0.5, 90, 10, 0),  # many have left unasked: no hurry
    ],
)
def test_the_pace_of_goodbyes(passed: float, told: int, waiting: int, due: int) -> None:
    assert goodbyes_due(passed, told, waiting) == due


def test_a_service_that_comes_back_counts_its_requests_right(alone: Stage) -> None:
    """The gauge is set to zero when a worker begins, not when a service returns with requests under way."""
    backend = alone.serve(_slow)
    client = alone.client()
    client.send(request("/slow"))
    client.read_until(b"ab")
    alone.worker.publish([], [])
    alone.route(backend)
    assert alone.cell(sb.IN_FLIGHT) == 1
    backend.going.set()
    assert client.read_exactly(2) == b"cd"
    wait_for(alone.settled, "it is over")
