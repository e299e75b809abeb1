"""More connections than there is room for: turned away with a word; with room again, served."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxy.link import scoreboard as sb
from proxy.settings import ListenerSettings
from proxy.worker.state import client_share
from tests.kit.stage import Stage, staged, words
from tests.kit.wire import Truncated, Wire, request
from tests.kit.workers import WorkerProcess, wait_for


@pytest.fixture
def alone() -> Iterator[Stage]:
    """A stage on a worker of its own: its descriptors are those of this test."""
    with WorkerProcess() as worker, staged(worker, 1) as made:
        yield made


def _pid(stage: Stage) -> int:
    assert stage.worker.process is not None
    return stage.worker.process.pid


def _cpu_s(stage: Stage) -> float:
    with open(f"/proc/{_pid(stage)}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _shed(stage: Stage) -> int:
    return stage.worker.failures("shed", sb.NO_SERVICE)


@contextmanager
def _room_for(stage: Stage, more: int) -> Iterator[None]:
    """Let the worker open no more than *more* descriptors beyond those it has."""
    pid = _pid(stage)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    # The limit is on numbers, and the lowest free one is taken first.
    free = [number for number in range(before[0]) if number not in taken]
    limit = free[more] if more >= 0 else free[0] + more
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def _holding(stage: Stage, count: int) -> list[Wire]:
    """Return *count* connections that have been answered once, and stay."""
    clients = [stage.client() for _ in range(count)]
    for client in clients:
        client.send(request(target="*", method="OPTIONS"))
        assert client.read_response().status == 204
    return clients


def test_those_beyond_the_limit_are_told_so(alone: Stage) -> None:
    """B08, before they have asked anything; whoever was there first is served as ever."""
    alone.serve(client_connections=16)
    clients = _holding(alone, 16)
    late = alone.client()
    answer = late.read_response()
    assert (answer.status, words(answer)) == (503, ("shed", ["delivered=no", "attempts=0"]))
    assert answer.get("connection") == b"close"
    assert answer.get("retry-after") == b"1"
    assert late.at_end()
    assert _shed(alone) == 1
    clients[0].send(request("/still"))
    assert clients[0].read_response().body == b"/still"
    clients[1].close()
    late.close()
    wait_for(lambda: alone.worker.head(sb.CLIENTS) == 15, "there is room again")
    assert alone.ask(request("/now")).body == b"/now"


def test_a_request_sent_ahead_does_not_cost_the_answer_of_those_turned_away(alone: Stage) -> None:
    """Closing with bytes unread would be a reset, and a reset takes the answer with it."""
    alone.serve(client_connections=1)
    _holding(alone, 1)
    for _ in range(20):
        late = alone.client()
        late.send(request(method="POST", body=b"x" * 1000))
        assert late.read_response().status == 503
        late.close()
        wait_for(lambda: alone.worker.head(sb.CLIENTS) == 1, "it is gone")


def test_a_crowd_that_does_not_leave_is_bounded_too(alone: Stage) -> None:
    """Those that are turned away and stay must not become the crowd that the limit is against."""
    alone.serve(client_connections=32, linger_s=30.0)
    _holding(alone, 32)
    crowd = [alone.client() for _ in range(40)]
    ends = []
    for client in crowd:
        try:
            ends.append(client.read_response().status)
        except (Truncated, ConnectionError):
            ends.append(0)
    assert ends.count(503) == 2
    assert ends.count(0) == 38
    assert alone.worker.head(sb.CLIENTS) == 34
    assert _shed(alone) == 40


def test_a_header_of_the_proxy_protocol_that_is_awaited_takes_room(alone: Stage) -> None:
    """Connections count from the moment they are accepted, not from their first request."""
    alone.serve(
        client_connections=4,
        trusted_proxies=("127.0.0.1/32",),
        listeners=(ListenerSettings(proxy_protocol=True),),
    )
    waiting = [alone.client() for _ in range(4)]
    wait_for(lambda: alone.worker.head(sb.CLIENTS) == 4, "they wait")
    late = alone.client()
    late.send(b"PROXY UNKNOWN\r\n")
    assert late.read_response().status == 503
    for client in waiting:
        client.close()


@pytest.mark.parametrize(
    ("descriptors", "connections"), [(65_536, 29_376), (1024, 345), (256, 16), (20, 16), (-1, 471_744)]
)
def test_without_a_word_of_the_operator_the_descriptors_decide(descriptors: int, connections: int) -> None:
    """0.45 x (limit - 256): each client may need a connection to a backend, and the rest must do."""
    assert client_share(descriptors) == connections


def test_the_share_is_what_a_worker_keeps_to() -> None:
    with WorkerProcess(descriptors=300) as worker, staged(worker, 1) as stage:
        stage.serve()
        _holding(stage, client_share(300))
        assert words(stage.client().read_response())[0] == "shed"


def test_without_a_descriptor_to_accept_with_the_worker_neither_spins_nor_ends(alone: Stage) -> None:
    """What cannot be accepted is closed, what is there is served; afterwards all is as before."""
    alone.serve()
    clients = _holding(alone, 4)
    with _room_for(alone, 2):
        crowd = [alone.client() for _ in range(30)]
        ended = 0
        for client in crowd:
            try:
                client.send(request(target="*", method="OPTIONS"))
                assert client.read_response().status == 204
            except (Truncated, ConnectionError):
                ended += 1
        assert ended >= 27
        begun_s = _cpu_s(alone)
        until_ms = alone.worker.head(sb.HEARTBEAT_MS) + 1_000
        wait_for(lambda: alone.worker.head(sb.HEARTBEAT_MS) >= until_ms, "a second of its clock")
        assert _cpu_s(alone) - begun_s < 0.5
        clients[0].send(request(target="*", method="OPTIONS"))
        assert clients[0].read_response().status == 204
        for client in crowd:
            client.close()
    assert alone.ask(request("/after")).body == b"/after"


def test_a_limit_below_what_is_open_is_survived(alone: Stage) -> None:
    """Not even the spare descriptor can be had then."""
    alone.serve()
    client = _holding(alone, 1)[0]
    with _room_for(alone, -3):
        crowd = [alone.client() for _ in range(10)]
        client.send(request(target="*", method="OPTIONS"))
        assert client.read_response().status == 204
    for one in crowd:
        one.close()
    assert alone.ask(request("/after")).body == b"/after"


def test_a_dial_without_a_descriptor_is_local_ports_exhausted(alone: Stage) -> None:
    """U05: nothing was sent, so it is a 503, and it says that the lack is ours."""
    made = alone.serve()
    client = _holding(alone, 1)[0]
    with _room_for(alone, 0):
        client.send(request())
        answer = client.read_response()
    assert (answer.status, words(answer)[0]) == (503, "local_ports_exhausted")
    assert "delivered=no" in words(answer)[1]
    assert made.touched == 0
    alone.wait_failure("local_ports_exhausted")
    client.send(request("/after"))
    assert client.read_response().body == b"/after"


def test_connections_that_have_not_even_begun_are_bounded_too(alone: Stage) -> None:
    """Silent ones, before a PROXY header or a TLS handshake, cost a descriptor like any other."""
    alone.serve(
        client_connections=8,
        trusted_proxies=("127.0.0.1/32",),
        listeners=(ListenerSettings(proxy_protocol=True),),
        proxy_header_s=60.0,
    )
    crowd = [alone.client() for _ in range(30)]
    wait_for(lambda: _shed(alone) == 21, "those without room are dropped")
    assert alone.worker.head(sb.CLIENTS) == 9
    assert sum(client.at_end() for client in crowd[9:]) == 21
