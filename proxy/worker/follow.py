"""Follows the link: takes the newest snapshot, a slice of it at a time, while requests are served."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

from proxy.link import scoreboard as sb
from proxy.link import snapshots
from proxy.steps import Steps, finish, spread
from proxy.worker.http1 import pool
from proxy.worker.record import record_bug
from proxy.worker.state import WorkerState

_NONE: Final = -1


class Follower:
    """Keeps a worker's table at the newest snapshot.

    One snapshot is finished before the next one begins, and of those that came meanwhile only the newest is
    taken: so the table moves on however fast they come. *first* is one to begin with, or -1.
    """

    def __init__(self, state: WorkerState, link: socket.socket, first: int) -> None:
        self._state = state
        self._link = link
        self._decoder = snapshots.Decoder()
        self._waiting = first  # descriptor of the newest snapshot not begun; ours to close
        self._number = 0  # its revision; 0 for the one to begin with, which others route by already
        self._news = asyncio.Event()

    def begin(self) -> None:
        """Take what there is, in one go: nobody is served yet."""
        if self._waiting != _NONE:
            finish(self._steps())
        self.on_link()
        if self._waiting != _NONE:
            finish(self._steps())
        self._news.clear()

    def on_link(self) -> None:
        """Note what has come through the link."""
        newest = snapshots.receive_newest(self._link)
        if newest is None:
            return
        if newest[0] <= max(self._number, self._state.table.revision):
            os.close(newest[1])  # in force by now, or overtaken by one that is tried
            return
        self._let_go()
        self._number, self._waiting = newest
        self._news.set()

    async def run(self) -> None:
        """Take what comes, until cancelled."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                try:
                    await spread(self._steps())
                except Exception as exc:  # a mistake of ours: the table stays, and so does the worker
                    self._refuse()
                    record_bug(self._state, exc)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._waiting != _NONE:
            os.close(self._waiting)
            self._waiting = _NONE

    def _refuse(self) -> None:
        head = self._state.head
        head[sb.SNAPSHOTS_REJECTED] += 1
        head[sb.BROKE_ON], head[sb.TAKING] = head[sb.TAKING], 0

    def _steps(self) -> Steps[None]:
        """Route by the waiting snapshot, unless it is older than what we have or cannot be read."""
        state = self._state
        fd, self._waiting = self._waiting, _NONE
        # If this is the end of us, the control process must learn which table it was that did it.
        state.head[sb.TAKING], self._number = self._number, 0
        try:
            snapshot = yield from self._decoder.file(fd)
        except snapshots.SnapshotError:
            self._refuse()
            return
        finally:
            os.close(fd)
        if snapshot.revision <= state.table.revision:
            state.head[sb.TAKING] = 0
            return
        yield from state.client_tls.follow(snapshot.settings.listeners)
        state.use(snapshot.settings)
        for row in snapshot.services:
            if row.tls is not None:
                yield from state.backend_tls.load(row.tls)  # files are read here, never for a request
        yield from state.table.steps(snapshot, pool.flush)
        state.head[sb.REVISION] = snapshot.revision
        state.head[sb.TAKING] = 0
