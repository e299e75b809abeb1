"""A backend for soaks, well-behaved or not as the path says: `python -m tests.soak.backend PORT`, 0 for any.

/fast /chunked /big /slow   an answer, short, in chunks, of `BIG_BYTES`, after `_SLOW_S`
/close                      an answer that ends with the connection
/upload                     the number of bytes of the body, which consists of nothing but the letter x
/ws                         after the handshake of a WebSocket all bytes come back
/reset /cut /garbage        no answer, half of one, and something else
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import socket
import sys
from typing import Final, cast

import uvloop

BIG_BYTES: Final = 1_000_000
SMALL: Final = b"hello"
_SLOW_S: Final = 0.03
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_KEY: Final = re.compile(rb"\r\nsec-websocket-key: *([^\r]+)\r\n", re.IGNORECASE)
_CHUNKED: Final = b"\r\ntransfer-encoding: chunked\r\n"
_END: Final = b"0\r\n\r\n"


def _answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


_ANSWERS: Final = {
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    "big": _answer(b"b" * BIG_BYTES),
    "close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello",
    "garbage": b"SSH-2.0-something\r\n\r\n",
}
_ENDING: Final = ("close", "garbage")


class Backend(asyncio.Protocol):
    """One connection of the proxy."""

    def __init__(self) -> None:
        self._buffer = b""
        self._tunnel = False
        self._uploaded = 0  # bytes of the body that have come
        self._left = -1  # of it; -1: until the last chunk

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._tunnel:
            self._transport.write(data)
            return
        self._buffer += data
        head, mark, _ = self._buffer.partition(b"\r\n\r\n")
        if mark and self._whole(head + b"\r\n", self._buffer[len(head) + 4 :]):
            body = self._buffer[len(head) + 4 :]
            self._buffer = b""
            self._act(head.split(b" ", 2)[1].decode().strip("/"), head + b"\r\n", body)

    def _whole(self, head: bytes, body: bytes) -> bool:
        if _CHUNKED in head.lower():
            return body == _END or body.endswith(b"\r\n" + _END)
        found = _LENGTH.search(head)
        return len(body) >= (int(found[1]) if found else 0)

    def _act(self, path: str, head: bytes, body: bytes) -> None:
        transport = self._transport
        if path == "reset":
            transport.abort()
        elif path == "slow":
            asyncio.get_running_loop().call_later(_SLOW_S, self._late)
        elif path == "upload":
            transport.write(_answer(b"%d" % body.count(b"x")))
        elif path == "ws":
            self._tunnel = True
            key = _KEY.search(head)
            accept = base64.b64encode(hashlib.sha1((key[1] if key else b"") + _GUID).digest())
            transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
            )
        else:
            transport.write(_ANSWERS.get(path) or _answer(SMALL))
            if path in _ENDING:
                transport.close()
            elif path == "cut":
                asyncio.get_running_loop().call_later(_SLOW_S, transport.abort)

    def _late(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_answer(SMALL))


async def _serve(port: int) -> None:
    sock = socket.create_server(("127.0.0.1", port), backlog=512)
    server = await asyncio.get_running_loop().create_server(Backend, sock=sock)
    sys.stdout.write(f"{sock.getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
