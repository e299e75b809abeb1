"""The life of a worker process: tables, drains, deaths and successors."""

from __future__ import annotations

import os
import signal
import time

from proxy.link import scoreboard as sb
from proxy.link import snapshots
from tests.kit.backends import Visit, answering
from tests.kit.stage import settings, staged
from tests.kit.wire import Wire, request, response
from tests.kit.workers import WorkerProcess, backend, service, wait_for


def _slow(visit: Visit) -> None:
    while True:
        got = visit.read_request()
        if got.start.startswith(b"GET /slow"):
            visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
            visit.backend.going.wait(20)
            visit.send(b"cd")
        else:
            visit.send(response(b"ok"))


def _signal(worker: WorkerProcess, number: int) -> None:
    assert worker.process is not None
    worker.process.send_signal(number)


def _exit_status(worker: WorkerProcess) -> int:
    assert worker.process is not None
    worker.log, _ = worker.process.communicate(timeout=20)
    status = worker.process.returncode
    worker.process = None
    return status


def test_sigterm_finishes_what_is_in_flight_and_exits_0() -> None:
    """ECS sends it at each deploy of the proxy itself: not one request may suffer."""
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        slow = stage.serve(_slow)
        busy, idle = stage.client(), stage.client()
        idle.send(request())
        assert idle.read_response().body == b"ok"
        busy.send(request("/slow"))
        busy.read_until(b"ab")
        _signal(worker, signal.SIGTERM)
        assert idle.at_end()
        assert worker.head(sb.DRAINING) == 1
        slow.going.set()
        assert busy.read_exactly(2) == b"cd"
        assert busy.at_end()
        busy.close()
        idle.close()
        assert _exit_status(worker) == 0


def test_a_request_that_comes_during_the_drain_is_answered_and_closed() -> None:
    """Whoever was accepted gets an answer, and is told to go elsewhere."""
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        slow = stage.serve(_slow)
        client = stage.client()
        client.send(request("/slow"))
        client.read_until(b"ab")
        _signal(worker, signal.SIGTERM)
        wait_for(lambda: worker.head(sb.DRAINING) == 1, "draining")
        client.send(request("/next"))
        slow.going.set()
        assert client.read_exactly(2) == b"cd"
        answer = client.read_response()
        assert (answer.status, answer.get("connection")) == (200, b"close")
        assert client.at_end()
        client.close()
        assert _exit_status(worker) == 0


def test_a_connection_just_accepted_is_given_time_for_its_request() -> None:
    """Its client was promised a server by the handshake, and no keep-alive race excuses a close."""
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        stage.serve()
        client = stage.client()
        wait_for(lambda: worker.head(sb.CLIENTS) == 1, "it is accepted")
        _signal(worker, signal.SIGTERM)
        until_ms = worker.head(sb.HEARTBEAT_MS) + 600
        wait_for(lambda: worker.head(sb.HEARTBEAT_MS) > until_ms, "the drain has begun")
        client.send(request("/late"))
        answer = client.read_response()
        assert (answer.body, answer.get("connection")) == (b"/late", b"close")
        client.close()
        assert _exit_status(worker) == 0


def test_the_drain_ends_at_its_deadline() -> None:
    """After it ECS would send SIGKILL; the client sees a cut, not a hang."""
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        stage.serve(_slow, drain_s=0.3)
        client = stage.client()
        client.send(request("/slow"))
        client.read_until(b"ab")
        _signal(worker, signal.SIGTERM)
        assert client.at_end()
        client.close()
        assert _exit_status(worker) == 0
        assert stage.failures("drain_deadline") == 1


def test_a_second_sigterm_does_not_wait() -> None:
    """A person who presses Ctrl-C twice means it."""
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        stage.serve(_slow)
        client = stage.client()
        client.send(request("/slow"))
        client.read_until(b"ab")
        _signal(worker, signal.SIGTERM)
        wait_for(lambda: worker.head(sb.DRAINING) == 1, "draining")
        begun_s = time.monotonic()
        _signal(worker, signal.SIGTERM)
        assert _exit_status(worker) == 0
        assert time.monotonic() - begun_s < 5


def test_a_killed_worker_leaves_its_accept_queue_to_its_successor() -> None:
    """The supervisor holds the socket, so those who wait in its queue are served, not refused."""
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        made = stage.serve()
        assert stage.ask(request()).status == 200
        _signal(worker, signal.SIGKILL)
        assert _exit_status(worker) == -signal.SIGKILL
        waiting = [stage.client() for _ in range(20)]
        for client in waiting:
            client.send(request("/waited"))
        worker.start()
        worker.publish([service(slot=1)], [backend(made.port)])
        for client in waiting:
            answer = client.read_response()
            assert answer.status in (200, 503)  # 503: served before the table came, and said so
        assert stage.ask(request()).status == 200
        assert worker.head(sb.STARTS) == 2


def test_a_successor_that_gets_the_newest_snapshot_serves_at_once() -> None:
    """The supervisor passes it on, so a new worker routes even while control is down."""
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        made = stage.serve()
        _signal(worker, signal.SIGKILL)
        _exit_status(worker)
        # The link survives its reader; what waits there is the successor's.
        fd = snapshots.seal(
            snapshots.encode(
                snapshots.TableSnapshot(
                    revision=99,
                    loaded=True,
                    services=(service(slot=1),),
                    by_service={"web": (backend(made.port),)},
                )
            )
        )
        assert snapshots.send(worker.near, 99, fd)
        os.close(fd)
        client = stage.client()
        client.send(request("/x"))
        worker.start()
        assert client.read_response().body == b"/x"


def test_a_worker_ends_with_its_supervisor() -> None:
    """Without it nobody would hold the sockets, count the worker or stop it."""
    with WorkerProcess() as worker:
        worker.publish([service()], [])
        os.close(worker._lifeline_end)
        worker._lifeline_end = os.open("/dev/null", os.O_RDONLY)
        assert _exit_status(worker) == 0


def test_a_snapshot_that_cannot_be_read_changes_nothing() -> None:
    """Rule 3: no news is not bad news. It is counted, and the next good one is taken."""
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        stage.serve()
        for index, data in enumerate((b"", b"{", b"[]", b'{"format":99}', b'{"format":1,"table":{}}')):
            fd = snapshots.seal(data)
            assert snapshots.send(worker.near, 100 + index, fd)
            os.close(fd)
            wait_for(lambda i=index: worker.head(sb.SNAPSHOTS_REJECTED) == i + 1, "it is counted")
            assert stage.ask(request("/still")).body == b"/still"
        assert worker.head(sb.REVISION) == 1
        stage.serve(answering(response(b"new")))
        assert stage.ask(request()).body == b"new"


def test_an_older_snapshot_is_not_taken() -> None:
    """A restarted control process must not turn the table back."""
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        stage.serve()
        stage.route()
        worker.revision = 0
        fd = snapshots.seal(snapshots.encode(snapshots.TableSnapshot(revision=1, loaded=True)))
        assert snapshots.send(worker.near, 1, fd)
        os.close(fd)
        assert stage.ask(request()).status == 503
        assert worker.head(sb.REVISION) == 2
        worker.revision = 2


def test_slow_heads_are_timed_out_however_they_trickle() -> None:
    """F29: the deadline is absolute from the first byte, and others are served meanwhile."""
    with WorkerProcess(settings=settings(request_head_s=0.5)) as worker, staged(worker, 1) as stage:
        stage.serve(request_head_s=0.5)
        crowd = [stage.client() for _ in range(200)]
        for client in crowd:
            client.send(b"GET / HTTP/1.1\r\nX:")
        trickle = stage.client()
        trickle.send(b"G")
        begun_s = time.monotonic()
        while not _readable(trickle):
            trickle.send(b"x")
            assert stage.ask(request()).status == 200
            assert time.monotonic() - begun_s < 5
        assert trickle.read_response().status in (400, 408)
        for client in crowd:
            assert client.read_response().status == 408
            assert client.at_end()


def _readable(wire: Wire) -> bool:
    import select  # noqa: PLC0415

    return bool(select.select([wire.sock], [], [], 0.01)[0])


def test_an_idle_connection_is_closed_without_a_word() -> None:
    """A 408 on a connection that has asked nothing would be read as the answer to the next request."""
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        stage.serve(client_idle_s=0.3)
        client = stage.client()
        assert client.read_to_end() == b""
        client = stage.client()
        client.send(request())
        assert client.read_response().status == 200
        assert client.read_to_end() == b""
