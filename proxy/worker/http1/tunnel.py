"""After a 101: two transports, and bytes from one to the other until one of them ends."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
from typing import TYPE_CHECKING, Final, cast

from proxy import errors
from proxy.errors import ErrorCode
from proxy.settings import WorkerSettings
from proxy.worker.http1.frames import GOING_AWAY, FrameTracker
from proxy.worker.http1.head import RequestHead, ResponseHead, field_value
from proxy.worker.state import WorkerState

if TYPE_CHECKING:
    from proxy.worker.http1.downstream import ClientConnection
    from proxy.worker.http1.exchange import Exchange
    from proxy.worker.http1.upstream import UpstreamConnection

_ANSWER_S: Final = 2.0  # how long a client has for its answer to a close frame
_UNKNOWN: Final = 2**62  # more than any buffer holds
_PROBE_S_MAX: Final = 32767  # the kernel's
_PROBES_MAX: Final = 127
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


# HOT PATH, compiled: `tunnel.pxd` gives the types.
class Tunnel:
    """Takes both transports over from the connections that made it, and ends the exchange when it ends."""

    __slots__ = (
        "_client", "_exchange", "_frames", "_over", "_said", "_state", "_unsent_bytes", "_upstream",
        "deadline_s", "goodbye_wanted",
    )  # fmt: skip

    def __init__(
        self, state: WorkerState, exchange: Exchange, client: ClientConnection, upstream: UpstreamConnection
    ) -> None:
        self._state = state
        self._exchange = exchange
        self._over = False
        self.goodbye_wanted = False  # as soon as no frame would be torn
        self._said = False
        self._unsent_bytes = _UNKNOWN  # at the last look, once it is over
        from_backend, from_client = upstream.take_rest(), client.take_rest()
        self._frames = FrameTracker() if exchange.head.upgrade == b"websocket" else None
        self._client = _End(self, client.release_transport())
        self._upstream = (
            _End(self, upstream.release_transport())
            if self._frames is None
            else _WebSocketEnd(self, upstream.release_transport(), self._frames)
        )
        self._client.join(self._upstream)
        self._upstream.join(self._client)
        if (
            client.full
        ):  # with an earlier response: it will say when it can take more, but not again that it cannot
            self._upstream.transport.pause_reading()
        for end in (self._client, self._upstream):
            _watch_peer(end.transport, state.settings)
        self.touch()
        state.watched.add(self)
        state.clients.add(self)
        if from_backend:
            self._upstream.data_received(from_backend)
        if from_client:
            self._client.data_received(from_client)

    def touch(self) -> None:
        if not self._said:
            self.deadline_s = self._state.now_s + self._state.hot.tunnel_idle_s

    def on_deadline(self) -> None:
        if self._over:
            self._watch_rest()
        elif self._said:
            self.end()  # the client does not answer a close frame
        else:
            self.end(errors.RESPONSE_IDLE)

    def abort(self) -> None:
        """End it at once because the worker's own drain is over."""
        if self._over:
            self._drop()
        self.end(None if self._said else errors.DRAIN_DEADLINE)

    @property
    def may_be_told(self) -> bool:
        """Whether it is a WebSocket to which nobody has said goodbye yet."""
        return self._frames is not None and not (self.goodbye_wanted or self._over)

    def say_goodbye(self) -> None:
        """Tell the client to go away (1001), now or when the frame under way has ended.

        Its answer goes on to the backend, which so sees the closing handshake of its own client; what
        the backend still says is dropped, for nothing may follow a close frame (RFC 6455 section 5.5.1).
        """
        self.goodbye_wanted = True
        self.on_frames()

    def on_frames(self) -> None:
        """Say goodbye if that is wanted and would not tear a frame."""
        frames = self._frames
        if not self.goodbye_wanted or self._said or self._over or frames is None or not frames.between_frames:
            return
        self._said = True
        if not frames.closed and not self._client.transport.is_closing():
            self._client.transport.write(GOING_AWAY)
        self._upstream.mute()
        self.deadline_s = self._state.now_s + _ANSWER_S

    def end(self, error: ErrorCode | None = None) -> None:
        """Close both sides, once; what is buffered still goes out unless *error* says it broke."""
        if self._over:
            return
        self._over = True
        self._exchange.finish_tunnel(error, self._client.received_bytes, self._upstream.received_bytes)
        if error is not None:
            self._drop()
            return
        self._client.transport.close()
        self._upstream.transport.close()
        self._watch_rest()

    def _watch_rest(self) -> None:
        """Stay until what is buffered has gone out; drop sides that do not take a byte of it for long."""
        unsent_bytes = self._client.unsent_bytes + self._upstream.unsent_bytes
        if not unsent_bytes:
            self._forget()
        elif unsent_bytes < self._unsent_bytes:
            self._unsent_bytes = unsent_bytes
            self.deadline_s = self._state.now_s + self._state.settings.timeouts.client_write_s
        else:
            self._drop()

    def _drop(self) -> None:
        self._forget()
        self._client.transport.abort()
        self._upstream.transport.abort()

    def _forget(self) -> None:
        self._state.watched.discard(self)
        self._state.clients.discard(self)

    def on_lost(self) -> None:
        """One side is gone, and so is what was buffered for it."""
        self.end()
        if not self._client.unsent_bytes and not self._upstream.unsent_bytes:
            self._forget()


def _watch_peer(transport: asyncio.Transport, settings: WorkerSettings) -> None:
    """Let TCP find out whether the far side is still there: it may have nothing to say for an hour."""
    sock = transport.get_extra_info("socket")
    if sock is None or transport.is_closing():
        return
    timeouts, probes = settings.timeouts, min(settings.limits.tunnel_probes, _PROBES_MAX)
    after_s, every_s = (
        max(1, min(int(s), _PROBE_S_MAX))
        for s in (timeouts.tunnel_probe_after_s, timeouts.tunnel_probe_every_s)
    )
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, after_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, every_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
    # A shorter one, as clients have it from their listener, would end it with the first lost probe.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * (after_s + probes * every_s))


class _End:
    """One side of a tunnel: what arrives here leaves over there."""

    __slots__ = ("_other", "_tunnel", "_write", "ended", "lost", "received_bytes", "transport")

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport) -> None:
        self._tunnel = tunnel
        self.transport = transport
        self.received_bytes = 0
        self.ended = False
        self.lost = False
        transport.set_protocol(cast(asyncio.Protocol, self))

    def join(self, other: _End) -> None:
        self._other = other
        self._write = other.transport.write
        # The connection it was before may have paused it, for its own reasons.
        if not self.transport.is_reading():
            self.transport.resume_reading()

    @property
    def unsent_bytes(self) -> int:
        return 0 if self.lost else self.transport.get_write_buffer_size()

    def mute(self) -> None:
        """Pass nothing on any more."""
        self._write = _nowhere

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
        # The other direction may still have something to say, but over TLS to a backend both end at once.
        return self.transport.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._tunnel.on_lost()

    def pause_writing(self) -> None:
        self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._other.transport.is_closing():
            self._other.transport.resume_reading()


class _WebSocketEnd(_End):
    """The backend's side of a WebSocket: knows where its frames end, for the day of the goodbye."""

    __slots__ = ("_frames",)

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, frames: FrameTracker) -> None:
        super().__init__(tunnel, transport)
        self._frames = frames

    def data_received(self, data: bytes) -> None:
        tunnel = self._tunnel
        self.received_bytes += len(data)
        tunnel.touch()
        self._write(data)
        self._frames.feed(data)
        if tunnel.goodbye_wanted:
            tunnel.on_frames()


def _nowhere(data: object) -> None:
    """Take *data* and do nothing with it."""
