"""The closed vocabulary, row by row: a real fault on real sockets, and one word for it everywhere.

All faults are made once, on one worker; the tests then judge what client, metric and log have got of each.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.errors import BY_REASON, ERRORS
from proxy.link import scoreboard as sb
from tests.kit.backends import Script, Visit, after_request, answering, refused_port, resetting, stalling
from tests.kit.stage import Stage, settings, staged, words
from tests.kit.wire import Message, Truncated, request, response
from tests.kit.workers import WorkerProcess, backend, service, wait_for

_ADDRESS = re.compile(rb"\d+\.\d+\.\d+\.\d+|arn:|\[?[0-9a-f]*::[0-9a-f]")
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
_DOCS = Path(__file__).parents[3] / "docs" / "errors.md"

Fault = Callable[
    [Stage, str], Message | None
]  # with the request id to use; None: the client got no whole answer


@dataclass(frozen=True)
class Row:
    """A fault, and what everyone must say of it."""

    reason: str
    status: int  # 0: no response of ours, the one under way is cut
    fault: Fault
    delivered: bool = False
    attempts: int = 0
    early: bool = False  # refused before a service was known: counted without one
    method: str = "GET"
    what: str = ""

    def __str__(self) -> str:
        return f"{BY_REASON[self.reason].code} {self.reason} {self.status} {self.what}".strip()


@dataclass
class Outcome:
    """What was left behind by a fault."""

    answer: Message | None
    request_id: str
    failures: dict[str, int]
    requests: int
    unsettled: int
    line: dict[str, Any] | None = None


def _asking(
    prepare: Callable[[Stage], object], *lines: str, method: str = "GET", body: bytes = b"", target: str = "/"
) -> Fault:
    """Return a fault that meets a well-formed request."""

    def fault(stage: Stage, request_id: str) -> Message:
        prepare(stage)
        return stage.ask(
            request(target, f"X-Request-Id: {request_id}", *lines, method=method, body=body), method
        )

    return fault


def _served(script: Script, **changes: Any) -> Callable[[Stage], object]:
    return lambda stage: stage.serve(script, **changes)


def _sending(data: bytes, **changes: Any) -> Fault:
    """Return a fault that is in the bytes of the request, before any backend is chosen."""

    def fault(stage: Stage, _request_id: str) -> Message:
        stage.serve(None, **changes)
        return stage.ask(data)

    return fault


def _stall_in_body(stage: Stage, request_id: str) -> Message:
    stage.serve(None, request_body_s=0.2)
    head = request("/", "Content-Length: 9", f"X-Request-Id: {request_id}", method="POST")
    return stage.ask(head + b"x")


def _leave(stage: Stage, request_id: str) -> None:
    made = stage.serve(stalling())
    client = stage.client()
    client.send(request("/", f"X-Request-Id: {request_id}"))
    wait_for(lambda: made.touched == 1, "it is delivered")
    client.reset()
    stage.wait_failure("client_gone")


def _rows(*rows: Any, **changes: Any) -> Callable[[Stage], None]:
    def prepare(stage: Stage) -> None:
        stage.worker.settings = settings(**changes)
        stage.worker.publish([service(slot=stage.slot)], rows)

    return prepare


def _other_host(*, loaded: bool) -> Callable[[Stage], None]:
    def prepare(stage: Stage) -> None:
        stage.worker.settings = settings()
        stage.worker.publish([service(slot=stage.slot, hosts=["other.test"])], [], loaded=loaded)

    return prepare


def _ambiguous_path(stage: Stage, request_id: str) -> Message:
    stage.worker.settings = settings()
    stage.worker.publish([service(slot=stage.slot), service("admin", slot=stage.slot, path="/admin")], [])
    return stage.ask(request("/x/../admin", f"X-Request-Id: {request_id}"))


def _unanswered(stage: Stage, request_id: str) -> Message:
    """A full backlog drops SYNs, as a vanished host does."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        try:
            stage.route(deaf.getsockname()[1], connect_s=0.2)
            return stage.ask(request("/", f"X-Request-Id: {request_id}"))
        finally:
            for filler in fillers:
                filler.close()


def _stale(stage: Stage, request_id: str) -> Message:
    def script(visit: Visit) -> None:
        visit.read_request()
        visit.send(response(b"ok"))
        visit.read_request()
        visit.reset()

    stage.serve(script)
    client = stage.client()
    client.send(request())
    assert client.read_response().body == b"ok"
    client.send(request("/", f"X-Request-Id: {request_id}", method="POST", body=b"x"))
    return client.read_response()


def _stopped(*sent: bytes) -> Fault:
    """Return a fault: ECS stops the task after it has said *sent*."""

    def script(visit: Visit) -> None:
        visit.read_request()
        for step in sent:
            visit.send(step)
        visit.backend.going.wait(30)
        visit.reset()

    def fault(stage: Stage, request_id: str) -> Message | None:
        made = stage.serve(script)
        client = stage.client()
        client.send(request("/", f"X-Request-Id: {request_id}"))
        wait_for(lambda: made.touched == 1, "it is delivered")
        if sent:
            client.read_until(b"abc")
        stage.worker.publish([service(slot=stage.slot)], [backend(made.port, draining=True)])
        made.going.set()
        if not sent:
            return client.read_response()
        assert client.at_end()
        return None

    return fault


def _cut(prepare: Callable[[Stage], object]) -> Fault:
    def fault(stage: Stage, request_id: str) -> None:
        prepare(stage)
        client = stage.client()
        client.send(request("/", f"X-Request-Id: {request_id}"))
        with pytest.raises((Truncated, ConnectionError)):
            client.read_response()

    return fault


_HANDSHAKE = (
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip
_SWITCHED = (
    b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def _silent_tunnel(stage: Stage, request_id: str) -> None:
    stage.serve(stalling(_SWITCHED), tunnel_idle_s=0.2)
    client = stage.client()
    client.send(request("/", f"X-Request-Id: {request_id}", *_HANDSHAKE))
    assert client.read_response().status == 101
    assert client.at_end() or not client.more()


def _malformed(answer: bytes, what: str) -> Row:
    fault = _asking(_served(stalling(answer)))
    return Row("response_malformed", 502, fault, delivered=True, attempts=1, what=what)


ROWS = [
    Row("bad_request", 400, _sending(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), early=True),
    Row("bad_request", 400, _ambiguous_path, early=True, what="path"),
    Row("bad_request", 400, _sending(request("/", "Transfer-Encoding: chunked", method="POST") + b"z\r\n"),
        early=True, what="chunk"),
    Row("host_missing", 400, _sending(b"GET / HTTP/1.1\r\n\r\n"), early=True),
    Row("head_too_large", 431, _sending(request("/", "X: " + "y" * 300), request_head_bytes=200),
        early=True),
    Row("head_too_large", 431, _sending(request("/", "X: " + "y" * 300), request_header_bytes=200),
        early=True, what="one header"),
    Row("head_too_large", 431, _sending(request("/", "X: 1", "Y: 2"), request_headers=2), early=True,
        what="count"),
    Row("head_too_large", 414, _sending(request("/" + "y" * 200), request_line_bytes=100), early=True),
    Row("body_too_large", 413, _sending(request(method="POST", body=b"x" * 11), request_body_bytes=10),
        early=True),
    Row("head_timeout", 408, _sending(b"GET / HTTP/1.1\r\n", request_head_s=0.2), early=True),
    Row("body_timeout", 408, _stall_in_body, delivered=True, attempts=1, method="POST"),
    Row("client_gone", 460, _leave, delivered=True, attempts=1),
    Row("protocol_refused", 405, _sending(request(method="TRACE")), early=True, what="TRACE"),
    Row("protocol_refused", 405, _sending(b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        early=True, what="CONNECT"),
    Row("protocol_refused", 417, _sending(request("/", "Expect: tea")), early=True),
    Row("protocol_refused", 501, _sending(request("/", "Transfer-Encoding: gzip", method="POST")),
        early=True),
    Row("protocol_refused", 505, _sending(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"), early=True),
    Row("unknown_service", 404, _asking(_other_host(loaded=True)), early=True, what="no rule"),
    Row("table_not_loaded", 503, _asking(_other_host(loaded=False)), early=True),
    Row("no_task", 503, _asking(lambda stage: stage.route())),
    Row("none_ready", 503, _asking(_rows(backend(1, healthy=False)))),
    Row("all_suspended", 503, _asking(_rows(replace(backend(1), suspended=True)))),
    Row("connect_refused", 503, _asking(lambda stage: stage.route(refused_port(), refused_port())),
        attempts=2),
    Row("connect_timeout", 503, _unanswered, attempts=1),
    Row("closed_before_response", 502, _asking(_served(resetting()), method="POST", body=b"x"),
        delivered=True, attempts=1, method="POST", what="RST"),
    Row("closed_before_response", 502, _asking(_served(after_request()), method="PUT", body=b"x"),
        delivered=True, attempts=1, method="PUT", what="FIN"),
    Row("stale_connection", 502, _stale, delivered=True, attempts=1, method="POST"),
    Row("response_timeout", 504, _asking(_served(stalling(), response_head_s=0.2)), delivered=True,
        attempts=1),
    Row("response_timeout", 504, _asking(_served(stalling(b"HTTP/1.1 2"), response_head_s=0.2)),
        delivered=True, attempts=1, what="half a head"),
    _malformed(b"HTTP/1.1 OK\r\n\r\n", "status"),
    _malformed(b"\x15\x03\x01\x00\x02\x02\x28", "TLS"),
    _malformed(b"<html>I am HTTP/0.9</html>", "HTTP/0.9"),
    _malformed(b"SSH-2.0-OpenSSH_9\r\n", "SSH"),
    _malformed(response(b"", "X: " + "y" * 70_000), "large"),
    _malformed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "two lengths"),
    _malformed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "chunk"),
    _malformed(b"HTTP/1.1 102 Processing\r\n\r\n" * 9, "1xx flood"),
    Row("response_malformed", 502, _asking(_served(after_request(b"HTTP/1.1 2"))), delivered=True,
        attempts=1, what="half a head"),
    Row("response_truncated", 0, _cut(_served(resetting(_HEAD + b"abc"))), delivered=True, attempts=1),
    Row("response_idle", 0, _cut(_served(stalling(_HEAD + b"abc"), response_idle_s=0.2)), delivered=True,
        attempts=1),
    Row("response_idle", 0, _silent_tunnel, delivered=True, attempts=1, what="tunnel"),
    Row("task_stopped_midflight", 502, _stopped(), delivered=True, attempts=1),
    Row("task_stopped_midflight", 0, _stopped(_HEAD + b"abc"), delivered=True, attempts=1),
    Row("upgrade_failed", 502,
        _asking(_served(answering(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")),
        *_HANDSHAKE), delivered=True, attempts=1),
    Row("upgrade_failed", 502, _asking(_served(answering(_SWITCHED))), delivered=True, attempts=1,
        what="unasked"),
]  # fmt: skip

# What needs a worker in a state of its own has its test there: (a) for the other codes that can be reached.
ELSEWHERE = {
    "shed": "test_descriptors.py",
    "tls_failed": "http1/test_backend_tls.py",
    "local_ports_exhausted": "test_descriptors.py",
    "drain_deadline": "test_drain.py",
    "shutting_down": "test_drain.py",
    "internal": "test_bugs.py",
    "identity_mismatch": "http1/test_proof.py",
}


def _counters(worker: WorkerProcess, slot: int) -> tuple[dict[str, int], int]:
    block = worker.board.block(0, slot)
    failures = {error.reason: block[sb.FAILURES + error.slot] for error in ERRORS}
    return failures, sum(block[sb.REQUESTS : sb.DURATION])


def _happen(worker: WorkerProcess, row: Row, slot: int) -> Outcome:
    counted = sb.NO_SERVICE if row.early else slot
    before, requests_before = _counters(worker, counted)
    with staged(worker, slot) as stage:
        answer = row.fault(stage, f"row-{slot}")
        wait_for(lambda: _counters(worker, counted)[0] != before, f"{row} is counted")
        wait_for(stage.settled, f"{row}: nothing in flight")
        unsettled = stage.cell(sb.TUNNELS)
    after, requests_after = _counters(worker, counted)
    requests = (
        requests_after - requests_before - (row.reason == "stale_connection")
    )  # which follows a good one
    request_id = f"row-{slot}"
    if answer is not None:
        request_id = (answer.get("x-request-id") or b"").decode()
    failures = {reason: after[reason] - before[reason] for reason in after if after[reason] != before[reason]}
    return Outcome(answer, request_id, failures, requests, unsettled)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """Every fault, made once on one worker, with the line it has left in the log."""
    made: dict[str, Outcome] = {}
    with WorkerProcess() as worker:
        for number, row in enumerate(ROWS, start=1):
            made[str(row)] = _happen(worker, row, number)
        assert worker.stop() == 0
        lines = [orjson.loads(line) for line in worker.log.splitlines()]
    by_id = {line["request_id"]: line for line in lines}
    assert len(by_id) == len(lines) == len(ROWS), "one line for each failure, and none for what succeeds"
    for outcome in made.values():
        outcome.line = by_id.get(outcome.request_id)
    return made


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({str(row) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_status_header_and_body_say_the_same_word(outcomes: dict[str, Outcome], row: Row) -> None:
    """(a): what the client gets; the delivered promise and the number of attempts are the real ones."""
    answer = outcomes[str(row)].answer
    if row.status in (0, 460):
        assert answer is None
        return
    assert answer is not None
    error = BY_REASON[row.reason]
    assert answer.status == row.status
    assert words(answer) == (
        row.reason,
        [f"delivered={'yes' if row.delivered else 'no'}", f"attempts={row.attempts}"],
    )
    assert (answer.get("x-anyport-error") or b"").startswith(error.code.encode() + b" ")
    body = json.loads(answer.body)
    assert (body["code"], body["error"]) == (error.code, row.reason)
    assert body["request_id"].encode() == answer.get("x-request-id") != b""
    assert answer.get("cache-control") == b"no-store"
    assert answer.get("retry-after") == (b"1" if error.retry_after else None)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_metric_counts_it_once_under_the_same_word(outcomes: dict[str, Outcome], row: Row) -> None:
    """(a) and (c): one failure with this reason and no other, one request, and nothing left open."""
    outcome = outcomes[str(row)]
    assert outcome.failures == {row.reason: 1}
    assert outcome.requests == 1
    assert outcome.unsettled == 0


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_log_has_one_line_with_the_same_word_and_id(outcomes: dict[str, Outcome], row: Row) -> None:
    """(a): from the id on a user's screen to the line, and from there to the manual."""
    line = outcomes[str(row)].line
    assert line is not None
    assert line["error"] == str(BY_REASON[row.reason])
    if row.status:
        assert line["status"] == row.status
    if not row.early:
        assert (line["delivered"], line["attempts"], line["method"]) == (
            row.delivered,
            row.attempts,
            row.method,
        )
    if row.reason in (
        "bad_request",
        "host_missing",
        "head_too_large",
        "response_malformed",
        "upgrade_failed",
    ):
        assert line["detail"]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_stranger_learns_no_address(outcomes: dict[str, Outcome], row: Row) -> None:
    """(d): neither of a task nor of anything else, and no ARN."""
    answer = outcomes[str(row)].answer
    if answer is not None:
        assert not _ADDRESS.search(answer.raw_head + answer.body)
        assert b"Traceback" not in answer.body


def test_503_is_what_was_not_delivered(outcomes: dict[str, Outcome]) -> None:
    """(b) for these faults: the promise that makes a 503 safe to send again."""
    for row in ROWS:
        answer = outcomes[str(row)].answer
        if answer is not None:
            delivered = "delivered=yes" in words(answer)[1]
            assert not (answer.status == 503 and delivered), row
            assert not (answer.status in (502, 504) and not delivered), row


def test_every_code_that_can_be_reached_has_a_fault() -> None:
    """(a) is complete: what the manual does not call reserved is here, or has a worker of its own."""
    manual = _DOCS.read_text()
    reached = {
        reason
        for reason, rest in re.findall(r"\*\*[A-Z]\d\d (\w+) \(\d+\)\.\*\*(.{12})", manual)
        if "*Reserved.*" not in rest
    }
    assert reached == {row.reason for row in ROWS} | set(ELSEWHERE)
    for reason, name in ELSEWHERE.items():
        text = (Path(__file__).parent / name).read_text()
        assert re.search(rf"\b({reason}|{reason.upper()})\b", text), f"{name} does not speak of {reason}"
