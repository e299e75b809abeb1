"""The worker process: accept on the sockets it was given, follow the link, drain when told to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from proxy.link import reports
from proxy.link import scoreboard as sb
from proxy.link.scoreboard import Scoreboard
from proxy.worker.accesslog import AccessLogWriter
from proxy.worker.follow import Follower
from proxy.worker.http1.downstream import ClientConnection
from proxy.worker.record import record_bug
from proxy.worker.state import TICK_S, WorkerState

_STDOUT: Final = 1
_LAST_ACCEPTS_S: Final = 0.1  # how long the accept queue is still served once nobody can join it


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """The descriptors a worker gets from the supervisor."""

    row: int  # of the scoreboard
    listeners: tuple[int, ...]
    link: int
    scoreboard: int
    snapshot: int  # the newest one so far, or -1
    lifeline: int  # reads end-of-file when the supervisor is gone


async def serve(given: Inheritance) -> None:
    """Serve until SIGTERM has been answered with a drain, or the supervisor is gone."""
    loop = asyncio.get_running_loop()
    board = Scoreboard.attach(given.scoreboard)
    board.begin(given.row, os.getpid())
    log = AccessLogWriter(_STDOUT, board.head(given.row))
    link = socket.socket(fileno=given.link)
    async with asyncio.TaskGroup() as tasks:
        state = WorkerState(
            loop=loop, tasks=tasks, board=board, row=given.row, log=log, report=partial(reports.send, link)
        )
        await Worker(state, given, link).run()
    log.close()


class Worker:
    """Wires one worker's sockets, link and signals to its state."""

    def __init__(self, state: WorkerState, given: Inheritance, link: socket.socket) -> None:
        self._state = state
        self._given = given
        self._link = link
        self._stop = asyncio.Event()
        self._abandoned = False

    async def run(self) -> None:
        loop, state, given = self._state.loop, self._state, self._given
        follower = Follower(state, self._link, given.snapshot)
        follower.begin()
        loop.add_reader(self._link.fileno(), follower.on_link)
        loop.add_reader(given.lifeline, self._on_lifeline)
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        # A terminal's Ctrl-C reaches everybody, and is the supervisor's to answer.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        loop.set_exception_handler(self.on_bug)
        following = state.tasks.create_task(follower.run(), name="follow")
        ticking = state.tasks.create_task(self._tick(), name="tick")
        servers = [
            await loop.create_server(lambda: ClientConnection(state), sock=socket.socket(fileno=fd))
            for fd in given.listeners
        ]
        await self._stop.wait()
        await self._drain(servers)
        ticking.cancel()
        following.cancel()
        loop.remove_reader(self._link.fileno())
        loop.remove_reader(given.lifeline)
        self._link.close()

    async def _tick(self) -> None:
        while True:
            try:
                self._state.tick()
            except Exception as exc:  # of one connection; the others still need their deadlines
                record_bug(self._state, exc)
            await asyncio.sleep(TICK_S)

    def on_bug(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take what a callback has raised: the loop has closed its connection, the worker goes on."""
        record_bug(self._state, context.get("exception") or RuntimeError(context["message"]))

    def _on_sigterm(self) -> None:
        if self._stop.is_set():  # the second one: whoever sends it does not want to wait
            self._state.drained.set()
        self._stop.set()

    def _on_lifeline(self) -> None:
        """The supervisor died. It held the sockets; without it a successor could not be told apart."""
        self._state.loop.remove_reader(self._given.lifeline)
        self._abandoned = True
        self._stop.set()

    async def _drain(self, servers: Iterable[asyncio.Server]) -> None:
        """Finish what is in flight, within the drain time."""
        state = self._state
        state.draining = True
        state.head[sb.DRAINING] = 1
        await asyncio.sleep(_LAST_ACCEPTS_S)
        for server in servers:
            server.close()
        for client in list(state.clients):
            if isinstance(client, ClientConnection):
                client.drain()
        if not self._abandoned:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(state.settings.timeouts.drain_s):
                    await state.drained.wait()
        self._abort_all()
        await asyncio.sleep(0)  # lets the transports close

    def _abort_all(self) -> None:
        for item in list(self._state.watched):
            with contextlib.suppress(OSError):
                item.abort()
