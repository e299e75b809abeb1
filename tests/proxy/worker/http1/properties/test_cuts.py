"""Invariant I4 where the cuts are exact: head and body readers get the pieces, not a socket's mixture."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.worker.http1 import head as compiled
from proxy.worker.http1.framing import LAST_CHUNK, encode_chunk
from tests.kit.bounded import bounded
from tests.kit.grammar import changes, chunked, cuts, cuttings, mutated, requests, responses
from tests.kit.piecewise import SOURCE, bytewise, read_body, read_head


@bounded(1200)
@given(body=chunked(), done=st.lists(changes, max_size=2), at=cuts, rest=st.binary(max_size=8))
def test_a_body_is_read_alike_however_it_is_cut(
    body: tuple[bytes, bytes], done: list[Any], at: list[int], rest: bytes
) -> None:
    """Payload, end, rest and refusal; a valid body is read, and what we write of it is read as the same."""
    data, payload = body
    if not done:
        assert read_body([data + rest]) == (payload, rest)
    for change in done:
        data = change(data)
    data += rest
    whole = read_body([data])
    assert read_body(cuttings(data, at)) == whole
    assert read_body(bytewise(data)) == whole
    if not isinstance(whole, str):
        again = encode_chunk(whole[0]) + LAST_CHUNK if whole[0] else LAST_CHUNK
        assert read_body([again + whole[1]]) == whole


@pytest.mark.parametrize("method", [None, b"GET", b"HEAD"])
def test_a_head_is_read_alike_however_it_is_cut_and_whatever_runs(method: bytes | None) -> None:
    """I4 for heads; and rule 10: the compiled parser and its source say the same of everything."""

    @bounded(600)
    @given(data=mutated(requests() if method is None else responses()), at=cuts)
    def judged(data: bytes, at: list[int]) -> None:
        whole = read_head(compiled, [data], method)
        assert read_head(compiled, cuttings(data, at), method) == whole
        assert read_head(compiled, [*bytewise(data[:400]), data[400:]], method) == whole
        assert read_head(SOURCE, [data], method) == whole

    judged()


@bounded(500)
@given(data=mutated(requests()))
def test_what_a_head_keeps_is_read_as_the_same_head(data: bytes) -> None:
    """Invariant I6: reading what we write of a head gives that head. A target in absolute form, HTTP/1.0 and
    a request to upgrade are left behind by the first writing."""
    first = read_head(compiled, [data], None)
    if not isinstance(first, dict) or not first["host"]:
        return
    second = read_head(compiled, [first["lines"] + b"\r\n"], None)
    assert isinstance(second, dict)
    for head in (first, second):  # what is written anew goes to the end
        line, *fields = head["lines"].split(b"\r\n")
        head["lines"] = [line, *sorted(fields)]
    kept = ("method", "target", "path", "host", "length", "expects_continue", "request_id", "lines")
    assert {name: second[name] for name in kept} == {name: first[name] for name in kept}


def test_cuttings_cut() -> None:
    """The helper of all of these: pieces in order, nothing lost, cut where it was asked for."""
    assert cuttings(b"abcdef", [2, 4]) == [b"ab", b"cd", b"ef"]
    assert [len(piece) for piece in bytewise(b"abc")] == [1, 1, 1]
    assert [len(piece) for piece in cuttings(b"abcdef", [9, 1, 1])] == [1, 1, 4]
