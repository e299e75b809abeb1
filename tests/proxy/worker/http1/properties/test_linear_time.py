"""Invariant I7: a flood costs what its bytes cost, not their square.

CPU time of this process for a flood and for one eight times as long, the best of several: about 8 where
time is linear, 64 where it is quadratic.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from proxy.worker.http1.framing import ChunkedReader, FramingError
from proxy.worker.http1.head import HeadError, find_end, parse_request, parse_response
from tests.kit.parsers import LIMITS

_TIMES = 8
_LINEAR_AT_MOST = 24  # times the work of the small flood
_TRIES = 3


def _spent_s(work: Callable[[int], None], size: int, repeats: int) -> float:
    start_s = time.process_time()
    for _ in range(repeats):
        work(size)
    return (time.process_time() - start_s) / repeats


def _growth(work: Callable[[int], None], size: int, repeats: int) -> float:
    small = min(_spent_s(work, size, repeats * _TIMES) for _ in range(_TRIES))
    large = min(_spent_s(work, size * _TIMES, repeats) for _ in range(_TRIES))
    return large / small


def _request(fields: bytes) -> None:
    """Judge a head as it comes: what is too long for the limits has to be judged as well."""
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n"
    with suppress(HeadError):
        parse_request(head[: find_end(head, 0, LIMITS.request_head_bytes)], LIMITS)


def _response(fields: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n"
    with suppress(HeadError):
        parse_response(head[: find_end(head, 0, LIMITS.response_head_bytes)], b"GET", LIMITS)


def _bytewise(data: bytes, limit: int) -> None:
    """Look for the end of a head after each byte, as a connection does that gets them one by one."""
    buffer, scanned = b"", 0
    for at in range(len(data)):
        buffer += data[at : at + 1]
        if find_end(buffer, scanned, limit) >= 0:
            return
        scanned = len(buffer)


def _chunks(data: bytes, step: int) -> None:
    reader = ChunkedReader()
    try:
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
    except FramingError:
        pass


# name: (what to do with a size, the small size, how often to measure much)
FLOODS: dict[str, tuple[Callable[[int], None], int, int]] = {
    "headers nobody knows": (lambda n: _request(b"X: y\r\n" * n), 600, 5),
    "short names and no values": (lambda n: _request(b"a:\r\n" * n), 1000, 5),
    "headers to drop": (lambda n: _request(b"TE: x\r\nX: y\r\n" * n), 300, 5),
    "Connection, over and over": (lambda n: _request(b"Connection: x\r\n" * n), 250, 5),
    "one Connection of many names": (lambda n: _request(b"Connection: " + b"x," * n + b"\r\n"), 1900, 5),
    "X-Forwarded-For, over and over": (lambda n: _request(b"X-Forwarded-For: 1\r\n" * n), 200, 5),
    "Upgrade, over and over": (lambda n: _request(b"Upgrade: x\r\n" * n), 250, 5),
    "look-alikes of ours": (lambda n: _request(b"Content-Lengt: 1\r\n" * n), 200, 5),
    "one long value": (lambda n: _request(b"X: " + b" y" * n + b"\r\n"), 1900, 20),
    "one value of blanks": (lambda n: _request(b"Connection: " + b" " * n + b"\r\n"), 3900, 20),
    "one long name": (lambda n: _request(b"x" * n + b": y\r\n"), 3900, 20),
    "a target of question marks": (lambda n: _bytewise(b"GET /" + b"?" * n, 10**6), 900, 1),
    "headers of a response": (lambda n: _response(b"Connection: x\r\nX: y\r\n" * n), 300, 5),
    "Keep-Alive without a timeout": (
        lambda n: _response(b"Keep-Alive: " + b"timeout=, " * n + b"\r\n"),
        700,
        5,
    ),
    "Keep-Alive of blanks": (lambda n: _response(b"Keep-Alive: " + b" ," * n + b"x\r\n"), 3900, 1),
    "a head, byte by byte": (lambda n: _bytewise(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * n, 10**6), 600, 1),
    "CRs, byte by byte": (lambda n: _bytewise(b"\r" * n, 10**6), 3900, 1),
    "chunks of one byte": (lambda n: _chunks(b"1\r\nx\r\n" * n, 65_536), 3000, 1),
    "chunks of one byte, byte by byte": (lambda n: _chunks(b"1\r\nx\r\n" * n, 1), 600, 1),
    "one chunk, byte by byte": (lambda n: _chunks(b"ffffff\r\n" + b"x" * n, 1), 3000, 1),
    "a size line that never ends, byte by byte": (lambda n: _chunks(b"1;" + b"x" * n, 1), 3000, 1),
    "extensions, byte by byte": (lambda n: _chunks((b"1;" + b"e" * 200 + b"\r\nx\r\n") * n, 1), 8, 2),
    "trailers, byte by byte": (lambda n: _chunks(b"0\r\n" + b"X: y\r\n" * n, 1), 160, 2),
    "one trailer, byte by byte": (lambda n: _chunks(b"0\r\nX: " + b"y" * n, 1), 1000, 2),
    "quotes in an extension": (lambda n: _chunks(b'1;a="' + b'\\"' * n + b"\r\nx\r\n", 300), 15, 50),
}


@pytest.mark.parametrize("name", FLOODS)
def test_eight_times_the_bytes_cost_about_eight_times_the_time(name: str) -> None:
    work, size, repeats = FLOODS[name]
    growth = _growth(work, size, repeats)
    if growth >= _LINEAR_AT_MOST:  # a busy machine may have spoilt every try
        growth = _growth(work, size, repeats)
    assert growth < _LINEAR_AT_MOST
