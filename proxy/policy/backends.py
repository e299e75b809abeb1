"""The table as a worker lives with it: each endpoint with its verdict and its load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from discovery.model import BackendKey
from proxy.link.cells import Cells
from proxy.link.snapshots import BackendRow, ServiceRow, TableSnapshot
from proxy.policy.routing import Router, compile_routes, compiled
from proxy.settings import BackendTls
from proxy.steps import ROWS_PER_STEP, Steps, finish, release

# Service, task, container and port: where a backend is in the table, as a port may serve two services. A
# plain tuple of plain values is nothing that the garbage collector has to look at.
_Place: TypeAlias = tuple[str, str, str, int]


class Backend:
    """One task port: what the snapshot says of it, and what this worker knows itself.

    It lives as long as its key is in the table, so whatever hangs on it (idle connections, suspicion)
    dies with the identity and never passes to the next task on the same ip:port.
    """

    __slots__ = (
        "address", "answers", "host", "idle", "in_flight", "place", "port", "ready", "removed", "row",
        "service", "suspect_until_s", "tls",
    )  # fmt: skip

    def __init__(self, row: BackendRow, service: Service, tls: BackendTls | None = None) -> None:
        self.place: _Place = (row.service, row.task_arn, row.container, row.container_port)
        self.service = service
        self.follow(row)
        self.host = row.host
        self.port = row.port
        self.address = f"[{row.host}]:{row.port}" if ":" in row.host else f"{row.host}:{row.port}"
        self.tls = tls  # how to speak with it; a change makes another Backend, with connections of its own
        self.in_flight = 0  # exchanges and tunnels of this worker, to their last byte
        self.suspect_until_s = 0.0  # it refused a connection; others first until then (worker clock)
        self.idle: list[Any] = []  # the pool's: idle connections, newest last
        self.removed = False  # no longer in the table: connections in use end with their exchange

    @property
    def key(self) -> BackendKey:
        return BackendKey(*self.place[1:])

    def follow(self, row: BackendRow) -> None:
        """Be as *row* says."""
        self.row = row
        self.answers = row.healthy and not row.suspended
        self.ready = self.answers and not row.draining

    def __repr__(self) -> str:
        state = "ready" if self.ready else self.row.reason or "not ready"
        return f"<Backend {self.service.name} {self.key.task_arn[-8:]} {self.address} {state}>"


class Service:
    """A service and its backends. One object per name for as long as the name is in the table."""

    __slots__ = (
        "answering", "backends", "by_place", "counters", "eligible", "name", "retries", "row", "rows", "slot",
    )  # fmt: skip

    def __init__(self, name: str, slot: int, counters: Cells) -> None:
        self.name = name
        self.slot = slot
        self.counters = counters  # this worker's block of the scoreboard
        # Both computed when something changes, never per request.
        self.eligible: tuple[Backend, ...] = ()  # may take a new request
        self.answering: tuple[Backend, ...] = ()  # and those that may when `eligible` have failed it
        self.backends: tuple[Backend, ...] = ()
        self.retries = RetryBudget()
        # What it was made of: while both are the same, there is nothing to do for a new table.
        self.row: ServiceRow | None = None
        self.rows: tuple[BackendRow, ...] = ()
        self.by_place: dict[_Place, Backend] = {}


class RetryBudget:
    """How many retries a service may still cause: a share of its recent requests, so that a failing
    service is not hit with a multiple of its load. Counted in two windows of 10 s, the older fading."""

    __slots__ = ("_requests", "_retries", "_window")
    _WINDOW_S = 10.0

    def __init__(self) -> None:
        self._window = 0
        self._requests = 0
        self._retries = 0

    def note_request(self, now_s: float) -> None:
        window = int(now_s / self._WINDOW_S)
        if window != self._window:
            self._turn_to(window)
        self._requests += 1

    def _turn_to(self, window: int) -> None:
        self._requests = self._requests // 2 if window == self._window + 1 else 0
        self._retries = 0
        self._window = window

    def take(self, now_s: float, *, percent: float, minimum_per_s: int) -> bool:
        """Return whether one more retry fits into the budget, and take it."""
        window = int(now_s / self._WINDOW_S)
        if window != self._window:
            self._turn_to(window)
        allowed = max(minimum_per_s * self._WINDOW_S, self._requests * percent / 100)
        if self._retries >= allowed:
            return False
        self._retries += 1
        return True


class Table:
    """All services and backends of this worker. `apply` swaps in the next snapshot."""

    def __init__(self, counters_of: Callable[[int], Cells]) -> None:
        self._counters_of = counters_of  # slot -> the worker's block on the scoreboard
        self._rows: tuple[ServiceRow, ...] = ()
        self._services: dict[str, Service] = {}
        self.router: Router[Service] = compile_routes(())
        self.revision = 0
        self.loaded = False

    def find(self, service: str, key: BackendKey) -> Backend | None:
        """Return the backend of *service* with *key*, ready or not."""
        found = self._services.get(service)
        return None if found is None else found.by_place.get((service, *key))

    def apply(self, snapshot: TableSnapshot) -> list[Backend]:
        """Route by *snapshot* from now on.

        Returns the backends whose idle connections must be closed: gone, moved, or not to be used for
        new requests any more. Exchanges under way keep their backend object and are not disturbed.
        """
        flush: list[Backend] = []
        finish(self.steps(snapshot, flush.append))
        return flush

    def steps(self, snapshot: TableSnapshot, flush: Callable[[Backend], None]) -> Steps[None]:
        """Do what `apply` does in steps, and hand what it would return to *flush*.

        The next table is made beside the one in use and swapped in within one step: whoever looks in
        between sees the one or the other. One snapshot must be finished before the next one begins.
        """
        services: dict[str, Service] = {}
        drafts: list[_Draft] = []  # of the services that are not as they were
        changed: list[tuple[Backend, BackendRow]] = []
        gone: list[Backend] = []
        for index, row in enumerate(snapshot.services):
            if not index % ROWS_PER_STEP:
                yield
            service = self._services.get(row.name)
            if service is None or service.slot != row.slot:
                service = Service(row.name, row.slot, self._counters_of(row.slot))
            services[row.name] = service
            rows = snapshot.by_service.get(row.name, ())
            if rows is not service.rows or (row is not service.row and row != service.row):
                draft = _Draft(service, row, rows)
                drafts.append(draft)
                yield from draft.fill(changed, gone)
        for index, old in enumerate(self._services.values()):
            if not index % ROWS_PER_STEP:
                yield
            if services.get(old.name) is not old:
                yield
                gone += old.backends
        router = self.router
        if snapshot.services != self._rows:
            rules = ((row.hosts, row.path, services[row.name]) for row in snapshot.services)
            router = yield from compiled(rules)
        yield
        # The swap: no step ends within it, and it is a few assignments for each object.
        garbage: list[list[Any]] = [gone, changed]
        for name, old in self._services.items():
            if services.get(name) is not old:
                # For exchanges that still look for one.
                old.backends = old.answering = old.eligible = old.rows = ()
                old.by_place = {}
        for draft in drafts:
            draft.publish()
        for backend in gone:
            backend.removed = True
        for index, (backend, new) in enumerate(changed):
            changed[index] = (backend, backend.row)  # kept until it is freed below, in steps
            backend.follow(new)
        self._services = services
        self.router, self._rows = router, snapshot.services
        self.revision, self.loaded = snapshot.revision, snapshot.loaded
        yield
        # After it: what nobody uses any more is closed, then freed.
        for index, backend in enumerate(gone + [b for b, _ in changed if not b.ready]):
            if not index % ROWS_PER_STEP:
                yield
            flush(backend)
        for pile in garbage:
            yield from release(pile)


class _Draft:
    """What a service is in a table in the making."""

    __slots__ = ("_all_drain", "_answering", "_backends", "_by_place", "_ready", "_row", "_rows", "_service")

    def __init__(self, service: Service, row: ServiceRow, rows: tuple[BackendRow, ...]) -> None:
        self._service = service
        self._row = row
        self._rows = rows
        self._by_place: dict[_Place, Backend] = {}
        self._backends: list[Backend] = []
        self._ready: list[Backend] = []
        self._answering: list[Backend] = []
        self._all_drain = True

    def fill(self, changed: list[tuple[Backend, BackendRow]], gone: list[Backend]) -> Steps[None]:
        """Take the rows in; tell whose row is another one, and who is not there any more."""
        for index, row in enumerate(self._rows):
            if not index % ROWS_PER_STEP:
                yield
            backend = self._carry_over(row)
            if row is not backend.row and row != backend.row:
                changed.append((backend, row))
            self._by_place[backend.place] = backend
            self._add(backend, row)
        for index, backend in enumerate(self._service.backends):
            if not index % ROWS_PER_STEP:
                yield
            if self._by_place.get(backend.place) is not backend:
                gone.append(backend)

    def _carry_over(self, row: BackendRow) -> Backend:
        tls = self._row.tls
        backend = self._service.by_place.get((row.service, row.task_arn, row.container, row.container_port))
        if (
            backend is None
            or backend.port != row.port
            or backend.host != row.host
            or (backend.tls is not tls and backend.tls != tls)
        ):
            return Backend(row, self._service, tls)
        return backend

    def _add(self, backend: Backend, row: BackendRow) -> None:
        """Take *backend* in, which will be as *row* says."""
        self._backends.append(backend)
        if row.healthy and not row.suspended:
            self._answering.append(backend)
            if not row.draining:
                self._ready.append(backend)
        if not row.draining:
            self._all_drain = False

    def publish(self) -> None:
        """Let the service offer this.

        In a deploy the last old task may be stopping before the first new one has passed its check; until
        then a stopping task beats a 503. Where nothing else is to come, "stop" means stop.
        """
        service = self._service
        service.row, service.rows, service.by_place = self._row, self._rows, self._by_place
        service.backends = tuple(self._backends)
        stopped = self._all_drain and not self._row.awaited
        service.answering = () if stopped else tuple(self._answering)
        service.eligible = tuple(self._ready) or service.answering


def why_none(backends: Sequence[Backend]) -> str:
    """Return the reason word for a service without a ready backend: no_task, none_ready, all_suspended."""
    if not backends:
        return "no_task"
    if all(b.row.suspended for b in backends):
        return "all_suspended"
    return "none_ready"
