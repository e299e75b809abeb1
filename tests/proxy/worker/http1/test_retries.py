"""When a request is tried a second time, and when it must not be (rules 6 and 7)."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from proxy.link import scoreboard as sb
from tests.kit.backends import ScriptedBackend, Visit, after_request, answering, refused_port, resetting
from tests.kit.stage import Stage, words
from tests.kit.wire import request, response


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_a_refused_connection_is_tried_elsewhere_whatever_the_method(stage: Stage, method: str) -> None:
    """F1: nothing was sent, so nothing can happen twice."""
    good = stage.backend()
    stage.route(good, refused_port(), refused_port())
    for number in range(20):
        answer = stage.ask(request(f"/{number}", method=method, body=b"" if method == "GET" else b"once"))
        assert answer.body == b"/%d" % number
    assert len(good.requests) == 20
    assert stage.cell(sb.RETRIES) > 0


def test_a_body_that_comes_during_the_retries_arrives_whole(stage: Stage) -> None:
    """What has been read from the client is kept until a backend has taken it."""
    good = stage.backend(answering(lambda m: response(b"%d" % len(m.body))))
    stage.route(good, refused_port(), refused_port())
    for _ in range(10):
        assert stage.ask(request(method="POST", body=b"x" * 400_000)).body == b"400000"


def test_an_unanswered_handshake_is_tried_elsewhere(stage: Stage) -> None:
    """F3: a full backlog drops SYNs, as a vanished host does."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [_start_connect(deaf.getsockname()) for _ in range(4)]
        good = stage.backend()
        stage.route(good, deaf.getsockname()[1], connect_s=0.2)
        for _ in range(4):
            assert stage.ask(request(method="POST")).status == 200
        stage.route(deaf.getsockname()[1], connect_s=0.2)
        answer = stage.ask(request())
        assert (answer.status, words(answer)) == (503, ("connect_timeout", ["delivered=no", "attempts=1"]))
        for filler in fillers:
            filler.close()


def test_where_nobody_answers_the_client_does_not_wait_for_every_task(stage: Stage) -> None:
    """F4: unanswered handshakes for 5 s with the default settings, then the truth."""
    with ExitStack() as stack:
        ports = []
        for _ in range(5):
            deaf = stack.enter_context(socket.socket())
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            for _ in range(4):
                stack.enter_context(_start_connect(deaf.getsockname()))
            ports.append(deaf.getsockname()[1])
        stage.route(*ports, connect_s=0.3, connect_total_s=0.5)
        answer = stage.ask(request())
        assert (answer.status, words(answer)) == (503, ("connect_timeout", ["delivered=no", "attempts=2"]))


def _start_connect(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(address)
    return sock


def _three(stage: Stage, bad: object) -> tuple[ScriptedBackend, ScriptedBackend]:
    bad_backend = stage.backend(bad)  # type: ignore[arg-type]
    good = stage.backend()
    stage.route(bad_backend, good)
    return bad_backend, good


@pytest.mark.parametrize("end", [resetting(), after_request()])
def test_a_get_without_an_answer_is_tried_once_elsewhere(stage: Stage, end: object) -> None:
    """F5 and F9: idempotent, and not one byte of an answer came."""
    bad, good = _three(stage, end)
    for number in range(10):
        assert stage.ask(request(f"/{number}")).body == b"/%d" % number
    assert len(good.requests) == 10
    assert bad.requests


def test_a_get_that_nobody_answers_is_sent_twice_at_most(stage: Stage) -> None:
    """Reliability section 3: a request that kills tasks must not be handed round to all of them."""
    backends = [stage.backend(resetting()) for _ in range(4)]
    stage.route(*backends)
    answer = stage.ask(request())
    assert answer.status == 502
    assert words(answer) == ("closed_before_response", ["delivered=yes", "attempts=2"])
    assert sum(len(b.requests) for b in backends) == 2


def test_once_delivered_later_refusals_do_not_make_it_undelivered(stage: Stage) -> None:
    """Rule 6: a GET that was reset once and then finds only refused backends ends in 502."""

    def script(visit: Visit) -> None:
        visit.read_request()
        visit.backend.stop_listening()
        visit.reset()

    for _ in range(5):
        stage.route(stage.backend(script), refused_port(), refused_port())
        answer = stage.ask(request())
        assert (answer.status, words(answer)[0]) == (502, "closed_before_response")
        assert "delivered=yes" in words(answer)[1]


def _dies_on_second(visit: Visit) -> None:
    """Answer one request on a connection, and end it with RST once a second one has come."""
    visit.read_request()
    visit.send(response(b"ok"))
    visit.read_request()
    visit.reset()


def test_a_get_on_a_connection_gone_stale_goes_to_a_fresh_one(stage: Stage) -> None:
    """F8: the backend closed just as we wrote. Even its only backend is asked again."""
    backend = stage.serve(_dies_on_second)
    client = stage.client()
    for _ in range(6):
        client.send(request())
        assert client.read_response().body == b"ok"
    assert stage.failures("stale_connection") == 0
    assert len(backend.visits) >= 6


def test_a_service_that_fails_is_not_hit_with_a_multiple_of_its_load(stage: Stage) -> None:
    """Retries are bounded by a budget per service; beyond it the first failure is the answer."""
    ports = [refused_port() for _ in range(3)]
    stage.route(*ports, budget_percent=1.0, budget_minimum=1)
    attempts = [words(stage.ask(request()))[1][1] for _ in range(30)]
    assert attempts.count("attempts=1") >= 20
    assert stage.cell(sb.RETRIES) <= 20
