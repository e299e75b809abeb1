"""The client's side of a connection: bytes in, one exchange after the other."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final, cast

from proxy import errors
from proxy.link import scoreboard as sb
from proxy.worker.connect import readable
from proxy.worker.http1 import replies
from proxy.worker.http1.exchange import Exchange
from proxy.worker.http1.forwarding import forwarding_headers, forwarding_through, within
from proxy.worker.http1.framing import ChunkedReader, FramingError
from proxy.worker.http1.head import CHUNKED, HeadError, RequestHead, find_end, parse_request
from proxy.worker.http1.progress import BodyProgress
from proxy.worker.proxy_protocol import ProxyHeader
from proxy.worker.record import record_own, record_refusal
from proxy.worker.state import WorkerState

# What the bytes that arrive next are.
_HEAD, _BODY, _WAIT, _LINGER, _OVER = range(5)

_BLANK_LINE: Final = b"\r\n\r\n"
_LEADING_EMPTY_LINES_MAX: Final = 2  # RFC 9112 section 2.2 lets a server skip some
_FIRST_REQUEST_S: Final = 2.0  # a drain waits this long for the first request of a new connection
_CONTINUE_S: Final = 1.0  # a client that waits for 100 is told by us if the backend says nothing (S38)
_UNKNOWN: Final = 2**62  # more than any buffer holds
_SHED: Final = replies.error_bytes(errors.SHED, b"-")
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


# HOT PATH. One object per connection; an exchange per request.
class ClientConnection:
    """One connection of a client. Its exchanges run strictly one after the other."""

    __slots__ = (
        "_awaits_continue",
        "_buffer", "_chunks", "_empty_lines", "_eof", "_exchange", "_forwarding_end", "_header", "_left",
        "_old_at_s", "_paused", "_peer", "_phase", "_port", "_progress", "_requests", "_scanned", "_scheme",
        "_state", "_transport", "_trusted", "_unsent_bytes", "deadline_s", "full", "keep_alive", "write",
        "writelines",
    )  # fmt: skip

    def __init__(self, state: WorkerState, header: ProxyHeader | None = None) -> None:
        self._state = state
        self._header = header  # of the PROXY protocol: it names the client
        self._exchange: Exchange | None = None
        self.keep_alive = True
        self.deadline_s = 0.0
        self.full = False  # it does not take its response as fast as that comes
        self._unsent_bytes = _UNKNOWN  # at the last look, while somebody waits for it to shrink
        self._phase = _HEAD
        self._buffer = b""
        self._empty_lines = 0  # skipped before the next request
        self._scanned = 0  # how far `_buffer` has been searched for the end of the head
        self._left = 0
        self._chunks: ChunkedReader | None = None
        self._progress: BodyProgress | None = None
        self._awaits_continue = False
        self._requests = 0
        self._paused = False
        self._eof = False

    # What the exchange asks for

    def request_bytes(self, head: RequestHead, request_id: bytes) -> bytes:
        """Return the head that goes to the backend, assembled from what was validated."""
        added = self._forwarding_end
        if self._trusted:
            added = forwarding_through(head, self._peer, self._port, self._scheme) + b"\r\n"
        if head.upgrade:
            added = b"Connection: Upgrade\r\nUpgrade: %b\r\n%b" % (head.upgrade, added)
        if not head.request_id:  # else it is among the lines
            added = b"X-Request-Id: %b\r\n%b" % (request_id, added)
        return head.lines + added

    def pause_reading(self) -> None:
        """Take nothing more from the client: whoever reads it is behind."""
        if not self._paused and self._phase != _OVER:
            self._paused = True
            self.deadline_s = 0.0
            if self._progress is not None:
                self._progress.pause(self._state.now_s)
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and self._phase != _OVER:
            self._paused = False
            if self._progress is not None:
                self._progress.resume(self._state.now_s)
            if self._phase == _BODY:
                self.deadline_s = self._state.now_s + self._state.settings.timeouts.request_body_s
            self._transport.resume_reading()

    def invite_body(self, response: bytes) -> None:
        """Send the 100 *response*, if the client waits for one: not twice, and not once it has begun."""
        if self._awaits_continue:
            self._awaits_continue = False
            self.deadline_s = self._state.now_s + self._state.settings.timeouts.request_body_s
            self.write(response)

    def on_exchange_end(self) -> None:
        """The response is out: go on with the next request, or end the connection."""
        exchange, self._exchange = self._exchange, None
        if self._phase == _BODY:
            self.keep_alive = False  # a rest of the request is still to come
        elif (
            exchange is not None
            and not exchange.head.keep_alive
            and not self._buffer
            and not self._transport.get_write_buffer_size()
        ):
            # It has said that nothing follows, so there is nothing to wait for that could cost it the answer.
            self._phase = _OVER
            self._transport.close()
            return
        ending = self._eof or (self._state.draining and not self._is_spoken_to())
        if not self.keep_alive or (ending and not self._buffer):
            self._linger()
            return
        self._phase = _HEAD
        if self.full:
            self._hold_back()
        else:
            self._go_on()

    def _hold_back(self) -> None:
        """Take no request while the client does not take its answers: they would pile up here."""
        self.pause_reading()
        self.deadline_s = self._state.now_s + self._state.settings.timeouts.client_write_s

    def _go_on(self) -> None:
        self.resume_reading()
        self.deadline_s = self._state.now_s + self._state.hot.client_idle_s
        if self._buffer:
            # Not called directly: a pipeline of requests must not become a recursion.
            self._state.loop.call_soon(self._resume)

    def cut(self) -> None:
        """End in the middle of a response, with a reset: a bare close could pass for its end."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None and not self._transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._exchange = None
        self._phase = _OVER
        self._transport.abort()

    def release_transport(self) -> asyncio.Transport:
        """Give the transport away (to a tunnel) and be finished."""
        self._exchange = None
        self._phase = _OVER
        self._forget()
        return self._transport

    def take_rest(self) -> bytes:
        """Return the bytes behind the request that began a tunnel."""
        data, self._buffer = self._buffer, b""
        return data

    # What the worker asks for

    def drain(self) -> None:
        """End after the exchange under way and what waits behind it; at once if there is none."""
        if self._exchange is not None or self._phase != _HEAD or self._buffer:
            return
        if self._requests and not self._is_spoken_to():
            self._phase = _OVER
            self._transport.close()
        else:  # the first request of a connection just accepted is on its way, or one more has come
            self.deadline_s = self._state.now_s + _FIRST_REQUEST_S

    def _is_spoken_to(self) -> bool:
        """Return whether something of the client waits to be read: its next request was in time."""
        sock = self._transport.get_extra_info("socket")
        return sock is not None and readable(sock.fileno())

    def retire(self) -> None:
        """End with the next response, if it has reached its age."""
        if self._state.now_s >= self._old_at_s:
            self._requests = _UNKNOWN

    def abort(self) -> None:
        """End it now: the drain deadline has passed. What has reached no backend is told so (P02)."""
        exchange = self._exchange
        if exchange is not None and not exchange.delivered and not exchange.over:
            exchange.on_request_refused(errors.SHUTTING_DOWN, "it had not been sent yet")
            return
        if exchange is None and self._phase == _HEAD and self._buffer:
            self._refuse(HeadError(errors.SHUTTING_DOWN, "the head had not arrived yet"))
            return
        self._exchange = None
        if exchange is not None:
            exchange.on_client_lost(errors.DRAIN_DEADLINE)
        self._phase = _OVER
        self._transport.abort()

    def on_deadline(self) -> None:
        self.deadline_s = 0.0
        unsent = self._transport.get_write_buffer_size()
        if 0 < unsent < self._unsent_bytes:  # slow, but it does take its response
            self._unsent_bytes = unsent
            self.deadline_s = self._state.now_s + self._state.settings.timeouts.client_write_s
            return
        phase, exchange = self._phase, self._exchange
        if phase == _HEAD and not self._buffer and not unsent:
            self._phase = _OVER
            self._transport.close()
        elif phase == _HEAD and self._buffer and not self.full:
            self._refuse(HeadError(errors.HEAD_TIMEOUT, "the head did not arrive in time"))
        elif self._awaits_continue and exchange is not None and not exchange.over:
            if exchange.delivered:
                self.invite_body(b"HTTP/1.1 100 Continue\r\n\r\n")
            else:
                self.deadline_s = self._state.now_s + _CONTINUE_S
        elif phase == _BODY and exchange is not None and not exchange.over:
            exchange.on_request_refused(errors.BODY_TIMEOUT, "the body stopped arriving")
        elif exchange is not None:  # it does not take its response
            exchange.on_client_lost()
            self.cut()
        elif unsent:  # nor the end of one that is over for us
            self.cut()
        else:
            self._phase = _OVER
            self._transport.abort()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        state = self._state
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        self.writelines = self._transport.writelines
        header = self._header
        peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if header is not None and header.client is not None:
            peer, local = header.client, header.server
        self._peer: str = peer[0] if peer else ""
        self._port: int = local[1] if local else 0
        trusted = state.settings.trusted_proxies
        # Who sends a PROXY header passes on what its clients say, and does not vouch for it.
        self._trusted = (
            bool(trusted) and (header is None or header.client is not None) and within(self._peer, trusted)
        )
        self._scheme = b"https" if transport.get_extra_info("ssl_object") is not None else b"http"
        self._forwarding_end = forwarding_headers(self._peer, self._port, self._scheme) + b"\r\n"
        buffer_bytes = state.settings.limits.buffer_bytes
        self._transport.set_write_buffer_limits(high=buffer_bytes, low=buffer_bytes // 4)
        full = state.full
        if full and state.shed(transport):
            self._phase = _OVER
            return
        timeouts = state.settings.timeouts
        self.deadline_s = state.now_s + timeouts.client_idle_s
        self._old_at_s = state.now_s + timeouts.client_age_s
        state.watched.add(self)
        state.clients.add(self)
        state.head.add(sb.CLIENTS, 1)
        state.head.add(sb.CLIENTS_TOTAL, 1)
        if full:
            state.count_shed()
            self.write(_SHED)
            self._linger()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        exchange, self._exchange = self._exchange, None
        self._phase = _OVER
        if exchange is not None:
            exchange.on_client_lost()

    def eof_received(self) -> bool:
        self._eof = True
        exchange = self._exchange
        if exchange is None or exchange.over:
            # Whole requests that it has sent before may still wait for their turn (`_resume`).
            return self._phase == _HEAD and bool(self._buffer) and not self._scanned
        if self._phase == _BODY:  # it will never be whole
            self._exchange = None
            self._phase = _OVER
            exchange.on_client_lost()
            return False
        return True  # it has said all it will; the response still goes out

    def pause_writing(self) -> None:
        self.full = True
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self.deadline_s = self._state.now_s + self._state.settings.timeouts.client_write_s
        if self._exchange is not None:
            self._exchange.on_client_full()
        elif self._phase == _HEAD:
            self._hold_back()

    def resume_writing(self) -> None:
        self.full = False
        self._unsent_bytes = _UNKNOWN
        if self._phase == _WAIT:
            self.deadline_s = 0.0
        if self._exchange is not None:
            self._exchange.on_client_drained()
        elif self._phase == _HEAD:
            self._go_on()

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase == _HEAD:
            if self._buffer:
                data = self._buffer + data
            self._on_head_bytes(data)
        elif phase == _BODY:
            self._on_body_bytes(data)
        elif phase == _WAIT:
            self._buffer += data  # pipelined, or meant for the far end of an upgrade
            if len(self._buffer) > self._state.hot.heads.request_head_bytes:
                self.pause_reading()
        elif phase == _LINGER:
            self._left -= len(data)
            if self._left < 0 and not self._paused:
                # Enough; the rest waits in the kernel, so that our last answer is not lost to a reset.
                self._paused = True
                self._transport.pause_reading()

    # The request

    def _resume(self) -> None:
        if self._phase == _HEAD and self._exchange is None and self._buffer and not self.full:
            self._on_head_bytes(self._buffer)

    def _on_head_bytes(self, data: bytes) -> None:
        state = self._state
        heads = state.hot.heads
        if data[0] == 13:  # CR
            data = self._skip_empty_lines(data)
        try:
            # Nearly all requests come whole and alone, and need not be searched for their end.
            alone = not self._scanned and len(data) <= heads.request_head_bytes and data.endswith(_BLANK_LINE)
            if not alone and find_end(data, self._scanned, heads.request_head_bytes) < 0:
                if not self._scanned and data:
                    self.deadline_s = state.now_s + state.settings.timeouts.request_head_s
                self._buffer, self._scanned = data, len(data)
                if self._eof:  # it will never be whole
                    self._linger()
                return
            head = parse_request(data, heads)
            end = head.size
        except HeadError as exc:
            self._refuse(exc)
            return
        self._scanned = 0
        self._empty_lines = 0
        self._buffer = b""
        self.deadline_s = 0.0
        self._requests += 1
        self.keep_alive = (
            head.keep_alive and not state.draining and self._requests < state.hot.requests_per_connection
        )
        if head.target == b"*":
            self._phase = _HEAD
            self.keep_alive = self.keep_alive and not head.length
            self.write(replies.options_reply(keep_alive=self.keep_alive))
            record_own(state, head, 204)
            self._buffer = data[end:]
            self.on_exchange_end()
            return
        exchange = self._exchange = Exchange(state, self, head)
        length = head.length
        if not length:
            self._phase = _WAIT
            if len(data) > end:
                self._buffer = data[end:]
            exchange.start(b"", ended=True)
        else:
            self._start_body(exchange, head, data[end:])

    def _start_body(self, exchange: Exchange, head: RequestHead, rest: bytes) -> None:
        self._phase = _BODY
        settings = self._state.settings
        self.deadline_s = self._state.now_s + settings.timeouts.request_body_s
        if head.length == CHUNKED:
            self._chunks = ChunkedReader()
        else:
            self._chunks = None
            self._left = head.length
        try:
            payload, ended = self._take_body(rest)
            limit = settings.limits.request_body_bytes
            if limit and (head.length > limit or len(payload) > limit):
                raise HeadError(errors.BODY_TOO_LARGE, f"the body is larger than {limit} bytes")
        except FramingError as exc:
            # Refused before any of it was sent: count it as the malformed request it is.
            self._refuse(HeadError(errors.BAD_REQUEST, str(exc)))
            return
        except HeadError as exc:
            self._refuse(exc)
            return
        if not ended:
            if self._eof:  # it will never be whole
                exchange.on_client_lost()
                self._exchange = None
                self._linger()
                return
            self._progress = BodyProgress()
            if head.expects_continue and not payload:
                self._awaits_continue = True
                self.deadline_s = self._state.now_s + _CONTINUE_S
        exchange.start(payload, ended=ended)

    def _on_body_bytes(self, data: bytes) -> None:
        exchange, progress = self._exchange, self._progress
        self._awaits_continue = False
        state = self._state
        self.deadline_s = state.now_s + state.hot.request_body_s
        if exchange is None or progress is None:
            return
        try:
            payload, ended = self._take_body(data)
        except FramingError as exc:
            exchange.on_request_refused(errors.BAD_REQUEST, str(exc))
            return
        received, limit = exchange.rx_bytes + len(payload), state.settings.limits.request_body_bytes
        if limit and received > limit:
            exchange.on_request_refused(
                errors.BODY_TOO_LARGE, f"the chunks of the body are larger than {limit} bytes"
            )
        elif ended:
            self._progress = None
            exchange.on_request_body(payload, ended=True)
        elif progress.too_slow(state.now_s, received, state.settings):
            exchange.on_request_refused(errors.BODY_TIMEOUT, "the body arrives too slowly")
        else:
            exchange.on_request_body(payload, ended=False)

    def _take_body(self, data: bytes) -> tuple[bytes, bool]:
        """Return (payload, whether the body is whole now); what follows it waits in the buffer."""
        chunks = self._chunks
        if chunks is not None:
            payload = chunks.feed(data)
            ended = chunks.done
            if ended:
                self._buffer = chunks.rest
                self._chunks = None
        else:
            payload = data[: self._left] if len(data) > self._left else data
            self._left -= len(payload)
            ended = self._left == 0
            if ended:
                self._buffer = data[len(payload) :]
        if ended:
            self._phase = _WAIT
            self.deadline_s = 0.0
        return payload, ended

    def _skip_empty_lines(self, data: bytes) -> bytes:
        while self._empty_lines < _LEADING_EMPTY_LINES_MAX and data.startswith(b"\r\n"):
            data = data[2:]
            self._empty_lines += 1
            self._scanned = 0
        return data

    # Ends

    def _refuse(self, refusal: HeadError) -> None:
        """Answer a head that cannot be trusted, and close: nothing behind it can be either."""
        self._exchange = None
        request_id = self._state.next_request_id()
        self.write(replies.error_bytes(refusal.error, request_id, status=refusal.status))
        record_refusal(self._state, refusal.error, refusal.status, request_id, refusal.detail)
        self.keep_alive = False
        self._linger()

    def _linger(self) -> None:
        """Close so that the last answer arrives: bytes still unread would turn the close into a reset."""
        self.deadline_s = self._state.now_s + self._state.settings.timeouts.linger_s
        self._unsent_bytes = _UNKNOWN
        if self._eof:
            self._phase = _OVER
            self._transport.close()
            return
        self._phase = _LINGER
        self._buffer = b""
        self._left = self._state.settings.limits.linger_bytes
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def _forget(self) -> None:
        state = self._state
        if self in state.clients:
            state.clients.discard(self)
            state.watched.discard(self)
            state.head.add(sb.CLIENTS, -1)
