"""Whole streams of bytes at a real worker: what is refused reaches nobody, and cuts change nothing."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from tests.kit.backends import answering
from tests.kit.desync import REFUSED
from tests.kit.stage import Stage
from tests.kit.wire import Message, Truncated, request, response

_BEHIND = request("/behind")


@pytest.mark.parametrize("row", REFUSED)
def test_what_is_refused_reaches_no_backend_and_ends_the_connection(stage: Stage, row: str) -> None:
    """Invariant I3: a refusal or a message upstream, never both; what follows is doubtful too."""
    backend = stage.serve()
    head, status = REFUSED[row]
    client = stage.client()
    client.send(head + b"0\r\n\r\n" + _BEHIND)
    answer = client.read_response()
    assert (answer.status, answer.get("connection")) == (status, b"close")
    assert client.at_end()
    assert backend.visits == []


def _echo(message: Message) -> bytes:
    return response(message.start + b"|" + message.body + b"|" + b",".join(message.all("x-n")))


GOOD = (
    request("/a", "X-N: 1") + request("/b", method="POST", body=b"body\r\n\r\nGET / HTTP/1.1\r\n")
    + b"\r\n" + request("/c", "Transfer-Encoding: chunked", method="PUT")
    + b"4;x=y\r\n\r\n0\r\r\n10\r\n0123456789abcdef\r\n0\r\nX-Sum: x\r\n\r\n"
    + b"GET http://web.test/d?q=1 HTTP/1.1\r\nHost: web.test\r\nX-N: 2\r\nX-N:3\r\n\r\n"
)  # fmt: skip
STREAMS = {
    "good": GOOD,
    "bad head behind": GOOD + b"GET /bad HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n" + _BEHIND,
    "bad chunk behind": GOOD
    + request("/e", "Transfer-Encoding: chunked", method="POST")
    + b"x\r\n" + _BEHIND,
    "too many empty lines": GOOD + b"\r\n\r\n\r\n" + _BEHIND,
    "LF line behind": GOOD + b"GET / HTTP/1.1\nHost: a\r\n\r\n" + _BEHIND,
}  # fmt: skip


def _outcome(stage: Stage, stream: bytes, cuts: list[int]) -> list[tuple[int, bytes]]:
    """Return (status, body; of errors only the status) of every answer to *stream*, sent in pieces."""
    client = stage.client()
    points = [0, *sorted(cuts), len(stream)]
    for start, end in pairwise(points):
        client.send(stream[start:end])
    client.half_close()
    answers = []
    try:
        while True:
            answer = client.read_response()
            answers.append((answer.status, answer.body if answer.status == 200 else b""))
    except Truncated:
        return answers


@pytest.mark.parametrize("name", STREAMS)
def test_any_cutting_of_a_stream_gives_the_same_answers(stage: Stage, name: str) -> None:
    """Invariant I4 and F28, through sockets, loop and process: including what waits behind a refusal."""
    stage.serve(answering(_echo))
    stream = STREAMS[name]
    whole = _outcome(stage, stream, [])
    expected = [200] * 4 if name == "good" else [*[200] * 4, 400]
    assert [status for status, _ in whole] == expected
    assert whole[2][1] == b"PUT /c HTTP/1.1|\r\n0\r0123456789abcdef|"
    assert whole[3][1] == b"GET /d?q=1 HTTP/1.1||2,3"
    rng = random.Random(name)
    for _ in range(25):
        cuts = rng.sample(range(1, len(stream)), rng.randint(1, 12))
        assert _outcome(stage, stream, cuts) == whole
    assert _outcome(stage, stream, list(range(1, len(stream)))) == whole
