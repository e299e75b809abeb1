"""What the fuzzer and the replay of its corpus hold any bytes against."""

from __future__ import annotations

from typing import Final

from proxy.worker.http1 import head as compiled
from proxy.worker.http1.framing import LAST_CHUNK, encode_chunk
from tests.kit.agreement import agree_on_requests, agree_on_response
from tests.kit.grammar import cuttings
from tests.kit.piecewise import SOURCE, bytewise, read_body, read_head

# The first byte of an input says what the rest of it is, the second where it is cut.
TARGETS: Final = (b"Q", b"R", b"H", b"C")  # requests, a response, one to HEAD, a chunked body


def check(data: bytes) -> None:
    """Raise if one of the invariants I1, I4, I5 or I6 does not hold for *data*. Only `HeadError` and
    `FramingError` are ever expected of our readers, and whatever they take is read alike by everybody."""
    if len(data) < 3:
        return
    target, at, rest = data[:1], data[1], data[2:]
    pieces = cuttings(rest, [at, at * 3, at * 7])
    if target == b"C":
        _check_body(rest, pieces)
    elif target in TARGETS:
        method = {b"Q": None, b"R": b"GET", b"H": b"HEAD"}[target]
        _check_head(rest, pieces, method)
        if method is None:
            agree_on_requests(rest)
        else:
            agree_on_response(rest, method, eof=bool(at % 2))


def _check_body(data: bytes, pieces: list[bytes]) -> None:
    whole = read_body([data])
    assert read_body(pieces) == whole
    assert read_body(bytewise(data)) == whole
    if not isinstance(whole, str):
        payload, rest = whole
        again = (encode_chunk(payload) if payload else b"") + LAST_CHUNK
        assert read_body([again + rest]) == whole


def _check_head(data: bytes, pieces: list[bytes], method: bytes | None) -> None:
    head = read_head(SOURCE, [data], method)
    assert read_head(compiled, [data], method) == head
    assert read_head(SOURCE, pieces, method) == head
    if not isinstance(head, dict):
        return
    for line in head["lines"].removesuffix(b"\r\n").split(b"\r\n"):
        assert not set(line) & {0, 10, 13}
    if method is None and head["host"]:
        again = read_head(SOURCE, [head["lines"] + b"\r\n"], None)
        assert isinstance(again, dict)
        for name in ("method", "target", "host", "length", "request_id"):
            assert again[name] == head[name]
