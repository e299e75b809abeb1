"""What the control process knows and does: sources in, verdicts on top, snapshots out."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata

from discovery.model import BackendKey, Problem, Snapshot, Source
from discovery.table import BackendTable
from proxy.config import Config
from proxy.control import compose, sources
from proxy.control.backend_files import BackendFiles
from proxy.control.certificates import Certificates
from proxy.control.changes import changes
from proxy.control.doubts import Doubts
from proxy.control.health.check import Target, target
from proxy.control.health.schedule import CheckId, Monitor
from proxy.control.latency import Latency
from proxy.control.publish import Publisher
from proxy.control.slots import Slots
from proxy.control.status import Status, confirmed_s
from proxy.link import reports
from proxy.link.scoreboard import SERVICE_SLOTS, Scoreboard
from proxy.link.snapshots import EMPTY, TableSnapshot
from proxy.policy.verdict import CheckResult, Verdict

log = logging.getLogger("anyport.control")

_SPACING_S = 0.02  # between two snapshots: a deploy of fifty tasks is a few tables, not fifty
_AT_ONCE = 2  # but after a pause no waiting: a task that has come and the check it has passed
_DOUBT_S = 0.05  # between two looks at whether a refused backend has been confirmed
_SOURCE_RETRY_S = 5.0
_AGE_S = 0.5  # between two looks at how old the knowledge of the sources is
_ALL_SPOKEN = replace(EMPTY, loaded=True)  # the base once no source is pending: nothing is kept


class ControlPlane:
    """The state of the control process, and the few things that happen to it."""

    def __init__(
        self,
        config: Config,
        *,
        group: asyncio.TaskGroup,
        check: Callable[[Target], Awaitable[CheckResult | None]],
        links: Sequence[socket.socket],
        supervisor: socket.socket,
        board: Scoreboard,
        inherited: TableSnapshot,
        build: Callable[[Config], tuple[Source, ...]] = sources.build,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._group = group
        self._build = build
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._base = inherited
        self._composer = compose.Composer(
            Slots(inherited, count=SERVICE_SLOTS, unused=lambda slot: not any(board.totals(slot)))
        )
        self._publisher = Publisher(
            links, supervisor=supervisor, board=board, inherited=inherited, clock=clock, sleep=sleep
        )
        self._publisher.on_step = self._note_published
        self._changed = asyncio.Event()
        self._touched: set[str] = set()  # services of which a verdict has changed since the newest table
        self._certificates = Certificates(inherited.settings.listeners, on_change=self._changed.set)
        self._backend_files = BackendFiles(on_change=self._changed.set)
        self._monitor = Monitor(group, check, on_change=self._touch, clock=clock, rng=rng or random.Random())
        self._watching: list[asyncio.Task[None]] = []
        self._table = BackendTable(())
        self._since_s = clock()  # when these sources were first asked
        self._known_stale: frozenset[str] = frozenset()
        self._doubts = Doubts(clock)
        self._doubted = asyncio.Event()
        self.status = Status(
            board=board,
            version=metadata.version("anyport"),
            table=inherited,
            published_at_s=clock(),
            checks=self._monitor.results,
            foreign=self._monitor.foreign,
        )
        self._latency = Latency(self.status.routable, self.status.quiet, wall_clock=wall_clock)
        self._heard_s: float | None = None  # when the first news came that are in no table yet
        self._publisher.on_acknowledged = lambda _: self._latency.acknowledged(self._publisher.in_force)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Publish at once what is known already, then begin to learn."""
        try:
            self._rewire()
            self._follow_listeners()
            self._publish()
            self._group.create_task(self._publish_changes(), name="publish changes")
            self._group.create_task(self._publisher.run(), name="see tables through")
            self._group.create_task(self._settle_doubts(), name="settle doubts")
            self._group.create_task(self._watch_age(), name="watch the age of sources")
            self._group.create_task(self._certificates.run(), name="follow certificates")
            self._group.create_task(self._backend_files.run(), name="follow files for TLS to backends")
            yield
        finally:
            self._publisher.close()

    def admin_token(self) -> str:
        """Return the token that the admin server asks for, "" if none."""
        return self._config.admin.token.get_secret_value()

    def alone(self) -> bool:
        """Return whether the configuration says that there is no other proxy."""
        return self._config.fleet.alone

    def on_reports(self, link: socket.socket) -> None:
        """Act on what a worker has sent: a backend that refuses is out until it is confirmed, one in whose
        place somebody else answers until it proves itself."""
        for report in reports.receive(link):
            check_id = (report.service, report.key)
            source = self._source_of(check_id)
            if self._monitor.target(check_id) is None or source is None:
                continue
            if isinstance(report, reports.Mistaken):
                self._monitor.mistaken(check_id, report.reason)
                source.hurry(report.key.task_arn)
                continue
            self._monitor.refused(check_id)
            self._doubts.add(check_id, source)
            self._touch(report.service)
            self._doubted.set()
            source.hurry(report.key.task_arn)

    def _source_of(self, check_id: CheckId) -> Source | None:
        rows = self.status.table.by_service.get(check_id[0], ())
        name = next((row.source for row in rows if compose.check_id(row) == check_id), "")
        return next((source for source in self.status.sources if source.name == name), None)

    async def _settle_doubts(self) -> None:
        while True:
            await self._doubted.wait()
            while self._doubts:
                known = self._table.snapshot.by_service
                draining = {
                    (service, key): endpoint.draining
                    for service, key in self._doubts
                    for endpoint in known.get(service, ())
                    if endpoint.key == key
                }
                for service, _ in self._doubts.settle(draining, self._is_spared):
                    self._touch(service)
                await self._sleep(_DOUBT_S)
            self._doubted.clear()

    def _is_spared(self, check_id: CheckId) -> bool:
        """Return whether the service has other ready backends."""
        rows = self.status.table.by_service.get(check_id[0], ())
        return any(compose.state(row) == "ready" and compose.check_id(row) != check_id for row in rows)

    async def _watch_age(self) -> None:
        while True:
            await self._sleep(_AGE_S)
            if self._stale() != self._known_stale:
                self._changed.set()

    def _stale(self) -> frozenset[str]:
        """Return the sources whose knowledge is old: their rows have to be proven before they are used."""
        now_s = self._clock()
        return frozenset(
            source.name
            for source in self.status.sources
            if now_s - confirmed_s(source.status, self._since_s) > source.status.stale_after_s
        )

    def _touch(self, service: str) -> None:
        self._touched.add(service)
        self._changed.set()

    def _verdict(self, service: str, key: BackendKey) -> Verdict | None:
        return self._doubts.apply((service, key), self._monitor.verdict(service, key))

    def drain(self) -> None:
        """Say on /readyz that this proxy is going away; all else goes on."""
        self.status.draining = True

    def reload(self, new: Config) -> None:
        """Follow *new* as far as a running process can."""
        old, self._config = self._config, new
        for key in _needing_restart(old, new):
            log.warning("%s changed: this needs a restart and is ignored until then", key)
        if not sources.same(old, new):
            self._base = self.status.table
            self._rewire()
        self._follow_listeners()
        self._changed.set()

    def _follow_listeners(self) -> None:
        self._certificates.follow([listener.settings() for listener in self._config.listener])

    def _rewire(self) -> None:
        for task in self._watching:
            task.cancel()
        built = self._build(self._config)
        self._table = BackendTable(source.name for source in built)
        self._since_s = self._clock()
        self.status.sources, self.status.since_s = built, self._since_s
        self.status.pending = frozenset(source.name for source in built)
        self._latency.begin_anew(self.status.pending)
        self._watching = [
            self._group.create_task(self._follow(source, self._table), name=f"follow {source.name}")
            for source in built
        ]

    async def _follow(self, source: Source, table: BackendTable) -> None:
        while True:
            try:
                async for snapshot in source.watch():
                    self._learn(table, snapshot)
            except Exception as exc:
                # A source promises not to raise. If one does, the others must not suffer for it.
                log.exception("source %s failed; its last answer still stands", source.name)
                source.status.last_error = f"internal error ({type(exc).__name__}); the log has the details"
                source.status.errors["other"] += 1
            else:
                return
            await self._sleep(_SOURCE_RETRY_S)

    def _learn(self, table: BackendTable, snapshot: Snapshot) -> None:
        table.apply(snapshot)
        if self._heard_s is None:
            self._heard_s = self._wall_clock()
        if snapshot.complete:
            self.status.pending -= {snapshot.source}
        self._changed.set()

    async def _publish_changes(self) -> None:
        credit, counted_s = float(_AT_ONCE), self._clock()
        while True:
            await self._changed.wait()
            self._changed.clear()
            now_s = self._clock()
            credit = min(_AT_ONCE, credit + (now_s - counted_s) / _SPACING_S) - 1
            counted_s = now_s
            self._publish()
            await self._sleep(max(0.0, 1 - credit) * _SPACING_S)

    def _publish(self) -> None:
        facts = self._table.snapshot
        self._known_stale = self.status.stale = self._stale()
        known = compose.Knowledge(
            facts=facts,
            suspended=self._table.suspended,
            claims=self._table.claims,
            pending=self.status.pending,
            stale=self._known_stale,
            tls=self._backend_files.settings(facts.services),
        )
        changed = self._composer.learn(known, self._base)
        for service in changed:
            self._watch(service, known)
        heard_s, self._heard_s = self._heard_s or self._wall_clock(), None
        self._latency.learn(changed, facts.by_service, heard_s=heard_s, pending=known.pending)
        self._report(facts.problems)
        touched, self._touched = self._touched, set()
        table = self._composer.table(
            verdict=self._verdict,
            touched=touched,
            settings=replace(self._config.worker_settings(), listeners=self._certificates.listeners),
        )
        self.status.certificates = self._certificates.expiries()
        if not known.pending:
            self._base = _ALL_SPOKEN
        self._publisher.publish(table)

    def _note_published(self) -> None:
        status, publisher = self.status, self._publisher
        status.quarantine, status.tables = publisher.quarantine, publisher.counts
        if status.table is not publisher.in_force:
            for line in changes(status.table, publisher.in_force):
                log.info("%s", line)
            status.table, status.published_at_s = publisher.in_force, publisher.released_s

    def _watch(self, name: str, known: compose.Knowledge) -> None:
        """Check what is known of one service now, and nothing else of it."""
        service = known.facts.services.get(name)
        lost = known.suspended.get(name, {})
        targets: list[Target] = []
        if service is not None:
            # A suspended backend is not checked: what answers there is another service's task.
            targets += (
                target(endpoint, service, known.tls.get(name))
                for endpoint in known.facts.by_service.get(name, ())
                if endpoint.key not in lost
            )
        # What is only kept from before a reload goes on being checked the way it was.
        former = (self._monitor.target(compose.check_id(row)) for row in self._composer.kept(name))
        targets += (kept for kept in former if kept is not None)
        self._monitor.watch(name, targets, compose.inherited(self._base, targets, self._clock()))

    def _report(self, problems: tuple[Problem, ...]) -> None:
        if problems is self.status.problems:
            return
        said = set(self.status.problems)
        for problem in problems:
            if problem not in said:
                log.warning("%s: %s", problem.where, problem.what)
        self.status.problems = problems


def _needing_restart(old: Config, new: Config) -> Iterable[str]:
    if old.workers != new.workers:
        yield "workers"
    if old.handoff != new.handoff:
        yield "handoff"
    if [listener.address for listener in old.listener] != [listener.address for listener in new.listener]:
        yield "[[listener]] address"
    if old.metrics.address != new.metrics.address:
        yield "[metrics] address"
    if old.admin.address != new.admin.address:
        yield "[admin] address"
