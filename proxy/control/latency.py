"""How long it takes until a task that has started gets requests, and one that stops gets no new ones.

Both end when every living worker has the table that says so. Both begin where ECS says that they did, by
its clock: so they hold all of the delay, that of ECS in telling us too. Pure but for the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Final

from discovery.model import BackendKey, Endpoint
from proxy.control.compose import check_id, state
from proxy.control.drained import takes_new
from proxy.control.histogram import Histogram
from proxy.link.snapshots import EMPTY, BackendRow, TableSnapshot

_NO_ONE: Final[Mapping[BackendKey, Endpoint]] = {}
_NEVER: Final[Mapping[BackendKey, float]] = {}


class Latency:
    """Writes *routable* and *quiet*. What it keeps is in proportion to the endpoints there are."""

    def __init__(
        self, routable: Histogram, quiet: Histogram, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._routable = routable
        self._quiet = quiet
        self._wall_clock = wall_clock
        self._table = EMPTY  # the newest that has been acknowledged
        self._pending: Set[str] = frozenset()  # sources of which the next word is still the first answer
        self._known: dict[str, Mapping[BackendKey, Endpoint]] = {}  # by service, as are the rest
        self._starting: dict[str, set[BackendKey]] = {}
        self._routable_s: dict[str, dict[BackendKey, float]] = {}  # whose start we have not been told
        self._stopping: dict[str, dict[BackendKey, float]] = {}  # since when
        self._down: dict[str, dict[BackendKey, float]] = {}  # since when it gets nothing at all

    def begin_anew(self, pending: Set[str]) -> None:
        """Take it that other sources are asked now: nothing they say first has happened just now."""
        self._pending = pending
        for kept in (self._known, self._starting, self._routable_s, self._stopping):
            kept.clear()

    def learn(
        self,
        services: Iterable[str],
        facts: Mapping[str, tuple[Endpoint, ...]],
        *,
        heard_s: float,
        pending: Set[str],
    ) -> None:
        """Note what is known of *services* from *heard_s* (Unix time) on.

        *pending* are the sources that have not answered yet. Tasks of a first answer may have run for
        hours: how long they have been waiting for a proxy says nothing about this one.
        """
        for name in services:
            before = self._known.get(name, _NO_ONE)
            now = {endpoint.key: endpoint for endpoint in facts.get(name, ())}
            for key, endpoint in now.items():
                if endpoint is not before.get(key):
                    self._hear(name, before.get(key), endpoint, heard_s)
            for key in before.keys() - now.keys():
                if not before[key].draining:
                    self._stop(name, key, heard_s)
                self._forget_start(name, key)
            if now:
                self._known[name] = now
            else:
                self._known.pop(name, None)
        self._pending = pending

    def acknowledged(self, table: TableSnapshot) -> None:
        """Take it that no living worker routes by an older table than *table*."""
        now_s = self._wall_clock()
        before, self._table = self._table, table
        self._note_down(before, table, now_s)
        for name in list(self._starting):
            rows = table.by_service.get(name, ())
            if rows is not before.by_service.get(name):
                self._note_routable(name, rows, now_s)
        if self._stopping:
            awaited = frozenset(row.name for row in table.services if row.awaited)
            for name in list(self._stopping):
                self._note_quiet(name, table, awaited, now_s)

    def _hear(self, name: str, before: Endpoint | None, now: Endpoint, heard_s: float) -> None:
        if before is None and not now.draining and now.source not in self._pending:
            self._starting.setdefault(name, set()).add(now.key)
        if now.started_at:
            routable_s = _take(self._routable_s, name, now.key)
            if routable_s is not None:
                self._routable.observe(routable_s - now.started_at)
        if not now.draining:
            _take(self._stopping, name, now.key)  # a stop that was taken back
        elif before is not None and not before.draining:
            self._stop(name, now.key, min(heard_s, now.stopping_at or heard_s))

    def _stop(self, name: str, key: BackendKey, since_s: float) -> None:
        if key in self._starting.get(name, ()):
            return  # it never got a request
        down_s = self._down.get(name, _NEVER).get(key)
        if down_s is None:
            self._stopping.setdefault(name, {})[key] = since_s
        elif since_s < down_s:  # its checks have failed, or it has refused, before we heard why
            self._quiet.observe(down_s - since_s)

    def _note_down(self, before: TableSnapshot, table: TableSnapshot, now_s: float) -> None:
        for name, rows in table.by_service.items():
            if rows is before.by_service.get(name):
                continue
            known = self._down.pop(name, _NEVER)
            down = (check_id(row)[1] for row in rows if state(row) == "down")
            if found := {key: known.get(key, now_s) for key in down}:
                self._down[name] = found
        for name in self._down.keys() - table.by_service.keys():
            del self._down[name]

    def _note_routable(self, name: str, rows: Iterable[BackendRow], now_s: float) -> None:
        waiting = self._starting[name]
        for row in rows:
            key = check_id(row)[1]
            if key not in waiting or state(row) != "ready":
                continue
            waiting.discard(key)
            if row.started_at:
                self._routable.observe(now_s - row.started_at)
            else:  # its agent has told of it before ECS did
                self._routable_s.setdefault(name, {})[key] = now_s
        if not waiting:
            del self._starting[name]

    def _note_quiet(self, name: str, table: TableSnapshot, awaited: Set[str], now_s: float) -> None:
        rows = {check_id(row)[1]: row for row in table.by_service.get(name, ())}
        for key, since_s in list(self._stopping[name].items()):
            row = rows.get(key)
            if row is None or state(row) == "down" or not takes_new((row,), table.by_service, awaited):
                self._quiet.observe(now_s - since_s)
                _take(self._stopping, name, key)

    def _forget_start(self, name: str, key: BackendKey) -> None:
        _take(self._routable_s, name, key)
        waiting = self._starting.get(name)
        if waiting is not None:
            waiting.discard(key)
            if not waiting:
                del self._starting[name]


def _take(kept: dict[str, dict[BackendKey, float]], name: str, key: BackendKey) -> float | None:
    """Take out what is kept of a backend; a service of which nothing is kept any more goes with it."""
    of_service = kept.get(name)
    if of_service is None:
        return None
    found = of_service.pop(key, None)
    if not of_service:
        del kept[name]
    return found
