"""The worker process: accept on the sockets it was given, follow the link, drain when told to."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from proxy.link import reports
from proxy.link import scoreboard as sb
from proxy.link.scoreboard import Scoreboard
from proxy.worker.accesslog import AccessLogWriter
from proxy.worker.drain import Ending, drain
from proxy.worker.follow import Follower
from proxy.worker.garbage import settle
from proxy.worker.listeners import opener
from proxy.worker.record import record_bug
from proxy.worker.sockets import Listener
from proxy.worker.state import TICK_S, WorkerState
from proxy.worker.tls import is_unreadable_name
from proxy.worker.upkeep import keep_up

_STDOUT: Final = 1
_LOOK_S: Final = 0.02  # between two looks whether there is a table


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """The descriptors a worker gets from the supervisor."""

    row: int  # of the scoreboard
    listeners: tuple[tuple[int, ...], ...]  # the sockets of each [[listener]]; usually one
    link: int
    scoreboard: int
    snapshot: int  # the newest one so far, or -1
    lifeline: int  # reads end-of-file when the supervisor is gone
    held: bool = False  # the sockets outlive anyport: systemd keeps them for the next one
    patience_s: float = 0.0  # wait so long for a table before accepting: nobody needs us sooner


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
        self._ending = Ending()

    async def run(self) -> None:
        loop, state, given = self._state.loop, self._state, self._given
        loop.add_signal_handler(signal.SIGTERM, self._ending.terminate)
        loop.add_signal_handler(signal.SIGUSR2, self._ending.hand_over)
        faulthandler.register(signal.SIGUSR1, all_threads=True)  # even while Python code does not return
        # A terminal's Ctrl-C reaches everybody, and is the supervisor's to answer.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        follower = Follower(state, self._link, given.snapshot)
        follower.begin()
        settle()
        loop.add_reader(self._link.fileno(), follower.on_link)
        loop.add_reader(given.lifeline, self._on_lifeline)
        loop.set_exception_handler(self.on_bug)
        sys.unraisablehook = self.on_lost
        state.tasks.create_task(follower.run(), name="follow")
        state.tasks.create_task(self._tick(), name="tick")
        opened = [(i, socket.socket(fileno=fd)) for i, fds in enumerate(given.listeners) for fd in fds]
        sockets = [sock for _, sock in opened]
        state.tasks.create_task(keep_up(state, sockets), name="upkeep")
        listeners: list[Listener] = []
        if await self._may_accept():
            listeners = [
                Listener(state.poller, sock, opener(state, index), state.count_shed) for index, sock in opened
            ]
            state.head[sb.ACCEPTING] = 1
        await self._ending.begun.wait()
        await drain(state, self._ending, listeners, sockets, held=given.held)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:  # dials for whom nobody waits too
            task.cancel()
        loop.remove_reader(self._link.fileno())
        loop.remove_reader(given.lifeline)
        state.poller.close()
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

    def on_lost(self, lost: sys.UnraisableHookArgs) -> None:
        """Take what was raised where nobody could catch it."""
        if not is_unreadable_name(lost.exc_value):
            record_bug(self._state, lost.exc_value or RuntimeError(lost.err_msg))

    def _on_lifeline(self) -> None:
        """The supervisor died. It held the sockets; without it a successor could not be told apart."""
        self._state.loop.remove_reader(self._given.lifeline)
        self._ending.hurry()

    async def _may_accept(self) -> bool:
        """Return True when it is time to accept, False if the end comes first."""
        state, ending = self._state, self._ending
        until_s = state.loop.time() + self._given.patience_s
        while not (state.table.loaded or ending.begun.is_set()) and state.loop.time() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        return not ending.begun.is_set()
