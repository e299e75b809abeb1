"""Plain TCP connections of the data plane: transports that read and write without going through the loop.

HOT PATH, compiled: `sockets.pxd` gives the types. A `Poller` is one epoll instance that the event loop
watches like any other descriptor; what is ready in it is served in one go, so the cost of a turn of the
loop is shared by all connections that have something to say. A `Stream` is an asyncio transport as far
as a protocol can see (the methods and their order of calls are those of `asyncio.Transport`), and writes
at once what the kernel takes at once. TLS to backends stays with the transports of the loop.

A mistake in a protocol's method goes to the loop's exception handler and ends that connection, no other.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import writev as _writev
from typing import Any, Final

try:
    from proxy.worker.syscalls import accept as _accept
    from proxy.worker.syscalls import read as _read
    from proxy.worker.syscalls import write as _write
except ImportError:  # not compiled
    from os import read as _read
    from os import write as _write

    from proxy.worker.accepting import accept as _accept

_FIN: Final = select.EPOLLRDHUP
_IN: Final = select.EPOLLIN | _FIN
_OUT: Final = select.EPOLLOUT
_EVENTS_MAX: Final = 256  # served in one go; more of them wait for the next turn of the loop
_ACCEPTS_MAX: Final = 64  # likewise
_READ_BYTES: Final = 64 * 1024
_BULK_READ_BYTES: Final = 128 * 1024  # once a read has come back full; more would not stay in the CPU's cache
_REST_S: Final = 0.1  # before a listener that could not accept asks again
_PIECES_MAX: Final = 64  # of one gathered write
_HIGH_BYTES: Final = 64 * 1024
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Item:
    """Something a poller watches."""

    __slots__ = ("early",)

    def __init__(self) -> None:
        self.early = False  # served before the others in a turn

    def on_ready(self, mask: int) -> None:
        """Do what the events in *mask* allow."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """Do what is right when `on_ready` has raised *error*."""
        raise NotImplementedError


class Poller:
    """All streams of one worker."""

    __slots__ = (
        "_behind", "_ended", "_epoll", "_items", "_loop", "_poll", "_serving", "_spare", "_sweeping",
        "caught_up",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self._spare = os.open(os.devnull, os.O_RDONLY)
        self._items: dict[int, Item] = {}
        self._ended: list[Stream] = []
        self._sweeping = False
        self._serving = False
        self._behind = False  # something that was there when this turn began may not have been read
        self.caught_up = False  # in a turn, and whatever the early ones had to say before it is known
        loop.add_reader(self._epoll.fileno(), self._serve)

    def close(self) -> None:
        """Stop. Streams that are still open are abandoned."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        if self._spare >= 0:
            os.close(self._spare)

    def watch(self, item: Item, fd: int, old: int, new: int) -> None:
        """Be told of the events *new* of *fd* instead of *old*; 0 is none at all, not even its errors."""
        if not old:
            self._epoll.register(fd, new)
            self._items[fd] = item
        elif new:
            self._epoll.modify(fd, new)
        else:
            self._epoll.unregister(fd)
            del self._items[fd]

    @contextmanager
    def spare(self) -> Iterator[bool]:
        """Free the descriptor that is kept for when there is no other; yield whether there was one."""
        had = self._spare >= 0
        if had:
            os.close(self._spare)
        try:
            yield had
        finally:
            try:
                self._spare = os.open(os.devnull, os.O_RDONLY)
            except OSError:
                self._spare = -1

    def forget(self, fd: int) -> None:
        """Tell nobody of *fd* any more; its owner is about to close it, which ends the watch as well."""
        del self._items[fd]

    def later(self, delay_s: float, call: Callable[[], object]) -> None:
        self._loop.call_later(delay_s, call)

    def retire(self, stream: Stream) -> None:
        """Tell the protocol of *stream* that it is over, once nobody is in the middle of using it."""
        self._ended.append(stream)
        if not self._serving and not self._sweeping:
            self._sweeping = True
            self._loop.call_soon(self._sweep)

    def report(self, error: Exception) -> None:
        """Tell of a mistake in a protocol."""
        self._loop.call_exception_handler({"message": "a connection failed", "exception": error})

    def _serve(self) -> None:
        events = self._poll(0, _EVENTS_MAX)
        items = self._items
        later: list[tuple[Item, int]] = []
        self._serving = True
        self._behind = len(events) == _EVENTS_MAX
        try:
            # Backends first: what one of them has said or closed unasked is known before a client's request
            # could be given that connection (reliability S47).
            for fd, mask in events:
                item = items.get(fd)
                if item is None:
                    continue
                if item.early:
                    self._tell(item, mask)
                else:
                    later.append((item, mask))
            if self._ended:
                self._sweep()
            self.caught_up = not self._behind
            for item, mask in later:
                self._tell(item, mask)
        finally:
            self._serving = self.caught_up = False
        if self._ended:
            self._sweep()

    def _tell(self, item: Item, mask: int) -> None:
        try:
            item.on_ready(mask)
        except Exception as exc:
            self.report(exc)
            item.fail(exc)

    def _sweep(self) -> None:
        self._sweeping = False
        ended, self._ended = self._ended, []
        for stream in ended:
            try:
                stream.bury()
            except Exception as exc:
                self.report(exc)


class Stream(Item):
    """A connected, non-blocking socket as a transport."""

    __slots__ = (
        "_closing", "_eof", "_error", "_fd", "_full", "_high", "_low", "_mask", "_out", "_out_at",
        "_out_bytes", "_peername", "_poller", "_protocol", "_read_bytes", "_reading", "_said", "_sock",
        "_sockname",
    )  # fmt: skip

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket | int,
        protocol: Any,
        peername: Any = None,
        sockname: Any = None,
        *,
        early: bool = False,
    ) -> None:
        self._poller = poller
        # A descriptor becomes a socket when somebody needs one: seldom, and it costs a system call.
        self._sock = None if isinstance(sock, int) else sock
        self._fd = sock if isinstance(sock, int) else sock.fileno()
        self._protocol = protocol
        self._peername = peername
        self._sockname = sockname
        self.early = early
        self._mask = 0  # what the poller watches for
        self._reading = True
        self._read_bytes = _READ_BYTES
        self._out: list[bytes | memoryview] = []  # what the kernel has not taken yet
        self._out_at = 0  # the first of those; the others are empty by now
        self._out_bytes = 0
        self._high = _HIGH_BYTES
        self._low = _HIGH_BYTES // 4
        self._full = False  # the protocol has been asked to pause
        self._closing = False
        self._eof = False  # nothing more will be written
        self._said = False  # since the other side has last: what comes next may be its answer
        self._error: Exception | None = None
        try:
            protocol.connection_made(self)
            if not self._closing:
                self._watch()
        except Exception as exc:
            self.fail(exc)
            raise

    # What the protocol asks for: asyncio.Transport

    def write(self, data: bytes) -> None:
        """Send *data*, at once as far as the kernel takes it."""
        if self._closing or self._eof or not data:
            return
        if not self._out:
            try:
                sent = _write(self._fd, data)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                self._out_bytes = len(data)
                self._break(exc)
                return
            self._said = True
            if sent == len(data):
                return
            self._out.append(memoryview(data)[sent:])
            self._out_bytes = len(data) - sent
            self._watch()
        else:
            self._out.append(data)
            self._out_bytes += len(data)
        if self._out_bytes > self._high and not self._full:
            self._full = True
            try:
                self._protocol.pause_writing()
            except Exception as exc:  # the caller may be another connection
                self._poller.report(exc)
                self.fail(exc)

    def writelines(self, pieces: list[bytes]) -> None:
        """Send *pieces* one behind the other, without making one of them first."""
        if self._closing or self._eof:
            return
        if self._out:
            self.write(b"".join(pieces))
            return
        try:
            sent = _writev(self._fd, pieces)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._out_bytes = sum(map(len, pieces))
            self._break(exc)
            return
        self._said = True
        left = sum(map(len, pieces)) - sent
        if left:
            self.write(b"".join(pieces)[sent:])

    def write_eof(self) -> None:
        """Close the sending side once everything is out."""
        if not self._eof and not self._closing:
            self._eof = True
            if not self._out:
                self._shut()

    def close(self) -> None:
        """Send what is buffered, then end."""
        if not self._closing:
            self._closing = True
            self._reading = False
            if self._out:
                self._watch()
            else:
                self._retire()

    def abort(self) -> None:
        """End now."""
        if not self._closing:
            self._closing = True
            self._retire()
        elif self._mask:  # it was only waiting for its buffer
            self._retire()

    def pause_reading(self) -> None:
        self._reading = False
        if self._error is not None:  # it was only waiting for what is there to be read
            self.abort()
        else:
            self._watch()

    def resume_reading(self) -> None:
        """Read on. Behind the end of what the other side sends that end is told again, as asyncio does: a
        protocol that has taken over from another one hears of it so."""
        if not self._closing:
            self._reading = True
            self._watch()

    def is_reading(self) -> bool:
        return self._reading

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self._out_bytes

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        self._high, self._low = high, low

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if self._fd < 0:
            return default
        if name == "socket":
            return self._socket()
        try:
            if name == "peername":
                if self._peername is None:
                    self._peername = self._socket().getpeername()
                return self._peername
            if name == "sockname":
                if self._sockname is None:
                    self._sockname = self._socket().getsockname()
                return self._sockname
        except OSError:  # it has ended before it was asked
            pass
        return default

    # What the poller tells

    def on_ready(self, mask: int) -> None:
        # An error or a hang-up shows in the read; while nobody reads it can wait. Reading comes first: where
        # writing is about to fail, the other side may have said why.
        if self._reading and mask != _OUT:
            self._receive()
            # The end behind the last bytes, in the same turn: nobody may take it for a connection at rest.
            if mask & _FIN and self._reading:
                self._receive()
        if mask & _OUT and self._out:
            self._flush()

    def fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self.abort()

    def bury(self) -> None:
        """Give the socket back and tell the protocol. The poller's last word to a stream."""
        protocol, self._protocol = self._protocol, None
        if self._sock is None:
            os.close(self._fd)
        else:
            self._sock.close()
        self._fd = -1  # the number is somebody else's by now
        if protocol is not None:
            protocol.connection_lost(self._error)

    # Bookkeeping

    def _socket(self) -> socket.socket:
        if self._sock is None:
            self._sock = socket.socket(fileno=self._fd)
        return self._sock

    def _receive(self) -> None:
        try:
            data = _read(self._fd, self._read_bytes)
        except BlockingIOError:
            if self._error is not None:
                self.abort()
            return
        except OSError as exc:
            self._lose(exc)
            return
        if data:
            self._said = False
            if len(data) == self._read_bytes:
                self._read_bytes = _BULK_READ_BYTES
                self._poller._behind = True
            self._protocol.data_received(data)
        elif self._error is not None:  # writing has failed: not an end as it should be
            self.abort()
        else:
            self._reading = False
            self._watch()
            if not self._protocol.eof_received():
                self.close()

    def _flush(self) -> None:
        out, at = self._out, self._out_at
        try:
            sent = _writev(self._fd, out[at : at + _PIECES_MAX])
        except BlockingIOError:
            return
        except OSError as exc:
            self._said = True  # the beginning of it
            self._break(exc)
            return
        self._said = True
        self._out_bytes -= sent
        count = len(out)
        while at < count and sent >= len(out[at]):
            sent -= len(out[at])
            out[at] = b""
            at += 1
        if at < count:
            if sent:
                out[at] = memoryview(out[at])[sent:]
            if 2 * at >= count:  # not each time: with many pieces that would cost their square
                del out[:at]
                at = 0
            self._out_at = at
        else:
            out.clear()
            self._out_at = 0
            if self._closing:
                self._retire()
            else:
                self._watch()
                if self._eof:
                    self._shut()
        if self._full and self._out_bytes <= self._low:
            self._full = False
            self._protocol.resume_writing()

    def _shut(self) -> None:
        try:
            self._socket().shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._break(exc)

    def _break(self, error: OSError) -> None:
        """Nothing can be written any more. A backend that refuses a long request sends its answer and then a
        reset for the rest: so what has come is read to its end, if it can be an answer at all."""
        if self._said and self._reading:
            self._error = error
            self._eof = True
            self._out.clear()  # but not `_out_bytes`: they were never sent
            self._watch()
        else:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self._error = error
        self.abort()

    def _retire(self) -> None:
        self._reading = False
        self._out.clear()
        self._out_bytes = 0
        if self._mask:
            self._mask = 0
            self._poller.forget(self._fd)
        self._poller.retire(self)

    def _watch(self) -> None:
        mask = (_IN if self._reading else 0) | (_OUT if self._out else 0)
        if mask != self._mask:
            self._poller.watch(self, self._fd, self._mask, mask)
            self._mask = mask


class Listener(Item):
    """A listening socket: each connection becomes a `Stream` with a protocol of its own."""

    __slots__ = ("_fd", "_make", "_mask", "_on_turned_away", "_open", "_poller", "_sock", "_sockname")

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket,
        make: Callable[[], Any],
        on_turned_away: Callable[[], object],
    ) -> None:
        self._poller = poller
        self._sock = sock
        self._fd = sock.fileno()
        self._make = make
        self._on_turned_away = on_turned_away
        self._sockname = sock.getsockname()
        self.early = False
        sock.setblocking(False)
        # Inherited by what is accepted (tcp(7)): a system call less for each.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._mask = 0
        self._open = True
        self._watch(_IN)

    def on_ready(self, _mask: int) -> None:
        failed = 0
        for _ in range(_ACCEPTS_MAX):
            if not self._open:  # since the event, or by whom it has just accepted
                return
            try:
                fd, peername = _accept(self._fd)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno not in _EXHAUSTED:  # that connection's own, and it is gone (accept(2))
                    failed += 1
                elif not self._turn_away():
                    return
                continue
            try:
                protocol = self._make()
            except Exception as exc:
                os.close(fd)
                self._poller.report(exc)
                continue
            try:
                Stream(self._poller, fd, protocol, peername, self._sockname)
            except Exception as exc:  # it has ended already
                self._poller.report(exc)
        if failed == _ACCEPTS_MAX:  # not theirs, then
            self._rest()

    def _turn_away(self) -> bool:
        """Close the next connection in the queue, with the descriptor kept for this: it must not wait for
        ever, and the queue must not keep the poller spinning. Return False if not even that can be done."""
        with self._poller.spare() as spared:
            if spared:
                try:
                    self._sock.accept()[0].close()
                except OSError:
                    pass
                else:
                    self._on_turned_away()
                    return True
        self._rest()
        return False

    def fail(self, error: Exception) -> None:
        self._rest()

    def close(self) -> None:
        """Accept no more. The socket is closed."""
        self._watch(0)
        self._open = False
        self._sock.close()

    def _rest(self) -> None:
        self._watch(0)
        self._poller.later(_REST_S, self._wake)

    def _wake(self) -> None:
        if self._open:
            self._watch(_IN)

    def _watch(self, mask: int) -> None:
        if mask != self._mask:
            self._poller.watch(self, self._sock.fileno(), self._mask, mask)
            self._mask = mask
