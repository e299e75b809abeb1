"""Invariant I4 where the cuts are exact: head and body readers get the pieces, not a socket's mixture."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.worker.http1 import head as compiled
from proxy.worker.http1.framing import LAST_CHUNK, ChunkedReader, FramingError, encode_chunk
from tests.kit.bounded import bounded
from tests.kit.grammar import changes, chunked, cuts, cuttings, mutated, requests, responses
from tests.kit.parsers import LIMITS


def _read(pieces: list[bytes]) -> tuple[bytes, bytes] | str:
    """Return (payload, what follows the body), "partial" or "refused"."""
    reader, payload = ChunkedReader(), b""
    for index, piece in enumerate(pieces):
        try:
            payload += reader.feed(piece)
        except FramingError:
            return "refused"
        if reader.done:
            return payload, reader.rest + b"".join(pieces[index + 1 :])
    return "partial"


def _bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


@bounded(1200)
@given(body=chunked(), done=st.lists(changes, max_size=2), at=cuts, rest=st.binary(max_size=8))
def test_a_body_is_read_alike_however_it_is_cut(
    body: tuple[bytes, bytes], done: list[Any], at: list[int], rest: bytes
) -> None:
    """Payload, end, rest and refusal; a valid body is read, and what we write of it is read as the same."""
    data, payload = body
    if not done:
        assert _read([data + rest]) == (payload, rest)
    for change in done:
        data = change(data)
    data += rest
    whole = _read([data])
    assert _read(cuttings(data, at)) == whole
    assert _read(_bytewise(data)) == whole
    if not isinstance(whole, str):
        again = encode_chunk(whole[0]) + LAST_CHUNK if whole[0] else LAST_CHUNK
        assert _read([again + whole[1]]) == whole


def _source() -> ModuleType:
    """Return the head parser as plain Python, whatever runs here."""
    path = Path(compiled.__file__).parent / "head.py"
    spec = importlib.util.spec_from_loader("head_source", SourceFileLoader("head_source", str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOURCE = _source()


def _head(parser: Any, pieces: list[bytes], method: bytes | None) -> object:
    """Return everything *parser* says about the head that comes in *pieces*; None while it is not whole."""
    buffer, scanned = b"", 0
    limit = LIMITS.request_head_bytes if method is None else LIMITS.response_head_bytes
    try:
        for piece in pieces:
            buffer += piece
            end = parser.find_end(buffer, scanned, limit)
            if end >= 0:
                whole = buffer[:end]
                if method is None:
                    head = parser.parse_request(whole, LIMITS)
                else:
                    head = parser.parse_response(whole, method, LIMITS)
                names = (SOURCE.RequestHead if method is None else SOURCE.ResponseHead).__slots__
                return {name: getattr(head, name) for name in names}
            scanned = len(buffer)
    except parser.HeadError:
        # A line end that cannot be is refused before the head is whole, whatever it says elsewhere.
        return "refused"
    return None


@pytest.mark.parametrize("method", [None, b"GET", b"HEAD"])
def test_a_head_is_read_alike_however_it_is_cut_and_whatever_runs(method: bytes | None) -> None:
    """I4 for heads; and rule 10: the compiled parser and its source say the same of everything."""

    @bounded(600)
    @given(data=mutated(requests() if method is None else responses()), at=cuts)
    def judged(data: bytes, at: list[int]) -> None:
        whole = _head(compiled, [data], method)
        assert _head(compiled, cuttings(data, at), method) == whole
        assert _head(compiled, [*_bytewise(data[:400]), data[400:]], method) == whole
        assert _head(SOURCE, [data], method) == whole

    judged()


@bounded(500)
@given(data=mutated(requests()))
def test_what_a_head_keeps_is_read_as_the_same_head(data: bytes) -> None:
    """Invariant I6: reading what we write of a head gives that head. A target in absolute form, HTTP/1.0 and
    a request to upgrade are left behind by the first writing."""
    first = _head(compiled, [data], None)
    if not isinstance(first, dict) or not first["host"]:
        return
    second = _head(compiled, [first["lines"] + b"\r\n"], None)
    assert isinstance(second, dict)
    for head in (first, second):  # what is written anew goes to the end
        line, *fields = head["lines"].split(b"\r\n")
        head["lines"] = [line, *sorted(fields)]
    kept = ("method", "target", "path", "host", "length", "expects_continue", "request_id", "lines")
    assert {name: second[name] for name in kept} == {name: first[name] for name in kept}


def test_cuttings_cut() -> None:
    """The helper of all of these: pieces in order, nothing lost, cut where it was asked for."""
    assert cuttings(b"abcdef", [2, 4]) == [b"ab", b"cd", b"ef"]
    assert [len(piece) for piece in _bytewise(b"abc")] == [1, 1, 1]
    assert [len(piece) for piece in cuttings(b"abcdef", [9, 1, 1])] == [1, 1, 4]
