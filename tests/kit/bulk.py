"""Very long bodies: produced, and compared byte for byte at the other end, as fast as the kernel copies them.

A body is a pattern that repeats every `len(PATTERN)` bytes, a prime: a piece that is lost, doubled, moved
or changed anywhere shows. As a program it is a backend in a process of its own: `GET /<framing>/<bytes>` is
answered with so much of the pattern, anything else with the length and checksum of the body that came, of
which the beginning is read slowly.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.kit.wire import TIMEOUT_S, Wire, response

ROOT: Final = Path(__file__).resolve().parent.parent.parent
BLOCK_BYTES: Final = 512 * 1024
PATTERN: Final = random.Random(1).randbytes(1_000_003)
_TWICE: Final = PATTERN + PATTERN[:BLOCK_BYTES]
_BUFFER_BYTES: Final = 4 * 1024 * 1024
_SLOW_BYTES: Final = 4_000_000
_SUMMED_BYTES: Final = 4096  # of each block: the bytes are compared, the sum is for those who were not there


class Arrived(NamedTuple):
    """What has come of a body."""

    bytes: int
    summed: int  # CRC-32 over a part of each piece of the pattern, as `expected` has it

    def __str__(self) -> str:
        return f"{self.bytes} {self.summed:08x}"


def expected(size: int) -> Arrived:
    """Return what `Sink` says of *size* bytes of the pattern."""
    summed = 0
    for at in range(0, size, BLOCK_BYTES):
        start = at % len(PATTERN)
        summed = zlib.crc32(_TWICE[start : start + min(_SUMMED_BYTES, size - at)], summed)
    return Arrived(size, summed)


class Sink:
    """Takes a body piece by piece and holds it against the pattern."""

    def __init__(self) -> None:
        self._bytes = 0
        self._summed = 0

    def take(self, data: bytes) -> None:
        start = self._bytes % len(PATTERN)
        assert data == _TWICE[start : start + len(data)], f"other bytes at {self._bytes} or behind"
        at = -self._bytes % BLOCK_BYTES  # the next beginning of a block
        into = self._bytes % BLOCK_BYTES
        if 0 < into < _SUMMED_BYTES:
            self._summed = zlib.crc32(data[: _SUMMED_BYTES - into], self._summed)
        while at < len(data):
            self._summed = zlib.crc32(data[at : at + _SUMMED_BYTES], self._summed)
            at += BLOCK_BYTES
        self._bytes += len(data)

    @property
    def arrived(self) -> Arrived:
        return Arrived(self._bytes, self._summed)


def produce(sock: socket.socket, size: int, *, chunked: bool) -> None:
    """Send *size* bytes of the pattern as a body."""
    view = memoryview(_TWICE)
    for at in range(0, size, BLOCK_BYTES):
        start, count = at % len(PATTERN), min(BLOCK_BYTES, size - at)
        if chunked:
            sock.sendall(b"%x\r\n" % count)
        sock.sendall(view[start : start + count])
        if chunked:
            sock.sendall(b"\r\n")
    if chunked:
        sock.sendall(b"0\r\n\r\n")


def read_slowly(wire: Wire, count: int = _SLOW_BYTES) -> None:
    """Take *count* bytes into the buffer, a rest before each small piece: so the other side is faster."""
    rest = threading.Event()
    until = len(wire.buffer) + count
    while len(wire.buffer) < until:
        rest.wait(0.002)
        data = wire.sock.recv(16_384)
        if not data:
            raise EOFError(f"{until - len(wire.buffer)} bytes are missing")
        wire.buffer += data


def consume(wire: Wire, size: int, *, chunked: bool) -> Arrived:
    """Read a body behind the head that *wire* has read; *size* is its length unless it is *chunked*."""
    sink = Sink()
    if not chunked:
        _copy(wire, size, sink)
        return sink.arrived
    while True:
        count = int(wire.read_until(b"\r\n"), 16)
        _copy(wire, count, sink)
        assert wire.read_exactly(2) == b"\r\n"
        if not count:
            return sink.arrived


def _copy(wire: Wire, size: int, sink: Sink) -> None:
    while size:
        if not wire.buffer and not wire.more():
            raise EOFError(f"{size} bytes are missing")
        data = wire.buffer[: min(size, BLOCK_BYTES)]
        wire.buffer = wire.buffer[len(data) :]
        sink.take(data)
        size -= len(data)


def _serve(wire: Wire) -> None:
    while True:
        head = wire.read_head()
        method, target, _ = head.start.split(b" ")
        if method == b"GET":
            _, framing, size = target.split(b"/")
            line = f"Content-Length: {int(size)}" if framing == b"length" else "Transfer-Encoding: chunked"
            wire.send(f"HTTP/1.1 200 OK\r\n{line}\r\n\r\n".encode())
            produce(wire.sock, int(size), chunked=framing == b"chunked")
        else:
            read_slowly(wire)
            arrived = consume(wire, int(head.get("content-length") or 0), chunked=head.chunked)
            wire.send(response(str(arrived).encode()))


def main() -> None:
    """Serve one connection after the other on a free port, which is written to standard output."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            sock, _ = listener.accept()
            with Wire(sock) as wire:
                wire.keep_received = False
                try:
                    _serve(wire)
                except Exception as exc:  # the connection has ended, as it does between two tests
                    sys.stderr.write(f"{exc!r}\n")


@contextmanager
def bulk_backend() -> Iterator[int]:
    """Run `main` in a process of its own and yield its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kit.bulk"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


if __name__ == "__main__":
    main()
