"""The closed vocabulary: each code a worker can reach, produced by a real fault, says one word everywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from proxy import errors
from proxy.errors import BY_REASON, ERRORS
from proxy.link import scoreboard as sb
from tests.kit.backends import after_request, answering, refused_port, resetting, stalling
from tests.kit.stage import Stage, settings, staged, words
from tests.kit.wire import Message, Truncated, request, response
from tests.kit.workers import WorkerProcess, backend, service, wait_for

ADDRESS = re.compile(rb"\d+\.\d+\.\d+\.\d+|arn:aws")
_WELL_FORMED = "GET / HTTP/1.1\r\nHost: web.test\r\n"


@dataclass(frozen=True)
class Row:
    """A fault, and what everyone must say of it."""

    reason: str
    status: int
    stage: Callable[[Stage], Any]
    data: bytes = field(default_factory=request)
    delivered: bool = False
    attempts: int = 0
    early: bool = False  # refused before there was an exchange: counted without a service


def _upgrade() -> bytes:
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    return request(
        "/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}", "X-Request-Id: up",
    )  # fmt: skip


def _route(stage: Stage, *rows: Any, **changes: Any) -> None:
    stage.worker.settings = settings(**changes)
    stage.worker.publish([service(slot=stage.slot)], rows)


ROWS = [
    Row("bad_request", 400, lambda s: s.serve(), b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", early=True),
    Row("host_missing", 400, lambda s: s.serve(), b"GET / HTTP/1.1\r\n\r\n", early=True),
    Row("head_too_large", 431, lambda s: s.serve(None, request_head_bytes=200),
        request("/", "X: " + "y" * 300), early=True),
    Row("head_too_large", 414, lambda s: s.serve(None, request_line_bytes=100),
        request("/" + "y" * 200), early=True),
    Row("head_timeout", 408, lambda s: s.serve(None, request_head_s=0.2), b"GET / HTTP/1.1\r\n", early=True),
    Row("body_timeout", 408, lambda s: s.serve(None, request_body_s=0.2),
        request("/", "Content-Length: 9", method="POST") + b"x", delivered=True, attempts=1),
    Row("protocol_refused", 405, lambda s: s.serve(), request(method="TRACE"), early=True),
    Row("protocol_refused", 417, lambda s: s.serve(), request("/", "Expect: tea"), early=True),
    Row("protocol_refused", 505, lambda s: s.serve(), b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", early=True),
    Row("protocol_refused", 501, lambda s: s.serve(),
        request("/", "Transfer-Encoding: gzip", method="POST"), early=True),
    Row("no_task", 503, lambda s: s.route()),
    Row("none_ready", 503, lambda s: _route(s, backend(1, healthy=False))),
    Row("connect_refused", 503, lambda s: s.route(refused_port(), refused_port()), attempts=2),
    Row("closed_before_response", 502, lambda s: s.serve(resetting()),
        request(method="POST"), delivered=True, attempts=1),
    Row("response_timeout", 504, lambda s: s.serve(stalling(), response_head_s=0.2),
        delivered=True, attempts=1),
    Row("response_malformed", 502, lambda s: s.serve(after_request(b"HTTP/1.1 OK\r\n\r\n")),
        delivered=True, attempts=1),
    Row("response_malformed", 502, lambda s: s.serve(stalling(b"\x15\x03\x01\x00\x02\x02\x28")),
        delivered=True, attempts=1),
    Row("response_malformed", 502, lambda s: s.serve(stalling(b"<html>I am HTTP/0.9</html>")),
        delivered=True, attempts=1),
    Row("response_malformed", 502, lambda s: s.serve(stalling(b"SSH-2.0-OpenSSH_9\r\n")),
        delivered=True, attempts=1),
    Row("response_malformed", 502, lambda s: s.serve(answering(response(b"", "X: " + "y" * 70_000))),
        delivered=True, attempts=1),
    Row("response_malformed", 502,
        lambda s: s.serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")),
        delivered=True, attempts=1),
    Row("response_malformed", 502,
        lambda s: s.serve(stalling(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")),
        delivered=True, attempts=1),
    Row("response_malformed", 502, lambda s: s.serve(answering(b"HTTP/1.1 102 Processing\r\n\r\n" * 9)),
        delivered=True, attempts=1),
    Row("upgrade_failed", 502,
        lambda s: s.serve(answering(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")),
        _upgrade(), delivered=True, attempts=1),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.reason}-{row.status}")
def test_status_header_body_and_counter_say_the_same_word(stage: Stage, row: Row) -> None:
    """One vocabulary for user, dashboard and manual; no address and no ARN in what a stranger sees."""
    slot = sb.NO_SERVICE if row.early else stage.slot
    before = stage.worker.failures(row.reason, slot)
    row.stage(stage)
    answer = stage.ask(row.data)
    assert answer.status == row.status
    delivered = f"delivered={'yes' if row.delivered else 'no'}"
    assert words(answer) == (row.reason, [delivered, f"attempts={row.attempts}"])
    body = json.loads(answer.body)
    error = BY_REASON[row.reason]
    assert (body["code"], body["error"]) == (error.code, row.reason)
    assert body["request_id"].encode() == answer.get("x-request-id") != b""
    assert answer.get("cache-control") == b"no-store"
    assert answer.get("retry-after") == (b"1" if error.retry_after else None)
    assert not ADDRESS.search(answer.raw_head + answer.body)
    wait_for(lambda: stage.worker.failures(row.reason, slot) == before + 1, "it is counted")


def test_a_browser_gets_a_page(stage: Stage) -> None:
    """By Accept; the same words, and the id that support will ask for."""
    stage.route()
    answer = stage.ask(request("/", "Accept: text/html,*/*;q=0.8", "X-Request-Id: my-id"))
    assert answer.get("content-type") == b"text/html; charset=utf-8"
    assert b"B01 no_task" in answer.body
    assert b"my-id" in answer.body
    assert not ADDRESS.search(answer.raw_head + answer.body)


def test_an_error_answer_to_head_has_no_body_and_keeps_the_connection(stage: Stage) -> None:
    stage.route()
    client = stage.client()
    for _ in range(2):
        client.send(request(method="HEAD"))
        answer = client.read_response("HEAD")
        assert answer.status == 503
        assert client.buffer == b""


def test_an_error_does_not_cost_the_connection(stage: Stage) -> None:
    """Only what makes the bytes that follow doubtful closes it."""
    stage.route()
    client = stage.client()
    for _ in range(3):
        client.send(request(method="POST", body=b"abc"))
        assert client.read_response().get("connection") is None


def test_without_a_rule_it_is_404_only_if_the_table_is_complete(stage: Stage) -> None:
    """Before every source has answered a 404 would be a guess, and caches keep it."""
    stage.worker.publish([service(slot=stage.slot, hosts=["other.test"])], [])
    answer = stage.ask(request())
    assert (answer.status, words(answer)[0]) == (404, "unknown_service")
    stage.worker.publish([service(slot=stage.slot, hosts=["other.test"])], [], loaded=False)
    answer = stage.ask(request())
    assert (answer.status, words(answer)[0]) == (503, "table_not_loaded")
    assert answer.get("retry-after") == b"1"


def test_an_ambiguous_path_is_refused(stage: Stage) -> None:
    """S36: with path rules, a path that another server would read as one of another service goes nowhere."""
    made = stage.backend()
    stage.worker.settings = settings()
    stage.worker.publish(
        [service(slot=stage.slot), service("admin", slot=stage.slot, path="/admin")], [backend(made.port)]
    )
    for path in ("/x/../admin", "//admin/x", "/%61dmin", "/./admin", "/x%2f..%2fadmin", "/\\admin"):
        assert words(stage.ask(request(path)))[0] == "bad_request"
    assert stage.ask(request("/adminx")).status == 200
    assert made.touched == 1


def test_all_suspended_says_so(stage: Stage) -> None:
    from dataclasses import replace  # noqa: PLC0415

    _route(stage, replace(backend(1), suspended=True))
    assert words(stage.ask(request()))[0] == "all_suspended"


def test_a_backend_cannot_forge_the_error_header(stage: Stage) -> None:
    """The header is the proxy's word; monitoring believes it."""
    stage.serve(answering(response(b"x", "X-Anyport-Error: U01 connect_refused; delivered=no")))
    assert stage.ask(request()).get("x-anyport-error") is None


def test_each_failure_leaves_one_line_with_the_same_word_and_id() -> None:
    """The operator goes from a user's id to the line; the line names the task, but never a query."""
    with WorkerProcess() as worker:
        with staged(worker, 1) as stage:
            stage.route(refused_port())
            refused = stage.ask(request("/a?token=secret", "X-Request-Id: id-1"))
            stage.serve(resetting(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"))
            client = stage.client()
            client.send(request("/b", "X-Request-Id: id-2"))
            with pytest.raises((Truncated, ConnectionError)):
                client.read_response()
            gone = stage.serve(stalling())
            client = stage.client()
            client.send(request("/c", "X-Request-Id: id-3"))
            wait_for(lambda: gone.touched == 1, "delivered")
            client.reset()
            stage.wait_failure("client_gone")
            early = stage.ask(b"GET / HTTP/1.1\r\n\r\n")
            stage.serve()
            stage.ask(request())
        assert worker.stop() == 0
        log = worker.log
    lines = [orjson.loads(line) for line in log.splitlines()]
    said = {line["request_id"]: (line["error"], line["status"]) for line in lines}
    assert len(said) == len(lines) == 4
    assert said["id-1"] == ("U01 connect_refused", 503)
    assert said["id-2"] == ("X05 response_truncated", 200)
    assert said["id-3"] == ("C07 client_gone", 460)
    assert said[_id(early)] == ("C02 host_missing", 400)
    assert _id(refused) == "id-1"
    assert b"secret" not in log
    assert lines[0]["path"] == "/a"


def _id(message: Message) -> str:
    value = message.get("x-request-id")
    assert value is not None
    return value.decode()


def test_no_answer_ever_has_a_word_outside_the_table() -> None:
    """The counters have one cell per word; a word that is not there could not be counted."""
    assert {row.reason for row in ROWS} <= set(BY_REASON)
    assert len(BY_REASON) == len(ERRORS)
    assert all(error.status != 503 or error.code[0] in "RBUP" for error in ERRORS)
    assert errors.CLIENT_GONE.status == 460
