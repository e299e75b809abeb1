"""A small TCP relay in front of a user's own program: what docker-proxy is to a container.

Nobody can make somebody else's program bind a simulated instance's loopback address, so the relay
listens there and passes bytes to the port the program was told to use. Its listener is open only
while the program listens, so that to a client a program that is not up (or gone) refuses
connections, as it would behind a host port of Docker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import uvloop

_BUFFER_BYTES = 64 * 1024  # per direction, before reading pauses
_STARTING_POLL_S = 0.02
_RUNNING_POLL_S = 0.05
_STOPPING_POLL_S = 0.005  # the program closes its listener any moment now, and ours should follow at once
_FINISH_S = 0.5  # for answers still on their way when the program has ended
_LISTEN_STATE = b"0A"


class Route(NamedTuple):
    """Listen on host:port, pass to 127.0.0.1:target_port."""

    host: str
    port: int
    target_port: int


def parse_listening(table: bytes) -> tuple[set[int], bool]:
    """The listening ports in a piece of /proc/net/tcp, and whether a line of another state was seen.

    The kernel prints all listening sockets before the others, so the first other line ends the search.
    """
    ports: set[int] = set()
    for line in table.splitlines():
        fields = line.split(None, 4)
        if len(fields) < 5 or not fields[0].endswith(b":"):
            continue  # the heading, or a line cut off
        if fields[3] != _LISTEN_STATE:
            return ports, True
        ports.add(int(fields[1].rpartition(b":")[2], 16))
    return ports, False


def is_listening(port: int) -> bool:
    """Whether something on this machine listens on *port*: without a connection it would have to log."""
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), Path(name).open("rb", buffering=0) as file:
            table, done = b"", False
            while not done and (block := file.read(16 * 1024)):
                table += block
                ports, done = parse_listening(table)
                if port in ports:
                    return True
    return not Path("/proc/net/tcp").exists() and _accepts(port)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
    except OSError:
        return False
    return True


class _Open(set["_Half"]):
    """The open connections."""

    def __init__(self) -> None:
        super().__init__()
        self._left = asyncio.Event()

    def leave(self, half: _Half) -> None:
        self.discard(half)
        self._left.set()

    async def empty(self) -> None:
        """Return when there is none."""
        while self:
            self._left.clear()
            await self._left.wait()


class _Half(asyncio.Protocol):
    """One side of a relayed connection; `peer` is the other."""

    def __init__(self, open_halves: _Open) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: _Half | None = None
        self._early = b""  # came before there was a peer
        self._eof = False
        self._open = open_halves

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not registered as one
        self.transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        if self.peer is None:
            self._early += data
            self.transport.pause_reading()
        elif self.peer.transport:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        self._eof = True
        if self.peer is None:
            return True  # `join` will pass it on
        if self.peer.transport and not self.peer.transport.is_closing():
            self.peer.transport.write_eof()
        return not self.peer._eof  # half-closed: the answer may still come

    def join(self, peer: _Half) -> None:
        """Pass everything to *peer* from now on, and what came before."""
        self.peer = peer
        if self.transport is None or self.transport.is_closing():
            return
        if self._early:
            self.data_received(self._early)
            self._early = b""
            self.transport.resume_reading()
        if self._eof and not self.eof_received():
            self.transport.close()

    def pause_writing(self) -> None:
        if self.peer and self.peer.transport:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer and self.peer.transport:
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.leave(self)
        if self.peer and self.peer.transport:
            if exc is None:
                self.peer.transport.close()
            else:
                self.peer.reset()

    def reset(self) -> None:
        """Close with RST: what was cut short on one side must look cut short on the other."""
        if self.transport is None or self.transport.is_closing():
            return
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Relay:
    """The relays of one task."""

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        listening: Callable[[int], bool] = is_listening,
    ) -> None:
        self._routes = routes
        self._listening = listening
        self._open = _Open()
        self._dials: asyncio.TaskGroup | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._finishing = asyncio.Event()

    def stop_soon(self) -> None:
        """The program has been asked to stop: watch its listener closely."""
        self._stopping = True
        self._wake.set()

    def finish(self) -> None:
        """The program has ended: refuse new connections, flush what it wrote, then `run` returns."""
        self._finishing.set()

    async def run(self) -> None:
        """Relay until `finish`, and then until every connection is closed or half a second has passed."""
        async with asyncio.TaskGroup() as group:
            self._dials = group
            guards = [group.create_task(self._guard(route)) for route in self._routes]
            await self._finishing.wait()
            for guard in guards:
                guard.cancel()
            await asyncio.wait(guards)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FINISH_S):
                    await self._open.empty()
            for half in tuple(self._open):
                half.reset()

    async def _guard(self, route: Route) -> None:
        """Keep the listener of one route open exactly while the program listens."""
        loop = asyncio.get_running_loop()
        server: asyncio.Server | None = None
        try:
            while True:
                up = self._listening(route.target_port)
                if up and server is None:
                    server = await loop.create_server(
                        lambda: self._accept(route.target_port),
                        route.host,
                        route.port,
                        backlog=1024,
                        reuse_address=True,
                    )
                elif server is not None and not up:
                    server.close()
                    server = None
                poll_s = _STARTING_POLL_S if server is None else _RUNNING_POLL_S
                await self._pause(_STOPPING_POLL_S if self._stopping else poll_s)
        finally:
            if server is not None:
                server.close()

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def _accept(self, target_port: int) -> asyncio.Protocol:
        relay = self

        class Downstream(_Half):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                assert relay._dials is not None
                relay._dials.create_task(relay._dial(self, target_port))

        return Downstream(self._open)

    async def _dial(self, downstream: _Half, target_port: int) -> None:
        try:
            _, upstream = await asyncio.get_running_loop().create_connection(
                lambda: _Half(self._open), "127.0.0.1", target_port
            )
        except OSError:
            downstream.reset()
            self._wake.set()  # look again now whether the program still listens
            return
        upstream.join(downstream)
        downstream.join(upstream)
        if downstream.transport is None or downstream.transport.is_closing():
            upstream.reset()


def run(routes: Sequence[Route], *, lifeline_fd: int, group: int) -> int:
    """Relay in a process of its own; SIGTERM means `stop_soon`, SIGUSR1 `finish`.

    Should *lifeline_fd* reach its end, nobody is left to look after the process *group* of the
    program: it is killed, and the relay ends too.
    """

    def orphaned() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        os._exit(1)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        relay = Relay(routes)
        loop.add_signal_handler(signal.SIGTERM, relay.stop_soon)
        loop.add_signal_handler(signal.SIGUSR1, relay.finish)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
        loop.add_reader(lifeline_fd, orphaned)
        await relay.run()

    failures: tuple[BaseException, ...] = ()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())
    except* OSError as errors:
        failures = errors.exceptions
    for failure in failures:
        where = ", ".join(f"{route.host}:{route.port}" for route in routes)
        sys.stderr.write(f"cannot publish {where}: {failure}\n")
    return 1 if failures else 0
