"""One end of a TCP connection for tests: sends exactly what it is told, reads HTTP/1.1 strictly.

The reader shares no code with the proxy and forgives nothing, so a test that passes through it has
seen well-formed messages with unambiguous framing.
"""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Self

TIMEOUT_S = 15.0
_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*")
_START = re.compile(rb"HTTP/1\.1 [1-5][0-9][0-9] [\t -~\x80-\xff]*|[!-~]+ [!-~]+ HTTP/1\.1")


class Truncated(Exception):
    """The connection ended in the middle of a message; the argument is what of its body had come."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response as it was on the wire."""

    start: bytes  # the request line or the status line
    headers: tuple[tuple[bytes, bytes], ...]  # names in lower case, values without outer blanks
    body: bytes
    chunked: bool
    raw_head: bytes

    @property
    def status(self) -> int:
        return int(self.start[9:12])

    def all(self, name: str) -> list[bytes]:
        """Return every value of the header *name*."""
        return [value for key, value in self.headers if key == name.lower().encode()]

    def get(self, name: str) -> bytes | None:
        """Return the value of the header *name*, or None; it must not be there twice."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} twice: {values}"
        return values[0] if values else None


class Wire:
    """A socket with a buffer and a strict reader of HTTP/1.1 messages."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(TIMEOUT_S)
        self.buffer = b""
        self.received = b""  # everything that ever came, for tests that judge the bytes
        self.keep_received = True  # off for large bodies

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @classmethod
    def connect(cls, port: int, *, receive_buffer_bytes: int = 0, host: str = "127.0.0.1") -> Wire:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            sock.settimeout(TIMEOUT_S)
            sock.connect((host, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    # Sending and ending

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_pieces(self, data: bytes, size: int = 1) -> None:
        """Send *data* in writes of *size* bytes."""
        for at in range(0, len(data), size):
            self.sock.sendall(data[at : at + size])

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    # Reading

    def more(self) -> bool:
        """Take what has arrived; return False at end-of-file."""
        data = self.sock.recv(262_144)
        self.buffer += data
        if self.keep_received:
            self.received += data
        return bool(data)

    def read_until(self, mark: bytes) -> bytes:
        """Return what comes up to and with *mark*."""
        while (at := self.buffer.find(mark)) < 0:
            if not self.more():
                raise Truncated(self.buffer)
        data, self.buffer = self.buffer[: at + len(mark)], self.buffer[at + len(mark) :]
        return data

    def read_exactly(self, count: int) -> bytes:
        parts = [self.buffer[:count]]
        self.buffer = self.buffer[count:]
        left = count - len(parts[0])
        while left:
            data = self.sock.recv(min(left, 262_144))
            if self.keep_received:
                self.received += data
            if not data:
                raise Truncated(b"".join(parts))
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def read_to_end(self) -> bytes:
        """Return all that comes until end-of-file. A reset raises, as it does for a user."""
        while self.more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def at_end(self) -> bool:
        """Return whether the other side has closed (by FIN or RST) with nothing more to read."""
        if self.buffer:
            return False
        try:
            return not self.more()
        except ConnectionError:
            return True

    def read_head(self) -> Message:
        """Return a message without its body."""
        raw = self.read_until(b"\r\n\r\n")
        start, *lines = raw[:-4].split(b"\r\n")
        assert _START.fullmatch(start), f"not a start line: {start!r}"
        headers = []
        for line in lines:
            assert _LINE.fullmatch(line), f"not a header line: {line!r}"
            name, _, value = line.partition(b":")
            headers.append((name.lower(), value.strip(b" \t")))
        message = Message(start, tuple(headers), b"", False, raw)
        codings, lengths = message.all("transfer-encoding"), message.all("content-length")
        assert len(codings) + len(lengths) <= 1, f"more than one framing header: {headers}"
        assert codings in ([], [b"chunked"]), codings
        assert all(re.fullmatch(rb"0|[1-9][0-9]*", length) for length in lengths), lengths
        return Message(start, tuple(headers), b"", bool(codings), raw)

    def read_request(self) -> Message:
        """Return the next request; raise `Truncated` at end-of-file."""
        return self._with_body(self.read_head(), until_close=False)

    def read_response(self, method: str = "GET", *, interim: bool = False) -> Message:
        """Return the next final response, or with *interim* the next of any kind."""
        while True:
            head = self.read_head()
            if head.status == 101 or (interim and head.status < 200):
                return head
            if head.status >= 200:
                break
        if method == "HEAD" or head.status in (204, 304):
            return head
        return self._with_body(head, until_close=True)

    def _with_body(self, head: Message, *, until_close: bool) -> Message:
        if head.chunked:
            body = self._chunks()
        elif (length := head.get("content-length")) is not None:
            body = self.read_exactly(int(length))
        else:
            body = self.read_to_end() if until_close else b""
        return Message(head.start, head.headers, body, head.chunked, head.raw_head)

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        try:
            while True:
                line = self.read_until(b"\r\n")[:-2]
                assert re.fullmatch(rb"[0-9a-f]{1,15}", line), f"not a chunk size of ours: {line!r}"
                size = int(line, 16)
                if size:
                    parts.append(self.read_exactly(size))
                ending = self.read_exactly(2)
                assert ending == b"\r\n", ending
                if not size:
                    return b"".join(parts)
        except Truncated as exc:
            raise Truncated(b"".join(parts) + bytes(exc.args[0])) from None


def request(
    target: str = "/", *lines: str, method: str = "GET", body: bytes = b"", host: str = "web.test"
) -> bytes:
    """Return a well-formed request; with *body*, its Content-Length is added."""
    head = [f"{method} {target} HTTP/1.1", f"Host: {host}", *lines]
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def response(body: bytes = b"hello", *lines: str, status: str = "200 OK") -> bytes:
    """Return a well-formed response with a Content-Length."""
    head = [f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode("latin-1") + body
