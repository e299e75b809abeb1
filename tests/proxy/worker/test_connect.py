"""Connecting to a backend: what is no server of HTTP must not get a request."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import pytest

from proxy.worker.connect import connect, readable
from tests.kit.eventually import eventually


class _Late:
    """An event loop that comes back from a connect only when the backend has had its say."""

    def __init__(self, first: bytes | None, reset: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._first = first
        self._reset = reset
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.peer: socket.socket | None = None

    async def sock_connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
        await self._loop.sock_connect(sock, address)
        self.peer, _ = self.listener.accept()
        if self._first:
            self.peer.sendall(self._first)
        if self._reset:
            self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if self._reset or self._first == b"":
            self.peer.close()
        if self._reset or self._first is not None:
            await eventually(lambda: readable(sock.fileno()))

    def close(self) -> None:
        self.listener.close()
        if self.peer is not None:
            self.peer.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("first", "reset"),
    [(b"SSH-2.0-OpenSSH_9.2\r\n", False), (b"HTTP/1.1 200 OK\r\n\r\n", False), (b"", False), (None, True)],
    ids=["another protocol", "an answer to nothing", "FIN", "RST"],
)
async def test_a_backend_that_speaks_or_ends_first_is_not_connected_to(
    first: bytes | None, reset: bool
) -> None:
    """S47: whatever it said would be read as the answer to the first request."""
    loop: Any = _Late(first, reset)
    try:
        with pytest.raises(ConnectionResetError):
            await connect(loop, "127.0.0.1", loop.listener.getsockname()[1], 5)
    finally:
        loop.close()


@pytest.mark.asyncio
async def test_a_backend_that_waits_for_a_request_is_connected_to() -> None:
    loop: Any = _Late(None, False)
    try:
        sock = await connect(loop, "127.0.0.1", loop.listener.getsockname()[1], 5)
        assert sock.getpeername() == loop.listener.getsockname()
        assert not sock.getblocking()
        sock.close()
    finally:
        loop.close()
