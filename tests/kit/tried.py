"""A publisher among workers of the test's making: real links and scoreboard, a clock that only it moves."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Literal

from proxy.control.publish import Publisher
from proxy.link import scoreboard as sb
from proxy.link import snapshots
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import EMPTY, ServiceRow, TableSnapshot

Manner = Literal["takes", "dies", "stalls", "refuses", "leaves", "ignores"]


def table(*names: str) -> TableSnapshot:
    """Return a table of services with these names, which tell it from others."""
    rows = tuple(ServiceRow(name=name, slot=1, hosts=(), path="/") for name in names)
    return replace(EMPTY, services=rows)


@dataclass(slots=True)
class Hand:
    """A worker in one row. *manner*: what it does with a table that has the service "poison"."""

    row: int
    far: socket.socket
    manner: Manner = "takes"
    pid: int = 0
    beating: bool = True
    reading: bool = True


class World:
    """*workers* workers that are up, and a publisher whose every pause lets them act."""

    def __init__(self, workers: int, *, inherited: TableSnapshot = EMPTY, started: bool = True) -> None:
        self.now_s = 1000.0
        self.board = Scoreboard.create(max(1, workers))
        pairs = [snapshots.make_link() for _ in range(workers)]
        self.near = [near for near, _ in pairs]
        self.hands = [Hand(row, far) for row, (_, far) in enumerate(pairs)]
        self._supervisor, self.supervisor = snapshots.make_link()
        self.kept = inherited.revision  # with which table the supervisor starts a worker
        self.deaths: list[int] = []  # rows
        self.given: list[tuple[str, int]] = []  # who read which revision, in order
        self.acknowledged: list[int] = []
        self._pids = 100
        self._alive: set[int] = set()
        for hand in self.hands if started else []:
            self.start(hand.row)
        self.publisher = Publisher(
            self.near,
            supervisor=self._supervisor,
            board=self.board,
            inherited=inherited,
            clock=lambda: self.now_s,
            sleep=self._sleep,
            alive=self._alive.__contains__,
        )
        self.publisher.on_acknowledged = self.acknowledged.append

    async def _sleep(self, delay_s: float) -> None:
        self.now_s += delay_s
        self._act()
        await asyncio.sleep(0)

    def start(self, row: int) -> None:
        """Start a worker as the supervisor does: with the table that it keeps, then what the link holds."""
        self._keep()
        hand = self.hands[row]
        self._pids += 1
        hand.pid, hand.beating = self._pids, True
        self._alive.add(hand.pid)
        self.board.begin(row, hand.pid)
        self.board.head(row)[sb.REVISION] = self.kept

    def die(self, row: int) -> None:
        """End the worker; its row stays as it is until there is another."""
        self._alive.discard(self.hands[row].pid)
        self.deaths.append(row)

    def revision(self, row: int) -> int:
        return self.board.head(row)[sb.REVISION]

    def come_round(self, row: int) -> None:
        """Let a worker that stands still over a table take it after all."""
        head = self.board.head(row)
        head[sb.REVISION], head[sb.TAKING] = head[sb.TAKING], 0
        self.hands[row].beating = True

    async def until(self, holds: Callable[[], object], *, within_s: float = 600.0) -> None:
        """Let time pass until *holds* does."""
        end_s = self.now_s + within_s
        while not holds():
            assert self.now_s < end_s, f"not within {within_s} s of its clock; {self.publisher.counts}"
            before_s = self.now_s
            await asyncio.sleep(0)
            if self.now_s == before_s:  # the publisher waits for nothing
                self.now_s += 0.001
                self._act()

    async def pass_s(self, seconds: float) -> None:
        """Let so much time pass."""
        end_s = self.now_s + seconds
        await self.until(lambda: self.now_s >= end_s)

    def _keep(self) -> None:
        found = _newest(self.supervisor)
        if found is not None:
            self.kept = found.revision
            self.given.append(("supervisor", found.revision))

    def _act(self) -> None:
        self._keep()
        for hand in self.hands:
            if hand.pid in self._alive:
                self._work(hand)

    def _work(self, hand: Hand) -> None:
        head = self.board.head(hand.row)
        if hand.beating:
            head[sb.HEARTBEAT_MS] = int(self.now_s * 1000)
        if not hand.reading or not hand.beating:
            return
        found = _newest(hand.far)
        if found is None:
            return
        self.given.append((f"worker {hand.row}", found.revision))
        if found.revision <= head[sb.REVISION]:
            return
        poisoned = any(service.name == "poison" for service in found.services)
        manner = hand.manner if poisoned else "takes"
        head[sb.TAKING] = found.revision
        if manner == "takes":
            head[sb.REVISION], head[sb.TAKING] = found.revision, 0
        elif manner == "dies":
            self.die(hand.row)
        elif manner == "stalls":
            hand.beating = False
        elif manner == "refuses":
            head[sb.SNAPSHOTS_REJECTED] += 1
            head[sb.BROKE_ON], head[sb.TAKING] = found.revision, 0
        elif manner == "leaves":  # ends of something else, with the table unread
            head[sb.TAKING] = 0
            self.die(hand.row)
        else:
            head[sb.TAKING] = 0


def _newest(link: socket.socket) -> TableSnapshot | None:
    found = snapshots.receive_newest(link)
    if found is None:
        return None
    try:
        read = snapshots.decode(snapshots.read(found[1]))
    finally:
        os.close(found[1])
    assert read.revision == found[0]
    return read


@asynccontextmanager
async def world(
    workers: int = 2, *, inherited: TableSnapshot = EMPTY, started: bool = True
) -> AsyncIterator[World]:
    """Run a publisher among so many workers."""
    made = World(workers, inherited=inherited, started=started)
    made._act()
    running = asyncio.create_task(made.publisher.run())
    try:
        yield made
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        made.publisher.close()
        for sock in (*made.near, *(hand.far for hand in made.hands), made._supervisor, made.supervisor):
            sock.close()
        os.close(made.board.fd)
