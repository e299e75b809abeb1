"""Chunked bodies: the strict reader, however its input is cut (S21 to S27)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.worker.http1.framing import LAST_CHUNK, ChunkedReader, FramingError, encode_chunk
from tests.kit.desync_bodies import ACCEPTED, REFUSED


def run(pieces: list[bytes]) -> tuple[bytes, bool, bytes] | None:
    """Return (payload, done, rest) of a body fed in *pieces*, or None if it is refused."""
    reader, payload = ChunkedReader(), b""
    for index, piece in enumerate(pieces):
        try:
            payload += reader.feed(piece)
        except FramingError:
            return None
        if reader.done:
            return payload, True, reader.rest + b"".join(pieces[index + 1 :])
    return payload, False, b""


def by_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


@pytest.mark.parametrize("row", REFUSED)
def test_broken_framing_is_refused_whole_and_byte_by_byte(row: str) -> None:
    """Rule 5: whoever reads such a body differently sees another request behind it."""
    assert run([REFUSED[row]]) is None
    assert run(by_bytes(REFUSED[row])) is None


@pytest.mark.parametrize("row", ACCEPTED)
def test_a_body_is_the_same_whole_and_byte_by_byte(row: str) -> None:
    """Invariant I4. Networks cut where they like; F28 cuts after every byte. What follows is not touched."""
    data, payload = ACCEPTED[row]
    data += b"GET / HTTP/1.1\r\n"
    assert run([data]) == (payload, True, b"GET / HTTP/1.1\r\n")
    assert run(by_bytes(data)) == (payload, True, b"GET / HTTP/1.1\r\n")


_tokens = st.sampled_from(
    [
        b"0",
        b"1",
        b"3",
        b"a",
        b"\r\n",
        b"\r",
        b"\n",
        b";x",
        b"abc",
        b"X: y",
        b"0\r\n\r\n",
        b"3\r\nabc\r\n",
        b" ",
    ]
)


@given(parts=st.lists(_tokens, max_size=14), cuts=st.lists(st.integers(0, 60), max_size=8))
@example(parts=[b"0\r\n\r\n"], cuts=[3, 4])
@example(parts=[b"0", b"\r\n", b"X: y", b"\r\n", b"\r\n"], cuts=[3])
@example(parts=[b"0", b"\r\n", b"X: y", b"\r\n", b"\r\n"], cuts=[9])
def test_any_cutting_gives_the_same_result(parts: list[bytes], cuts: list[int]) -> None:
    """Invariant I4: payload, end, rest and refusal depend on the bytes, never on how they arrived.

    A refusal may come earlier than the last byte; a body that is not over has no verdict yet.
    """
    data = b"".join(parts)
    points = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    whole = run([data])
    pieces = run([data[a:b] for a, b in pairwise(points)])
    assert pieces == whole


@given(payload=st.lists(st.binary(min_size=1, max_size=50), max_size=6))
def test_what_we_encode_we_read(payload: list[bytes]) -> None:
    """Invariant I6."""
    data = b"".join(map(encode_chunk, payload)) + LAST_CHUNK
    assert run([data]) == (b"".join(payload), True, b"")


def test_a_long_body_is_not_gathered() -> None:
    """Rule 8: payload goes on as it comes; only an incomplete line waits."""
    reader = ChunkedReader()
    assert reader.feed(b"fffffff\r\nabc") == b"abc"
    assert reader.feed(b"x" * 100_000) == b"x" * 100_000
    assert not reader.done
