"""What an answer of the proxy's own looks like; `test_error_table.py` makes each with a real fault."""

from __future__ import annotations

import re

import orjson
import pytest

from proxy import errors
from proxy.errors import BY_REASON, ERRORS
from tests.kit.backends import answering, refused_port, resetting, stalling
from tests.kit.stage import Stage, staged
from tests.kit.wire import Message, Truncated, request, response
from tests.kit.workers import WorkerProcess, wait_for

ADDRESS = re.compile(rb"\d+\.\d+\.\d+\.\d+|arn:aws")


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
    assert len(BY_REASON) == len(ERRORS)
    assert all(error.status != 503 or error.code[0] in "RBUP" for error in ERRORS)
    assert errors.CLIENT_GONE.status == 460
