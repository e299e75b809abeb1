"""A client's TLS connection: below it a transport of bytes, above it a protocol that sees a transport.

Not the loop's own TLS: that one hides failed handshakes and swallows their alerts, cannot half-close, does
not know what is still unsent, and keeps a timer and a buffer of 256 KiB for each connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from proxy.link import scoreboard as sb
from proxy.worker.state import WorkerState
from proxy.worker.tls import ListenerTls

_HANDSHAKE, _OPEN, _REFUSED, _OVER = range(4)
_RECORD_BYTES: Final = 16 * 1024  # what one read of OpenSSL returns at most
_LINGER_S: Final = 2.0  # how long a refused client has to take its alert

# Words of OpenSSL, and what they mean for whoever looks at the metric.
_NOT_TLS: Final = frozenset((
    "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_TOO_SMALL",
    "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE", "BAD_RECORD_TYPE", "INVALID_RECORD_TYPE",
))  # fmt: skip
_UNSUPPORTED: Final = frozenset((
    "UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "NO_PROTOCOLS_AVAILABLE", "NO_SHARED_CIPHER",
    "NO_SUITABLE_KEY_SHARE", "NO_SHARED_SIGNATURE_ALGORITHMS", "NO_SUITABLE_SIGNATURE_ALGORITHM",
    "INAPPROPRIATE_FALLBACK", "NO_SHARED_GROUPS",
))  # fmt: skip


def failure_of(error: ssl.SSLError) -> str:
    """Return why a handshake failed: a word of `scoreboard.TLS_FAILURES`."""
    reason = error.reason or ""
    if reason in _NOT_TLS:
        return "not_tls"
    if reason in _UNSUPPORTED:
        return "unsupported"
    if "_ALERT_" in reason:
        return "refused_by_client"
    return "no_certificate" if reason == "CALLBACK_FAILED" else "other"


# HOT PATH. One object per connection.
class TlsConnection(asyncio.Protocol, asyncio.Transport):
    """Speaks TLS with one client. The protocol that *make* returns comes to life with the handshake."""

    __slots__ = (
        "_app", "_closed", "_decrypt", "_deliver", "_encrypt", "_eof", "_incoming", "_make", "_outgoing_read",
        "_phase", "_ssl", "_state", "_tcp", "_tls", "deadline_s",
    )  # fmt: skip

    def __init__(self, state: WorkerState, tls: ListenerTls, make: Callable[[], asyncio.Protocol]) -> None:
        self._state = state
        self._tls = tls
        self._make = make
        self._phase = _HANDSHAKE
        self._eof = False  # the client has said all it will
        self._closed = False  # we have: close_notify is out
        self.deadline_s = 0.0

    # The protocol of the bytes below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        state = self._state
        self._tcp = cast(asyncio.Transport, transport)
        if state.full and state.shed(transport):
            self._phase = _REFUSED
            return
        self._incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = self._tls.context.wrap_bio(self._incoming, outgoing, server_side=True)
        # Bound once: each is needed for every request.
        self._decrypt, self._encrypt, self._outgoing_read = self._ssl.read, self._ssl.write, outgoing.read
        self.deadline_s = state.now_s + state.settings.timeouts.tls_handshake_s
        state.watched.add(self)
        state.clients.add(self)
        state.head[sb.CLIENTS] += 1

    def data_received(self, data: bytes) -> None:
        if self._phase == _OPEN:
            self._incoming.write(data)
            self._read()
        elif self._phase == _HANDSHAKE:
            self._incoming.write(data)
            if self._shake_hands() and self._incoming.pending:
                self._read()

    def eof_received(self) -> bool:
        if self._phase != _OPEN:
            self._fail("gone")
            return False
        if self._eof:  # it was told by close_notify
            return not self._tcp.is_closing()
        self._eof = True
        return self._keep_open()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._phase == _OPEN:
            self._phase = _OVER
            self._app.connection_lost(exc)
            # Lets go of the one that has us too: nobody looks for circles often.
            self.set_protocol(asyncio.Protocol())
        else:
            self._fail("gone")
            self._forget()

    def pause_writing(self) -> None:
        if self._phase == _OPEN:
            self._app.pause_writing()

    def resume_writing(self) -> None:
        if self._phase == _OPEN:
            self._app.resume_writing()

    # The handshake

    def _shake_hands(self) -> bool:
        """Go on with the handshake; return whether it is done."""
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as exc:
            why = failure_of(exc)
            self._fail("other" if why == "no_certificate" and self._tls.find(None) else why)
            return False
        self._flush()
        self._forget()
        self._phase = _OPEN
        self._state.head[sb.TLS_HANDSHAKES] += 1
        self.set_protocol(self._make())
        self._app.connection_made(self)
        return True

    def _fail(self, why: str) -> None:
        """Count a handshake that has failed, send the alert there may be, and close."""
        if self._phase != _HANDSHAKE:
            return
        self._phase = _REFUSED
        self._state.head[sb.TLS_FAILED + sb.TLS_FAILURES.index(why)] += 1
        if not self._tcp.is_closing():
            self._flush()
            self._tcp.write_eof()  # not closed yet: what the client still sends would turn that into a reset
        self.deadline_s = self._state.now_s + _LINGER_S

    def on_deadline(self) -> None:
        """Give a handshake up that takes too long, or a client that does not leave."""
        self._fail("timeout")
        self.abort()

    def _forget(self) -> None:
        state = self._state
        if self in state.clients:
            state.clients.discard(self)
            state.watched.discard(self)
            state.head[sb.CLIENTS] -= 1

    # Bytes

    def _read(self) -> None:
        """Pass on all that can be decrypted by now, as one piece."""
        try:
            # Room for a whole record, however little has come: the rest of it may be there already.
            data = self._decrypt(_RECORD_BYTES)
        except ssl.SSLWantReadError:  # half a record, or one that is not for us to see
            self._flush()
            return
        except ssl.SSLError:  # a broken record, or an alert of the client
            self._flush()
            self.abort()
            return
        if data and not self._incoming.pending:
            self._deliver(data)
        else:
            self._read_on(data)

    def _read_on(self, first: bytes) -> None:
        """Do what `_read` does where there is more than one record."""
        pieces, piece = [], first
        try:
            while piece:
                pieces.append(piece)
                if not self._incoming.pending:  # asking in vain costs an exception
                    break
                piece = self._decrypt(_RECORD_BYTES)
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError:
            self._flush()
            self.abort()
            return
        if pieces:
            self._deliver(b"".join(pieces))
        if not piece:
            self._on_close_notify()

    def _on_close_notify(self) -> None:
        if not self._eof and self._phase == _OPEN:
            self._eof = True
            self._keep_open()

    def _keep_open(self) -> bool:
        """Tell of the client's end; close if nothing is left to say."""
        if self._app.eof_received():
            return True
        self.close()
        return False

    def _flush(self) -> None:
        data = self._outgoing_read()
        if data and not self._closed:
            self._tcp.write(data)

    def _close_notify(self) -> None:
        if self._phase == _OPEN and not self._closed:
            with contextlib.suppress(ssl.SSLError):  # it asks for the client's own, which may never come
                self._ssl.unwrap()
            self._flush()
            self._closed = True

    # The transport for the protocol above

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closed or self._phase != _OPEN or not data:
            return
        try:
            size = len(data)
            taken = self._encrypt(data)
            while taken < size:
                taken += self._encrypt(memoryview(data)[taken:])
        except ssl.SSLError:
            self.abort()
            return
        self._tcp.write(self._outgoing_read())

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Say that nothing more will come; the client may go on."""
        self._close_notify()
        if not self._tcp.is_closing():
            self._tcp.write_eof()

    def close(self) -> None:
        self._close_notify()
        self._tcp.close()

    def abort(self) -> None:
        """End at once and visibly: without close_notify the client knows that something is missing."""
        self._tcp.abort()

    def is_closing(self) -> bool:
        return self._tcp.is_closing()

    def is_reading(self) -> bool:
        return self._tcp.is_reading()

    def pause_reading(self) -> None:
        self._tcp.pause_reading()

    def resume_reading(self) -> None:
        self._tcp.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._tcp.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._tcp.set_write_buffer_limits(high=high, low=low)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._app

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._app = cast(asyncio.Protocol, protocol)
        self._deliver = self._app.data_received

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as asyncio has it
        if name == "ssl_object":
            return self._ssl
        return self._tcp.get_extra_info(name, default)
