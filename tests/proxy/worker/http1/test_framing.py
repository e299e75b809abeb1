"""Chunked bodies: the strict reader, however its input is cut (S21 to S27)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.worker.http1.framing import LAST_CHUNK, ChunkedReader, FramingError, encode_chunk

REFUSED = {
    "S21 size line LF only": b"3\nabc\r\n0\r\n\r\n",
    "S21 data LF only": b"3\r\nabc\n0\r\n\r\n",
    "S21 last chunk LF only": b"3\r\nabc\r\n0\n\r\n",
    "S21 trailer LF only": b"0\r\nX: y\n\r\n",
    **{
        f"S22 size {size!r}": size + b"\r\nabc\r\n0\r\n\r\n"
        for size in (b"0x3", b"+3", b"0_3", b" 3", b"", b"\r3", b"-3", b"g", b"3\xa0", "٣".encode(), b"3\0")
    },
    "S22 CR X": b"3\rX\nabc\r\n0\r\n\r\n",
    "S23 size then space": b"3 \r\nabc\r\n0\r\n\r\n",
    "S23 size then tab": b"3\t\r\nabc\r\n0\r\n\r\n",
    "S24 size of 16 digits": b"1000000000000000\r\n",
    "S24 size of 2^64": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "S24 17 characters with zeros": b"0" * 16 + b"3\r\nabc\r\n0\r\n\r\n",
    "S24 line of 257 bytes": b"3;" + b"a" * 255 + b"\r\nabc\r\n0\r\n\r\n",
    "S25 CTL in extension": b"3;a\x01\r\nabc\r\n0\r\n\r\n",
    "S25 bare CR in extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "S25 bare LF in extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "S25 quote left open": b'3;a="b\r\nabc\r\n0\r\n\r\n',
    "S25 line end in quotes": b'3;a="\r\n"\r\nabc\r\n0\r\n\r\n',
    "S25 extensions of 17 KB": (b"1;" + b"e" * 250 + b"\r\na\r\n") * 70 + b"0\r\n\r\n",
    "S26 data too long": b"3\r\nabcd\r\n0\r\n\r\n",
    "S26 two other bytes behind the data": b"3\r\nabcde0\r\n\r\n",
    "S26 data without CRLF": b"3\r\nabc0\r\n\r\n",
    "S27 malformed trailer": b"0\r\nX y\r\n\r\n",
    "S27 folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "S27 NUL in trailer": b"0\r\nX: \0\r\n\r\n",
    **{
        f"S27 trailer {name.decode()}": b"3\r\nabc\r\n0\r\nX: y\r\n" + name + b": 3\r\n\r\n"
        for name in (
            b"Content-Length",
            b"transfer-encoding",
            b"HOST",
            b"Connection",
            b"Upgrade",
            b"Authorization",
            b"Cookie",
        )
    },
    "S27 trailers of 9 KB": b"0\r\n" + b"X: %b\r\n" % (b"y" * 900) * 10 + b"\r\n",
}


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


ACCEPTED = {
    "two chunks": (b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
    "empty": (b"0\r\n\r\n", b""),
    "capital hex": (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "S24 leading zeros": (b"0000000000000003\r\nabc\r\n000\r\n\r\n", b"abc"),
    "S24 line of 256 bytes": (b"3;" + b"a" * 254 + b"\r\nabc\r\n0\r\n\r\n", b"abc"),
    "S25 extension": (b'3;a=b;c="d;\\"e"\r\nabc\r\n0;x\r\n\r\n', b"abc"),
    "S27 trailers": (b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", b"abc"),
    "line ends in the data": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
}


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
