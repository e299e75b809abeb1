"""Whether a task gets nothing new any more, from any proxy: what `anyport linger` asks before it lets go.

A question, not an order: what is asked here changes no table. But who asks is about to stop, so the sources
are told to look at that task at once.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from discovery.model import Source
from proxy.control.status import Status
from proxy.link.scoreboard import PID, REVISION
from proxy.link.snapshots import BackendRow, TableSnapshot

_TASK_ARN: Final = re.compile(
    r"arn:[a-z0-9-]{1,32}:ecs:[a-z0-9-]{1,32}:[0-9]{12}:task/([\w-]{1,255}/)?[\w-]{1,255}"
)
_REMEMBERED: Final = 2000  # tasks that have been asked about
_FORGOTTEN_S: Final = 600.0  # longer than any stopTimeout
_LOOK_EVERY_S: Final = 0.5  # at one task
_LOOKS_PER_S: Final = 20.0  # at all of them
_QUESTIONS_PER_S: Final = 500.0
_PEER_PATIENCE_S: Final = 0.4  # less than that of `anyport linger`
_PEERS_EVERY_S: Final = 0.1

ALONE: Final = (
    "this proxy cannot speak for others: set [fleet] key on all of them, "
    "or [fleet] alone = true if there are none"
)


class Peers(Protocol):
    """The other proxies of the fleet."""

    def others(self) -> Sequence[str] | None:
        """Return their names; None where it is not known who they are."""
        ...

    async def drained(self, other: str, task_arn: str) -> bool:
        """Return whether *other* says that the task gets nothing new from it; no answer is a no."""
        ...


@dataclass(frozen=True, slots=True)
class Here:
    """What this proxy alone says."""

    known: bool  # whether the task is in its table, or was when it was asked before
    drained: bool
    reason: str


@dataclass(slots=True)
class _Question:
    """One task that is asked about."""

    first_s: float
    seen: bool = False  # in a table, since it has been asked about
    quiet_since: int = 0  # the revision from which on it takes nothing new; 0: it still does
    looked_s: float = float("-inf")
    yes: set[str] = field(default_factory=set)  # peers that have let go of it: they do not take it back
    peers_s: float = float("-inf")
    asking: asyncio.Task[None] | None = None


class Drains:
    """Answers for this proxy, and for the whole fleet. *alone* says whether there is no other proxy."""

    def __init__(
        self,
        status: Status,
        *,
        peers: Peers | None = None,
        alone: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._peers = peers
        self._alone = alone
        self._clock = clock
        self._index = _Index()
        self._questions: dict[str, _Question] = {}
        self._asked = _Bucket(_QUESTIONS_PER_S, clock)
        self._looks = _Bucket(_LOOKS_PER_S, clock)

    def admit(self) -> bool:
        """Return whether one more question may be answered now: anybody may ask."""
        return self._asked.take()

    def here(self, task_arn: str) -> Here:
        """Return what this proxy says: drained if each of its workers has a table that sends nothing new."""
        question = self._question(task_arn)
        table = self._status.table
        rows = self._index.of(table, task_arn)
        question.seen = question.seen or bool(rows)
        reason = self._why_not(task_arn, question, rows, table)
        if reason:
            question.quiet_since = 0
            self._look(task_arn, question)
            return Here(question.seen, False, reason)
        question.quiet_since = question.quiet_since or table.revision
        # Dead ones too: what has stood still for long may go on with the table it had.
        behind = [
            number
            for number, head in enumerate(self._status.board.heads())
            if not head[PID] or head[REVISION] < question.quiet_since
        ]
        if behind:
            return Here(question.seen, False, f"worker {behind[0]} still has an older table")
        return Here(question.seen, True, "it gets nothing new")

    async def everywhere(self, task_arn: str) -> dict[str, Any]:
        """Return the answer to /drained: drained only if every proxy of the fleet says so."""
        here = self.here(task_arn)
        others = self._peers.others() if self._peers is not None else None
        answer = {"task": task_arn, "known": here.known, "drained": False, "proxies": 1, "acknowledged": 0}
        if others is None:
            if here.drained and not self._alone():
                return {**answer, "acknowledged": 1, "alone": True, "reason": ALONE}
            return {
                **answer,
                "drained": here.drained,
                "acknowledged": int(here.drained),
                "reason": here.reason,
            }
        question = self._question(task_arn)
        if here.drained:
            await self._ask_peers(task_arn, question, [name for name in others if name not in question.yes])
        waiting = [name for name in others if name not in question.yes]
        answer["proxies"] = 1 + len(others)
        answer["acknowledged"] = int(here.drained) + len(others) - len(waiting)
        if here.drained and waiting:
            return {**answer, "reason": f"{waiting[0]} has not said that it sends nothing new"}
        return {**answer, "drained": here.drained, "reason": here.reason}

    async def _ask_peers(self, task_arn: str, question: _Question, names: Sequence[str]) -> None:
        """Ask *names* once, however many ask us: those who come meanwhile wait for the same answers."""
        if not names:
            return
        if question.asking is None or question.asking.done():
            if self._clock() - question.peers_s < _PEERS_EVERY_S:
                return
            question.peers_s = self._clock()
            question.asking = asyncio.create_task(self._gather(task_arn, question, names))
        await asyncio.shield(question.asking)

    async def _gather(self, task_arn: str, question: _Question, names: Sequence[str]) -> None:
        async def one(name: str) -> None:
            assert self._peers is not None
            try:
                async with asyncio.timeout(_PEER_PATIENCE_S):
                    if await self._peers.drained(name, task_arn):
                        question.yes.add(name)
            except TimeoutError:
                pass

        await asyncio.gather(*(one(name) for name in names))

    def _why_not(
        self, task_arn: str, question: _Question, rows: Sequence[BackendRow], table: TableSnapshot
    ) -> str:
        if not table.loaded:
            return "the table is not loaded yet"
        if rows:
            return takes_new(rows, table.by_service, self._index.awaited)
        if question.seen:
            return ""  # gone for good: what has left the table does not come back
        sources = self._sources(task_arn)
        if not sources:
            return "this proxy does not watch its cluster"
        asked_s = min(source.status.asked_s or float("-inf") for source in sources)
        # Not heard of, or not yet? A complete answer that is younger than the question says it.
        return "" if asked_s > question.first_s else "this proxy has not heard of it"

    def _look(self, task_arn: str, question: _Question) -> None:
        now_s = self._clock()
        if now_s - question.looked_s >= _LOOK_EVERY_S and self._looks.take():
            question.looked_s = now_s
            for source in self._sources(task_arn):
                source.hurry(task_arn)

    def _sources(self, task_arn: str) -> list[Source]:
        cluster = cluster_of(task_arn)
        return [
            source
            for source in self._status.sources
            if source.name.startswith("ecs:")
            and cluster in ("", source.name.removeprefix("ecs:").partition("@")[0])
        ]

    def _question(self, task_arn: str) -> _Question:
        now_s = self._clock()
        question = self._questions.pop(task_arn, None)
        if question is None or now_s - question.first_s > _FORGOTTEN_S:
            question = _Question(first_s=now_s)
        self._questions[task_arn] = question  # at the end: the oldest is the first
        while len(self._questions) > _REMEMBERED:
            del self._questions[next(iter(self._questions))]
        return question


def is_task_arn(text: str) -> bool:
    """Return whether *text* is the ARN of a task, in either format."""
    return len(text) < 1024 and _TASK_ARN.fullmatch(text) is not None


def cluster_of(task_arn: str) -> str:
    """Return the name of the cluster that a task's ARN names, "" for one of the old format."""
    parts = task_arn.split("/")
    return parts[1] if len(parts) == 3 else ""


def takes_new(
    rows: Iterable[BackendRow],
    by_service: Mapping[str, Sequence[BackendRow]],
    awaited: Set[str] = frozenset(),
) -> str:
    """Return why a task with *rows* may still get new requests, "" if it may not. Pure.

    The same rule as the workers' (`proxy.policy.backends`): a task that drains serves as a last resort while
    its successor starts (*awaited* or seen already), but not where every task of the service drains.
    """
    for row in rows:
        if not row.draining:
            return f"not known to be stopping yet, as a task of {row.service}"
        if row.suspended:
            continue
        others = [other for other in by_service.get(row.service, ()) if not other.draining]
        coming = others or row.service in awaited
        if coming and not any(other.healthy and not other.suspended for other in others):
            return f"it serves {row.service} until its successor is ready"
    return ""


class _Index:
    """The rows of each task in the newest table, made anew only for services that have changed."""

    def __init__(self) -> None:
        self._rows: dict[str, Sequence[BackendRow]] = {}  # by service
        self._services: dict[str, set[str]] = {}  # by task: the services that it is in
        self.awaited: frozenset[str] = frozenset()  # services that tasks are on their way to
        self._table: TableSnapshot | None = None

    def of(self, table: TableSnapshot, task_arn: str) -> list[BackendRow]:
        if table is not self._table:
            self._follow(table)
        names = sorted(self._services.get(task_arn, ()))
        return [row for name in names for row in self._rows[name] if row.task_arn == task_arn]

    def _follow(self, table: TableSnapshot) -> None:
        self._table = table
        self.awaited = frozenset(row.name for row in table.services if row.awaited)
        for name in [name for name in self._rows if name not in table.by_service]:
            self._change(name, ())
            del self._rows[name]
        for name, rows in table.by_service.items():
            if rows is not self._rows.get(name):
                self._change(name, rows)

    def _change(self, name: str, rows: Sequence[BackendRow]) -> None:
        for row in self._rows.get(name, ()):
            services = self._services.get(row.task_arn, set())
            services.discard(name)
            if not services:
                self._services.pop(row.task_arn, None)
        self._rows[name] = rows
        for row in rows:
            self._services.setdefault(row.task_arn, set()).add(name)


class _Bucket:
    """So many per second, and as many at once."""

    def __init__(self, per_s: float, clock: Callable[[], float]) -> None:
        self._per_s = self._left = per_s
        self._clock = clock
        self._at_s = clock()

    def take(self) -> bool:
        now_s = self._clock()
        self._left = min(self._per_s, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
