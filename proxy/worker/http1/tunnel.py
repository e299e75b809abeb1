"""After a 101: two transports, and bytes from one to the other until one of them ends."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import TYPE_CHECKING, Final

from proxy import errors
from proxy.errors import ErrorCode
from proxy.worker.http1.head import RequestHead, ResponseHead, field_value
from proxy.worker.state import WorkerState

if TYPE_CHECKING:
    from proxy.worker.http1.downstream import ClientConnection
    from proxy.worker.http1.exchange import Exchange
    from proxy.worker.http1.upstream import UpstreamConnection

_WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


def upgrade_fault(request: RequestHead, response: ResponseHead) -> str:
    """Return why the 101 *response* is no answer to *request*, or ""."""
    if not request.upgrade:
        return "101 without having been asked for an upgrade"
    if response.upgrade != request.upgrade:
        return "101 for another protocol than the one asked for"
    if request.upgrade == b"websocket":
        key = field_value(request.lines, b"sec-websocket-key")
        digest = hashlib.sha1(key + _WEBSOCKET_GUID, usedforsecurity=False).digest()
        if field_value(response.lines, b"sec-websocket-accept") != base64.b64encode(digest):
            return "Sec-WebSocket-Accept does not fit the key"
    return ""


class Tunnel:
    """Takes both transports over from the connections that made it, and ends the exchange when it ends."""

    __slots__ = ("_client", "_exchange", "_over", "_state", "_upstream", "deadline_s")

    def __init__(
        self, state: WorkerState, exchange: Exchange, client: ClientConnection, upstream: UpstreamConnection
    ) -> None:
        self._state = state
        self._exchange = exchange
        self._over = False
        from_backend, from_client = upstream.take_rest(), client.take_rest()
        self._client = _End(self, client.release_transport())
        self._upstream = _End(self, upstream.release_transport())
        self._client.join(self._upstream)
        self._upstream.join(self._client)
        if (
            client.full
        ):  # with an earlier response: it will say when it can take more, but not again that it cannot
            self._upstream.transport.pause_reading()
        self.touch()
        state.watched.add(self)
        state.clients.add(self)
        if from_backend:
            self._upstream.data_received(from_backend)
        if from_client:
            self._client.data_received(from_client)

    def touch(self) -> None:
        self.deadline_s = self._state.now_s + self._state.settings.timeouts.tunnel_idle_s

    def on_deadline(self) -> None:
        self.end(errors.RESPONSE_IDLE)

    def abort(self) -> None:
        """End it at once because the worker's own drain is over."""
        self.end(errors.DRAIN_DEADLINE)

    def end(self, error: ErrorCode | None = None) -> None:
        """Close both sides, once; what is buffered still goes out unless *error* says it broke."""
        if self._over:
            return
        self._over = True
        self._state.watched.discard(self)
        self._state.clients.discard(self)
        for side in (self._client, self._upstream):
            if error is None:
                side.transport.close()
            else:
                side.transport.abort()
        self._exchange.finish_tunnel(error, self._client.received_bytes, self._upstream.received_bytes)


class _End(asyncio.Protocol):
    """One side of a tunnel: what arrives here leaves over there."""

    __slots__ = ("_other", "_tunnel", "_write", "ended", "received_bytes", "transport")

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport) -> None:
        self._tunnel = tunnel
        self.transport = transport
        self.received_bytes = 0
        self.ended = False
        transport.set_protocol(self)

    def join(self, other: _End) -> None:
        self._other = other
        self._write = other.transport.write
        # The connection it was before may have paused it, for its own reasons.
        if not self.transport.is_reading():
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        self._tunnel.touch()
        self._write(data)

    def eof_received(self) -> bool:
        self.ended = True
        if self._other.ended:
            self._tunnel.end()
            return False
        if self._other.transport.can_write_eof() and not self._other.transport.is_closing():
            self._other.transport.write_eof()
        return True  # the other direction may still have something to say

    def connection_lost(self, exc: Exception | None) -> None:
        self._tunnel.end()

    def pause_writing(self) -> None:
        self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._other.transport.is_closing():
            self._other.transport.resume_reading()
