"""The backend's side of a connection: bytes in, one response out."""

from __future__ import annotations

import asyncio
import ssl
from math import inf
from typing import TYPE_CHECKING, Final, cast

from proxy import errors
from proxy.backend_tls import reason_of
from proxy.link import scoreboard as sb
from proxy.policy.backends import Backend
from proxy.worker.http1.framing import ChunkedReader, FramingError
from proxy.worker.http1.head import CHUNKED, HeadError, find_end, parse_response
from proxy.worker.state import WorkerState

if TYPE_CHECKING:
    from proxy.worker.http1.exchange import Exchange

_IDLE, _HEAD, _BODY, _OVER = range(4)
_BEGINNING: Final = b"HTTP/1."  # what does not begin like this is refused before it times out
_ON_ITS_WAY_S: Final = 1.0
_INTERIM_MAX: Final = 8  # 1xx responses before the final one; more is an attack on our patience


# HOT PATH. One object per connection and nothing per response.
class UpstreamConnection:
    """One connection to a backend. It serves one exchange at a time, then rests in the pool."""

    __slots__ = (
        "_buffer", "_chunks", "_interim", "_left", "_paused", "_phase", "_scanned", "_state", "_transport",
        "backend", "deadline_s", "exchange", "fileno", "idle_max_s", "reusable", "served", "write",
        "writelines",
    )  # fmt: skip

    def __init__(self, state: WorkerState, backend: Backend) -> None:
        self._state = state
        self.backend = backend
        self.exchange: Exchange | None = None
        self.deadline_s = 0.0
        self.served = 0  # exchanges
        self.idle_max_s = inf  # for how long the backend will have it idle, as far as it has said
        self.reusable = False  # as far as the response says
        self._phase = _IDLE
        self._paused = False
        self._buffer = b""
        self._scanned = 0
        self._left = 0
        self._interim = 0
        self._chunks: ChunkedReader | None = None

    # What the exchange and the pool ask for

    def begin(self, exchange: Exchange, data: bytes, body: bytes) -> None:
        """Send the first bytes of a request, *data* and then *body*; its response goes to *exchange*."""
        self.exchange = exchange
        self._phase = _HEAD
        self._interim = 0
        self.deadline_s = self._state.now_s + self._state.hot.response_head_s
        if body:
            self.writelines([data, body])
        else:
            self.write(data)

    @property
    def used(self) -> bool:
        """Whether it has served an exchange before: then it may have gone stale."""
        return self.served > 0

    def await_head(self) -> None:
        """Start the clock of the response head again: the request has only now been sent whole."""
        if self._phase == _HEAD:
            self.deadline_s = self._state.now_s + self._state.hot.response_head_s

    def rest(self, deadline_s: float) -> None:
        """Wait in the pool until *deadline_s*."""
        self.exchange = None
        self._phase = _IDLE
        if self._paused:  # for the sake of a client who is none of the next one's business
            self._paused = False
            self._transport.resume_reading()
        self.deadline_s = deadline_s

    def pause_reading(self) -> None:
        if not self._paused and self._phase == _BODY:
            self._paused = True
            self.deadline_s = 0.0  # the client is slow now, not the backend
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self.deadline_s = self._state.now_s + self._state.hot.response_idle_s
            self._transport.resume_reading()

    @property
    def over(self) -> bool:
        """Whether it has ended, or has been given up, and can serve nobody any more."""
        return self._phase == _OVER

    @property
    def flushed(self) -> bool:
        """Whether the backend's kernel has all that was written."""
        return not self._transport.get_write_buffer_size()

    def release_transport(self) -> asyncio.Transport:
        """Give the transport away (to a tunnel) and be finished."""
        self._phase = _OVER
        self._forget()
        return self._transport

    def take_rest(self) -> bytes:
        """Return the bytes behind the head that began a tunnel."""
        data, self._buffer = self._buffer, b""
        return data

    def close(self) -> None:
        """End it. A backend that has answered without taking all of the request need not take the rest."""
        self.exchange = None
        self._phase = _OVER
        if self.flushed:
            self._transport.close()
        else:
            self._transport.abort()

    def abort(self) -> None:
        """Drop the connection at once: cancels what the backend is doing for it."""
        self.exchange = None
        self._phase = _OVER
        self._transport.abort()

    def on_deadline(self) -> None:
        exchange, phase = self.exchange, self._phase
        self.deadline_s = 0.0
        if exchange is None:
            self._leave_pool()
            self.close()
        else:
            self.abort()
            exchange.on_upstream_timeout(in_body=phase == _BODY)

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        self.writelines = self._transport.writelines
        self.fileno: int = transport.get_extra_info("socket").fileno()
        buffer_bytes = self._state.settings.limits.buffer_bytes
        self._transport.set_write_buffer_limits(high=buffer_bytes, low=buffer_bytes // 4)
        self._state.watched.add(self)
        self._state.head.add(sb.UPSTREAMS, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._phase != _OVER or self in self._state.watched:
            self._forget()
        exchange, self.exchange = self.exchange, None
        phase, self._phase = self._phase, _OVER
        if exchange is not None:
            answered = phase != _HEAD or bool(self._buffer) or self._interim > 0
            detail = f"TLS: {reason_of(exc)}" if isinstance(exc, ssl.SSLError) else ""
            exchange.on_upstream_lost(self, answered=answered, detail=detail)
        elif phase == _IDLE and self.used:
            self._state.head.add(sb.UPSTREAM_CLOSED, 1)
            self._leave_pool()

    def eof_received(self) -> bool:
        exchange = self.exchange
        if exchange is not None and self._phase == _BODY and self._chunks is None and self._left < 0:
            # A body that ends with the connection: a clean end, unlike a reset (reliability S49).
            self.exchange = None
            self._phase = _OVER
            exchange.on_response_end(self, reusable=False)
        elif self._phase == _IDLE:
            self._leave_pool()  # over TLS the connection itself may end later
        return False

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.on_upstream_full()

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.on_upstream_drained()

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase == _HEAD:
            self._on_head_bytes(data)
        elif phase == _BODY:
            self.deadline_s = self._state.now_s + self._state.hot.response_idle_s
            self._on_body_bytes(data)
        elif phase == _IDLE:
            # Bytes nobody asked for: whoever came next would read them as his answer (reliability S47).
            self._state.head.add(sb.UPSTREAM_UNSOLICITED, 1)
            self._leave_pool()
            self.abort()

    # The response

    def _on_head_bytes(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        buffer = self._buffer + data if self._buffer else data
        heads = self._state.hot.heads
        try:
            while True:
                end = find_end(buffer, self._scanned, heads.response_head_bytes)
                if end < 0:
                    if not buffer.startswith(_BEGINNING[: len(buffer)]):
                        raise HeadError(errors.RESPONSE_MALFORMED, "the status line is malformed")
                    self._buffer, self._scanned = buffer, len(buffer)
                    return
                head = parse_response(buffer[:end], exchange.head.method, heads)
                buffer = buffer[end:]
                self._scanned = 0
                if head.status >= 200 or head.status == 101:
                    break
                self._interim += 1
                if self._interim > _INTERIM_MAX:
                    raise HeadError(errors.RESPONSE_MALFORMED, "too many 1xx responses")
                exchange.on_interim(head)
        except HeadError as exc:
            self.abort()
            exchange.on_response_refused(exc.detail)
            return
        self._buffer = b""
        if head.status == 101:
            self._buffer = buffer
            exchange.on_switch(self, head)
            return
        self.reusable = head.keep_alive
        if head.keep_alive_s >= 0:
            self._keep_for(head.keep_alive_s)
        self._phase = _BODY
        self.deadline_s = self._state.now_s + self._state.hot.response_idle_s
        extra = False
        if head.length >= 0:
            body = buffer if len(buffer) <= head.length else buffer[: head.length]
            extra = len(buffer) > head.length
            self._left = head.length - len(body)
            self._chunks = None
            ended = self._left == 0
        elif head.length == CHUNKED:
            self._chunks = chunks = ChunkedReader()
            try:
                body = chunks.feed(buffer)
            except FramingError as exc:
                self.abort()
                exchange.on_response_refused(str(exc))
                return
            ended, extra = chunks.done, bool(chunks.rest)
        else:
            self._left = -1
            self._chunks = None
            body, ended = buffer, False
        exchange.on_response(head, body, ended=ended)
        if ended and self.exchange is exchange:
            self._end(exchange, extra=extra)

    def _keep_for(self, timeout_s: int) -> None:
        """Take `Keep-Alive: timeout=` at its word, less what a request may be on its way."""
        self.idle_max_s = timeout_s - _ON_ITS_WAY_S
        self.reusable = self.reusable and self.idle_max_s > 0

    def _on_body_bytes(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        chunks = self._chunks
        if chunks is not None:
            try:
                payload = chunks.feed(data)
            except FramingError:
                self.abort()
                exchange.on_body_broken()
                return
            if payload:
                exchange.on_response_body(payload)
            if chunks.done and self.exchange is exchange:
                self._end(exchange, extra=bool(chunks.rest))
        elif self._left < 0:
            exchange.on_response_body(data)
        else:
            extra = len(data) > self._left
            if extra:
                data = data[: self._left]
            self._left -= len(data)
            exchange.on_response_body(data)
            if not self._left and self.exchange is exchange:
                self._end(exchange, extra=extra)

    def _end(self, exchange: Exchange, *, extra: bool) -> None:
        """Hand the end of the response over; *extra* bytes behind it make the connection unfit (S46)."""
        self.exchange = None
        self._phase = _IDLE
        self.deadline_s = 0.0
        if extra:
            self._state.head.add(sb.UPSTREAM_EXTRA_BYTES, 1)
        exchange.on_response_end(self, reusable=self.reusable and not extra)

    # Bookkeeping

    def _leave_pool(self) -> None:
        if self in self.backend.idle:
            self.backend.idle.remove(self)

    def _forget(self) -> None:
        if self in self._state.watched:
            self._state.watched.discard(self)
            self._state.head.add(sb.UPSTREAMS, -1)
