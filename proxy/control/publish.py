"""Hands each new table to one worker, and once that has taken it to the others and the supervisor.

A table on which a worker dies or stands still, or which it cannot take, is quarantined: the others keep
theirs, and so does the supervisor, with whose table the dead worker's successor begins.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from proxy.control.trial import FAILURES, Canary, Outcome, beats, choose, is_alive
from proxy.link import scoreboard as sb
from proxy.link import snapshots
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import Encoder, TableSnapshot

log = logging.getLogger("anyport.control")

_LOOK_S: Final = 0.001  # between two looks at the scoreboard: an event is to be routed by within 50 ms
_LOOK_SLOWLY_S: Final = 0.01  # once it has taken long already
_SOON_S: Final = 0.25
_LATE_LINKS_S: Final = 0.02
_IDLE_LOOK_S: Final = 0.05  # while a table is in quarantine
_BACKOFF_S: Final = 1.0  # before the next table is tried; doubled with each that fails, up to ...
_BACKOFF_MAX_S: Final = 60.0
_SAME_AGAIN: Final = 60  # times that, before the very same table is tried again

_WORDS: Final[dict[Outcome, str]] = {
    "killed": "died while it took it",
    "stalled": "stood still over it",
    "refused": "could not take it",
}


@dataclass(slots=True)
class _Trial:
    table: TableSnapshot
    fd: int
    canaries: list[Canary]
    begun_s: float


@dataclass(slots=True)
class _Quarantine:
    """A table that nobody else gets."""

    table: TableSnapshot
    fd: int
    canary: Canary  # it may come round yet
    why: str
    next_s: float  # when another table may be tried
    again_s: float  # when this one may


class Publisher:
    """Numbers, seals, tries and sends tables; the newest supersedes those that wait.

    *links* are the workers', by the rows of *board*; without any the *supervisor* gets each table at once.
    """

    def __init__(
        self,
        links: Sequence[socket.socket],
        *,
        supervisor: socket.socket,
        board: Scoreboard,
        inherited: TableSnapshot,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        alive: Callable[[int], bool] = is_alive,
    ) -> None:
        self._links = tuple(links)
        self._supervisor = supervisor
        self._board = board
        self._clock = clock
        self._sleep = sleep
        self._alive = alive
        self._encoder = Encoder()
        self._behind: list[socket.socket] = []
        self._fd = -1  # of the released table
        self._trial: _Trial | None = None
        self._quarantine: _Quarantine | None = None
        self._failures = 0  # in a row
        self._turn = 0
        self._work = asyncio.Event()
        self._acknowledged = 0
        # A worker may be ahead of the supervisor: it was the first to get a table when our predecessor ended.
        heads = [head[cell] for head in board.heads() for cell in (sb.REVISION, sb.TAKING, sb.BROKE_ON)]
        self._first = max([inherited.revision, *heads])
        self.newest = inherited
        self.in_force = inherited  # what all workers were given last
        self.released_s = clock()
        self.counts: Counter[str] = Counter()  # sent, superseded, released, acknowledged, quarantined
        self.on_acknowledged: Callable[[int], None] = lambda _: None  # called with a revision
        self.on_step: Callable[[], None] = lambda: None  # called when anything above may have changed

    @property
    def released(self) -> int:
        """The revision of the table that all workers were given last."""
        return self.in_force.revision

    @property
    def quarantine(self) -> str:
        """Which table is not used and why; "" if none."""
        held = self._quarantine
        return "" if held is None else f"table {held.table.revision} is not used: {held.why}"

    def publish(self, table: TableSnapshot) -> bool:
        """Send *table* under the next revision; return False if it says nothing new.

        It may be a while until it is in force, or it may never be: see `on_step`.
        """
        begun = self.newest.revision > self._first
        if begun and replace(table, revision=self.newest.revision) == self.newest:
            return False
        if self._waits():
            self.counts["superseded"] += 1
        self._number(table)
        self._step()
        return True

    async def run(self) -> None:
        """See every table through, and serve the links that were full, for as long as the process lives."""
        while True:
            await self._work.wait()
            await self._sleep(self._pause_s())
            self._step()

    def close(self) -> None:
        """Let go of all snapshots; the links stay their owners'."""
        for fd in {self._fd, *(one.fd for one in (self._trial, self._quarantine) if one is not None)} - {-1}:
            os.close(fd)
        self._fd, self._trial, self._quarantine = -1, None, None

    # Step by step

    def _step(self) -> None:
        now_s = self._clock()
        if self._trial is not None:
            self._watch(self._trial, now_s)
        if self._quarantine is not None and self._quarantine.canary.judge(now_s) == "taken":
            log.warning("table %d: worker %d has taken it after all", *self._held())
            held, self._quarantine = self._quarantine, None
            self._release(_Trial(held.table, held.fd, [held.canary], now_s), now_s)
        self._serve_behind()  # first: what is in force must not overtake what is tried
        if self._trial is None and self._same_again(now_s):
            self._number(self.newest)  # each trial has its own revision: whoever broke on it broke now
        if self._trial is None and self._waits() and self._may_begin(now_s):
            self._begin(now_s)
            self._serve_behind()
        self._note_acknowledged(now_s)
        busy = self._trial or self._quarantine or self._behind or self._acknowledged < self.released
        if busy:
            self._work.set()
        else:
            self._work.clear()
        self.on_step()

    def _number(self, table: TableSnapshot) -> None:
        self.newest = replace(table, revision=max(self._first, self.newest.revision) + 1)

    def _serve_behind(self) -> None:
        self._behind = [link for link in self._behind if not self._pass_on(link, self.released, self._fd)]

    def _pause_s(self) -> float:
        now_s = self._clock()
        since_s = self.released_s if self._trial is None else self._trial.begun_s
        if self._trial is not None or self._acknowledged < self.released:
            return _LOOK_S if now_s - since_s < _SOON_S else _LOOK_SLOWLY_S
        return _LATE_LINKS_S if self._behind else _IDLE_LOOK_S

    def _waits(self) -> bool:
        """Return whether there is a table that nobody has been given."""
        given = [self.released, self._first]
        given += [one.table.revision for one in (self._trial, self._quarantine) if one is not None]
        return self.newest.revision > max(given)

    def _same_again(self, now_s: float) -> bool:
        held = self._quarantine
        return held is not None and held.table is self.newest and now_s >= held.again_s

    def _may_begin(self, now_s: float) -> bool:
        held = self._quarantine
        if held is None:
            return True
        if replace(self.newest, revision=held.table.revision) == held.table:
            return now_s >= held.again_s
        return now_s >= held.next_s

    def _begin(self, now_s: float) -> None:
        held, self._quarantine = self._quarantine, None
        if held is not None:
            os.close(held.fd)
        fd = snapshots.seal(*self._encoder.parts(self.newest))
        self.counts["sent"] += 1
        self._turn += 1
        self._trial = _Trial(self.newest, fd, [], now_s)
        if not self._links:
            self._release(self._trial, now_s)
        else:
            self._add_canary(self._trial, now_s)

    def _add_canary(self, trial: _Trial, now_s: float, *, only_live: bool = False) -> bool:
        besides = {canary.row for canary in trial.canaries}
        while True:
            row = choose(
                self._board,
                turn=self._turn,
                besides=besides,
                now_s=now_s,
                only_live=only_live,
                alive=self._alive,
            )
            if row is None:
                return False
            canary = Canary(self._board, row, trial.table.revision, now_s=now_s, alive=self._alive)
            if self._pass_on(self._links[row], trial.table.revision, trial.fd):
                trial.canaries.append(canary)
                return True
            besides.add(row)  # its link is full: it has been standing still for long

    def _watch(self, trial: _Trial, now_s: float) -> None:
        outcomes = [(canary, canary.judge(now_s)) for canary in trial.canaries]
        if any(outcome == "taken" for _, outcome in outcomes):
            self._release(trial, now_s)
            return
        for canary, outcome in outcomes:
            if outcome in FAILURES:
                self._put_away(trial, canary, outcome, now_s)
                return
        trial.canaries = [canary for canary, outcome in outcomes if outcome != "lost"]
        if not trial.canaries:
            self._turn += 1
        if all(outcome in ("late", "lost") for _, outcome in outcomes):
            if not self._add_canary(trial, now_s) and self._waits():
                os.close(trial.fd)  # nobody takes it and nobody died of it: a newer one need not wait for it
                self._trial = None
                self.counts["superseded"] += 1
        elif not any(beats(self._board.head(canary.row), now_s) for canary in trial.canaries):
            self._add_canary(trial, now_s, only_live=True)

    def _release(self, trial: _Trial, now_s: float) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._trial, self._fd = None, trial.fd
        self._failures = 0
        self.in_force, self.released_s = trial.table, now_s
        self.counts["released"] += 1
        # The supervisor first: whom it starts from now on begins with this one. And who was tried too: if it
        # has ended just now, its successor may have begun with the table before.
        self._behind = [self._supervisor, *self._links]

    def _put_away(self, trial: _Trial, canary: Canary, outcome: Outcome, now_s: float) -> None:
        wait_s = min(_BACKOFF_S * 2**self._failures, _BACKOFF_MAX_S)
        self._failures += 1
        self.counts["quarantined"] += 1
        self._trial = None
        self._quarantine = _Quarantine(
            table=trial.table,
            fd=trial.fd,
            canary=canary,
            why=f"worker {canary.row} {_WORDS[outcome]}",
            next_s=now_s + wait_s,
            again_s=now_s + wait_s * _SAME_AGAIN,
        )
        log.error(
            "%s; the others go on with table %d, and the next one is tried in %g s",
            self.quarantine,
            self.released,
            wait_s,
        )

    def _held(self) -> tuple[int, int]:
        assert self._quarantine is not None
        return self._quarantine.table.revision, self._quarantine.canary.row

    def _note_acknowledged(self, now_s: float) -> None:
        """Tell when no living worker routes by a table older than the released one."""
        if self._acknowledged >= self.released or self._fd < 0:
            return
        live = [head for head in self._board.heads() if beats(head, now_s) and self._alive(head[sb.PID])]
        if not self._links or (live and min(head[sb.REVISION] for head in live) >= self.released):
            self._acknowledged = self.released
            self.counts["acknowledged"] += 1
            self.on_acknowledged(self.released)

    def _pass_on(self, link: socket.socket, revision: int, fd: int) -> bool:
        try:
            return snapshots.send(link, revision, fd)
        except OSError as exc:
            # A worker that is down leaves its descriptors in flight, and the kernel counts them.
            log.debug("revision %d not taken by link %d: %s", revision, link.fileno(), exc)
            return False
