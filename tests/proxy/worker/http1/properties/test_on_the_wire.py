"""Streams of any bytes through a real worker: what arrives, what is answered, and that it all adds up."""

from __future__ import annotations

import pytest
from hypothesis import given

from proxy.link import scoreboard as sb
from tests.kit.backends import Visit
from tests.kit.bounded import bounded
from tests.kit.grammar import cuts, cuttings, mutated, responses, streams, valid_streams
from tests.kit.parsers import (
    Headers,
    by_h11,
    by_httptools,
    our_response,
    ours,
    response_by_h11,
)
from tests.kit.stage import Stage
from tests.kit.wire import Message, Truncated, Wire, request, response
from tests.kit.workers import wait_for

_OURS = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-port", b"x-request-id")
_FRAMING = (b"content-length", b"transfer-encoding", b"connection", b"upgrade")


class _Echo:
    """A backend that answers every request with its target, and keeps the bytes of the whole ones."""

    def __init__(self) -> None:
        self.arrived: list[bytes] = []
        self.messages: list[Message] = []

    def __call__(self, visit: Visit) -> None:
        while True:
            message = visit.read_request()
            self.arrived.append(visit.received.removesuffix(visit.buffer) if visit.buffer else visit.received)
            visit.received = visit.buffer
            self.messages.append(message)
            method, target, _ = message.start.split(b" ")
            answer = response(target)
            visit.send(answer[: -len(target)] if method == b"HEAD" else answer)

    def take(self) -> bytes:
        """Return what has arrived since the last call."""
        data = b"".join(self.arrived)
        self.arrived.clear()
        self.messages.clear()
        return data


def _exchange(stage: Stage, methods: list[bytes], pieces: list[bytes]) -> list[Message]:
    """Send *pieces*, then end-of-file, and return every answer; of one that is cut short nothing."""
    answers = []
    with Wire.connect(stage.worker.port) as client:
        for piece in pieces:
            client.send(piece)
        client.half_close()
        try:
            while True:
                if len(answers) == len(methods):  # a refusal and nothing more; that of a HEAD has no body
                    answers.append(client.read_head())
                    client.read_to_end()
                    break
                answers.append(client.read_response(methods[len(answers)].decode()))
        except (Truncated, ConnectionError):
            pass
    return answers


def _plain(headers: Headers) -> Headers:
    return tuple(field for field in headers if field[0] not in (*_OURS, *_FRAMING))


def _reordered(stream: bytes) -> list[tuple[object, ...]]:
    """Return every request of *stream*; the headers we add go to the end, so their order is free."""
    return [(m.start, sorted(m.headers), m.body) for m in by_h11(stream).messages]


def _sound(message: Message) -> None:
    """Invariant I5, in so many words: no line of a head holds what could end it."""
    for line in message.raw_head.removesuffix(b"\r\n\r\n").split(b"\r\n"):
        assert not set(line) & {0, 10, 13}


def _judge(stage: Stage, backend: _Echo, stream: bytes, pieces: list[bytes]) -> None:
    model = ours(stream)
    passed = [message for message in model.messages if message.start[1] != b"*"]
    backend.take()
    answers = _exchange(stage, [message.start[0] for message in model.messages], pieces)
    for message in (*answers, *backend.messages):
        _sound(message)

    # I1: everybody reads in what arrived what we have read in what was sent.
    out = backend.take()
    readings = [by_h11(out)]
    if (b"host", b"") not in (field for m in passed for field in m.headers):  # as we say of HTTP/1.0
        readings.append(ours(out))
    if all(m.start[0] in _LLHTTP for m in passed):
        readings.append(by_httptools(out))
    for reading in readings:
        assert reading.end in ("clean", "closed")
        assert [(m.start, _plain(m.headers), m.body) for m in reading.messages] == [
            (m.start, _plain(m.headers), m.body) for m in passed
        ]

    # I2 and I3: one answer for each message that arrived, and one more, the last, for what was refused.
    wanted = [204 if message.start[1] == b"*" else 200 for message in model.messages]
    if model.end == "refused":
        assert answers[-1].get("connection") == b"close"
        wanted.append(model.status)
    assert [answer.status for answer in answers] == wanted


_LLHTTP = (b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"M-SEARCH")


def test_what_leaves_is_what_was_taken_and_everybody_reads_it_so(stage: Stage) -> None:
    """Invariants I1 to I5, for valid and for hostile streams, cut anywhere."""
    backend = _Echo()
    stage.serve(backend)

    @bounded(300)
    @given(stream=streams, at=cuts)
    def judged(stream: bytes, at: list[int]) -> None:
        _judge(stage, backend, stream, cuttings(stream, at))

    judged()


class _Answer:
    """A backend that answers one request with the bytes set before it, and closes."""

    pieces: tuple[bytes, ...] = ()

    def __call__(self, visit: Visit) -> None:
        visit.read_request()
        for piece in self.pieces:
            visit.send(piece)


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_of_a_backend_nothing_passes_but_what_everybody_reads_alike(stage: Stage, method: bytes) -> None:
    """Invariants I1, I4 and I5 for the other direction: a whole response, a 502, or a visible cut."""
    backend = _Answer()
    stage.serve(backend)

    @bounded(150)
    @given(data=mutated(responses()), at=cuts)
    def judged(data: bytes, at: list[int]) -> None:
        model = our_response(data, method, eof=True)
        backend.pieces = tuple(cuttings(data, at))
        wait_for(lambda: not stage.worker.head(sb.UPSTREAMS), "the last connection is closed")
        outcome = "cut"
        with Wire.connect(stage.worker.port) as client:
            # POST is what is never sent a second time
            client.send(request(method="POST" if method == b"GET" else "HEAD"))
            try:
                answer = client.read_response(method.decode())
                outcome = "ok" if answer.get("x-anyport-error") is None else "refused"
            except (Truncated, ConnectionError):
                answer = None
            got = client.received
        if answer is None:
            assert model.end in ("partial", "refused"), model
            return
        _sound(answer)
        if outcome == "refused":
            assert model.end in ("partial", "refused")
            assert answer.status == 502
            return
        (wanted,) = model.messages
        (theirs,) = response_by_h11(got, method, eof=True).messages
        assert (theirs.start, _plain(theirs.headers), theirs.body) == (
            wanted.start, _plain(wanted.headers), wanted.body,
        )  # fmt: skip
        assert answer.body == wanted.body

    judged()


def test_what_has_passed_once_passes_a_second_time_unchanged(stage: Stage) -> None:
    """Invariant I6, by the byte: what we write of a request is what we write of that."""
    backend = _Echo()
    stage.serve(backend)

    @bounded(150)
    @given(stream=valid_streams)
    def judged(stream: bytes) -> None:
        if b"HTTP/1.0\r\n" in stream:  # may lack a Host, and is HTTP/1.1 the second time
            return
        backend.take()
        _exchange(stage, [m.start[0] for m in ours(stream).messages], [stream])
        once = backend.take()
        _exchange(stage, [m.start[0] for m in ours(once).messages], [once])
        assert _reordered(backend.take()) == _reordered(once)

    judged()
