"""Retries by phase and method, judged by what the backends have received (rules 6 and 7).

One phase has no row: a write that fails with nothing accepted by the kernel. A kept connection is asked
whether it has ended right before it is written to, which leaves no moment that a test could aim at.
"""

from __future__ import annotations

import pytest

from proxy.link import scoreboard as sb
from tests.kit.backends import (
    Script,
    ScriptedBackend,
    Visit,
    after_request,
    refused_port,
    resetting,
    stalling,
)
from tests.kit.stage import Stage, settings, words
from tests.kit.wire import Message, Wire, request, response
from tests.kit.workers import backend, service, wait_for

SAFE = ("GET", "HEAD", "OPTIONS")
IDEMPOTENT = (*SAFE, "PUT", "DELETE")
OTHERS = ("POST", "PATCH", "FROB")
SPECIAL = ("Expect", "Upgrade", "upload")
ALL = (*IDEMPOTENT, *OTHERS, *SPECIAL)
_KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def _ask(client: Wire, kind: str) -> Message:
    """Send a request of *kind*, a method or something more special, and return the answer to it."""
    if kind == "Expect":
        client.send(request("/asked", "Expect: 100-continue"))
    elif kind == "Upgrade":
        client.send(
            request("/asked", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", _KEY)
        )
    elif kind == "upload":  # idempotent, but more than is kept
        client.send(request("/asked", method="PUT", body=b"x" * 400_000))
    else:
        client.send(request("/asked", method=kind, body=b"" if kind in SAFE else b"abc"))
    return client.read_response("HEAD" if kind == "HEAD" else "GET")


def _good(visit: Visit) -> None:
    while True:
        seen = visit.read_request()
        visit.send(response(b"" if seen.start.startswith(b"HEAD") else b"good"))


def _asked(*backends: ScriptedBackend) -> list[Message]:
    """Return the requests that have arrived in whole, the ones that only prepared the way apart."""
    return [seen for one in backends for seen in one.requests if seen.start.split()[1] == b"/asked"]


def _promise(answer: Message, reason: str, *, delivered: bool, attempts: int) -> None:
    assert words(answer) == (reason, [f"delivered={'yes' if delivered else 'no'}", f"attempts={attempts}"])


@pytest.mark.parametrize("kind", ALL)
def test_no_healthy_backend_is_503_for_every_method(stage: Stage, kind: str) -> None:
    made = stage.backend()
    stage.worker.settings = settings()
    stage.worker.publish([service(slot=stage.slot)], [backend(made.port, healthy=False)])
    answer = _ask(stage.client(), kind)
    assert answer.status == 503
    _promise(answer, "none_ready", delivered=False, attempts=0)
    assert made.visits == []


@pytest.mark.parametrize("kind", ALL)
def test_a_refused_connection_is_tried_elsewhere_for_every_method(stage: Stage, kind: str) -> None:
    """Nothing was sent, so nothing can happen twice; the backend that has it is told which attempt it is."""
    good = stage.backend(_good)
    stage.route(good, refused_port(), refused_port())
    for _ in range(200):
        assert _ask(stage.client(), kind).status == 200
        if stage.cell(sb.RETRIES):
            break
    attempts = {seen.get("x-anyport-attempt") for seen in _asked(good)}
    assert attempts <= {None, b"2", b"3"}
    assert attempts & {b"2", b"3"}


@pytest.mark.parametrize("kind", ALL)
def test_where_all_refuse_it_is_503_for_every_method(stage: Stage, kind: str) -> None:
    stage.route(*(refused_port() for _ in range(4)))
    answer = _ask(stage.client(), kind)
    assert answer.status == 503
    _promise(answer, "connect_refused", delivered=False, attempts=3)


@pytest.mark.parametrize("kind", ALL)
def test_a_kept_connection_that_has_ended_is_replaced_and_not_counted(stage: Stage, kind: str) -> None:
    """Seen before anything was written: not even an attempt, whatever the method."""

    def script(visit: Visit) -> None:
        seen = visit.read_request()
        visit.send(response(b"" if seen.start.startswith(b"HEAD") else b"good"))

    made = stage.backend(script)
    stage.route(made)
    client = stage.client()
    client.send(request())
    client.read_response()
    wait_for(lambda: made.visits[0].sock.fileno() < 0, "the backend has closed")
    assert _ask(client, kind).status == 200
    (seen,) = _asked(made)
    assert seen.get("x-anyport-attempt") is None
    assert stage.cell(sb.RETRIES) == 0


def _dying(end: str) -> Script:
    """Return a script that answers what prepares the way and ends without an answer to what was asked."""

    def script(visit: Visit) -> None:
        while True:
            seen = visit.read_request()
            if seen.start.split()[1] == b"/asked":
                break
            visit.backend.going.wait(30)
            visit.send(response(b"ok"))
        if end == "rst":
            visit.reset()

    return script


def _with_kept_connections(stage: Stage, made: ScriptedBackend, count: int) -> None:
    """Have so many connections to *made* kept."""
    clients = [stage.client() for _ in range(count)]
    for client in clients:
        client.send(request("/prepare"))
    wait_for(lambda: len(made.requests) == count, "each has its own connection")
    made.going.set()
    for client in clients:
        assert client.read_response().body == b"ok"


@pytest.mark.parametrize("end", ["rst", "fin"])
@pytest.mark.parametrize("kind", ALL)
def test_a_kept_connection_that_ends_without_an_answer(stage: Stage, kind: str, end: str) -> None:
    """Most likely its idle time had run out: one retry on a fresh connection, if twice does no harm."""
    made = stage.backend(_dying(end))
    stage.route(made)
    _with_kept_connections(stage, made, 3)
    answer = _ask(stage.client(), kind)
    assert answer.status == 502
    if kind in IDEMPOTENT:
        _promise(answer, "closed_before_response", delivered=True, attempts=2)  # of the fresh one
        assert [seen.get("x-anyport-attempt") for seen in _asked(made)] == [None, b"2"]
        assert len(made.visits) == 4
    else:
        _promise(answer, "stale_connection", delivered=True, attempts=1)
        assert len(_asked(made)) <= 1
        assert len(made.visits) == 3


@pytest.mark.parametrize("end", [resetting(), after_request()], ids=["rst", "fin"])
@pytest.mark.parametrize("kind", ALL)
def test_a_fresh_connection_that_ends_without_an_answer(stage: Stage, kind: str, end: Script) -> None:
    """The request itself may have ended it: one retry of what only reads, none of what changes something."""
    bad = [stage.backend(end) for _ in range(3)]
    stage.route(*bad)
    answer = _ask(stage.client(), kind)
    assert answer.status == 502
    attempts = 2 if kind in SAFE else 1
    _promise(answer, "closed_before_response", delivered=True, attempts=attempts)
    assert {seen.get("x-anyport-attempt") for seen in _asked(*bad)} <= {None, b"2"}
    assert sum(one.touched for one in bad) == attempts


@pytest.mark.parametrize(
    "end",
    [resetting(b"H"), after_request(b"HTTP/1.1 200 OK\r\nX"), after_request(b"HTTP/1.1 103 Early\r\n\r\n")],
    ids=["rst", "fin", "103"],
)
@pytest.mark.parametrize("kind", ALL)
def test_after_one_byte_of_an_answer_nothing_is_retried(stage: Stage, kind: str, end: Script) -> None:
    """The backend has begun to answer, so it has acted."""
    bad = [stage.backend(end) for _ in range(2)]
    stage.route(*bad)
    answer = _ask(stage.client(), kind)
    assert answer.status == 502
    _promise(answer, "response_malformed", delivered=True, attempts=1)
    assert sum(one.touched for one in bad) == 1


@pytest.mark.parametrize("kind", ["GET", "PUT", "POST"])
def test_after_the_head_timeout_nothing_is_retried(stage: Stage, kind: str) -> None:
    """It may still be working on it."""
    bad = [stage.backend(stalling()) for _ in range(2)]
    stage.route(*bad, response_head_s=0.2)
    answer = _ask(stage.client(), kind)
    assert answer.status == 504
    _promise(answer, "response_timeout", delivered=True, attempts=1)
    assert len(_asked(*bad)) == 1


@pytest.mark.parametrize("kind", ["GET", "POST"])
def test_a_client_cannot_pretend_to_be_a_retry(stage: Stage, kind: str) -> None:
    good = stage.backend(_good)
    stage.route(good)
    for line in ("X-Anyport-Attempt: 7", "x-anyport-attempt: 7"):
        client = stage.client()
        client.send(request("/asked", line, method=kind))
        assert client.read_response().status == 200
    assert {seen.get("x-anyport-attempt") for seen in _asked(good)} == {None}
