"""A poller on a loop of its own, streams whose protocols write down what they hear, and their peers."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import uvloop

from proxy.worker.sockets import Listener, Poller, Stream

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
Action = Callable[["Recorder"], object]
_WAIT_S = 15.0


class Recorder(asyncio.Protocol):
    """Writes down each call; `on[name]` is done after that, in the call."""

    def __init__(self, *, keep_open: bool = False, **on: Action) -> None:
        self.transport: Any = None
        self.events: list[str] = []
        self.data = b""
        self.error: BaseException | None = None
        self.keep_open = keep_open
        self.on = on

    def _note(self, name: str) -> None:
        if not (name == "data" and self.events and self.events[-1] == "data"):
            self.events.append(name)
        if action := self.on.get(name):
            action(self)

    @property
    def lost(self) -> bool:
        return "lost" in self.events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._note("data")

    def eof_received(self) -> bool:
        self._note("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self._note("pause")

    def resume_writing(self) -> None:
        self._note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self._note("lost")


class _Counting:
    """What a poller uses of a loop, with a count of the turns that it was given."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.turns = 0

    def add_reader(self, fd: int, serve: Callable[[], object]) -> None:
        def counted() -> None:
            self.turns += 1
            serve()

        self._loop.add_reader(fd, counted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class Yard:
    """One loop, one poller and everything on them."""

    def __init__(self, make_loop: Callable[[], asyncio.AbstractEventLoop], stack: ExitStack) -> None:
        self._stack = stack
        self.loop = make_loop()
        stack.callback(self.loop.close)
        self._counting = _Counting(self.loop)
        self.poller = Poller(cast(asyncio.AbstractEventLoop, self._counting))
        stack.callback(self._close)
        self.streams: list[Stream] = []
        self.bugs: list[BaseException] = []
        self.loop.set_exception_handler(lambda _, context: self.bugs.append(context["exception"]))

    def _close(self) -> None:
        for stream in self.streams:
            stream.abort()
        self.run(3)
        self.poller.close()

    @property
    def turns(self) -> int:
        """How often the poller has had something to do."""
        return self._counting.turns

    def stream(
        self, protocol: asyncio.Protocol, *, early: bool = False, buffer_bytes: int = 0
    ) -> tuple[Stream, socket.socket]:
        """Return a stream with *protocol*, and the other end of its connection, which does not block."""
        near, far = self.pair(buffer_bytes)
        stream = Stream(self.poller, near, protocol, early=early)
        self.streams.append(stream)
        return stream, far

    def pair(self, buffer_bytes: int = 0) -> tuple[socket.socket, socket.socket]:
        near, far = connected(buffer_bytes)
        self._stack.callback(far.close)
        return near, far

    def listener(self, make: Callable[[], asyncio.Protocol]) -> tuple[Listener, socket.socket]:
        """Return a listener, and its socket."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen(512)
        listener = Listener(self.poller, sock, make, lambda: None)
        self._stack.callback(sock.close)
        self._stack.callback(listener.close)
        return listener, sock

    def client(self, listening: socket.socket) -> socket.socket:
        sock = socket.create_connection(listening.getsockname())
        self._stack.callback(sock.close)
        return sock

    @staticmethod
    def queued(listening: socket.socket, count: int) -> None:
        """Return once *count* connections wait to be accepted."""
        deadline_s = time.monotonic() + _WAIT_S
        while queue_length(listening) < count:
            assert time.monotonic() < deadline_s, "they did not arrive"

    def run(self, times: int = 10) -> None:
        """Let the loop go round, without waiting for anything."""

        async def rounds() -> None:
            for _ in range(times):
                await asyncio.sleep(0)

        self.loop.run_until_complete(rounds())

    def until(self, holds: Callable[[], object]) -> None:
        """Let the loop go round until *holds*."""
        deadline_s = time.monotonic() + _WAIT_S

        async def waiting() -> None:
            while not holds():
                assert time.monotonic() < deadline_s, "it did not happen"
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(waiting())

    def read(self, far: socket.socket, count: int) -> bytes:
        """Return the next *count* bytes that come out at *far*."""
        pieces, left = [], count

        def enough() -> bool:
            nonlocal left
            with contextlib.suppress(BlockingIOError):
                while left:
                    data = far.recv(min(left, 1 << 20))
                    assert data, f"it ended with {left} bytes to come"
                    pieces.append(data)
                    left -= len(data)
            return not left

        self.until(enough)
        return b"".join(pieces)

    def ended(self, far: socket.socket) -> bool:
        """Wait for the end at *far*, with nothing before it: True for FIN, False for a reset."""
        end: list[bool] = []

        def over() -> bool:
            with contextlib.suppress(BlockingIOError):
                try:
                    assert far.recv(1000) == b""
                    end.append(True)
                except ConnectionResetError:
                    end.append(False)
            return bool(end)

        self.until(over)
        return end[0]


@contextmanager
def yard(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Yard]:
    """Yield a yard; afterwards all of it is closed."""
    with ExitStack() as stack:
        yield Yard(make_loop, stack)


def connected(buffer_bytes: int = 0) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection that do not block, with small kernel buffers if so wished."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        far = stack.enter_context(socket.socket())
        if buffer_bytes:  # before they connect: the window is agreed then
            for sock, option in ((listening, socket.SO_SNDBUF), (far, socket.SO_RCVBUF)):
                sock.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        far.connect(listening.getsockname())
        near = listening.accept()[0]
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stack.pop_all()
    return near, far


def reset(sock: socket.socket) -> None:
    """End the connection of *sock* with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def arrived(fd: int, events: int = select.POLLIN) -> None:
    """Return once the kernel has one of *events* for *fd*: on a busy machine that may take a moment."""
    poll = select.poll()
    poll.register(fd, events)
    assert poll.poll(_WAIT_S * 1000), "it did not arrive"


def unacknowledged_bytes(sock: socket.socket) -> int:
    """Return what the other side's kernel does not have yet of what was sent."""
    count: int = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0]
    return count


def queue_length(listening: socket.socket) -> int:
    """Return how many connections wait to be accepted."""
    info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    length: int = struct.unpack_from("I", info, 24)[0]  # tcpi_unacked
    return length


def fd_of(stream: Stream) -> int:
    sock: socket.socket = stream.get_extra_info("socket")
    return sock.fileno()
