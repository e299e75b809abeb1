"""Facts, verdicts and what was inherited in, the workers' table out. No I/O.

A change costs what has changed: a service is looked at again when something has been said of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal, TypeVar

from discovery.addresses import Place
from discovery.model import BackendKey, Endpoint, Service, Snapshot
from proxy.control.health.check import Target, host_header, proves_identity
from proxy.control.health.schedule import CheckId
from proxy.link.snapshots import EMPTY, BackendRow, ServiceRow, TableSnapshot
from proxy.policy.verdict import NOT_CHECKED, Verdict, carried
from proxy.settings import BackendTls, IdentityCheck, WorkerSettings

State = Literal["ready", "draining", "down"]


def state(row: BackendRow) -> State:
    """Return what *row* may take: new sessions, the sessions it has, or nothing."""
    if row.suspended or not row.healthy:
        return "down"
    return "draining" if row.draining else "ready"


def check_id(row: BackendRow) -> CheckId:
    """Return the name under which *row* is checked."""
    return row.service, BackendKey(row.task_arn, row.container, row.container_port)


def address(row: BackendRow) -> str:
    """Return "ip:port" of *row*."""
    return f"[{row.host}]:{row.port}" if ":" in row.host else f"{row.host}:{row.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What the sources have said so far, merged. What did not change since the last is the same object."""

    facts: Snapshot
    suspended: Mapping[str, Mapping[BackendKey, str]]  # by service
    claims: Mapping[Place, tuple[Endpoint, ...]]  # who is said to answer where; as of now
    pending: frozenset[str]  # names of the sources that have not given a complete answer
    stale: frozenset[str] = frozenset()  # names of those whose knowledge is old
    tls: Mapping[str, BackendTls] = field(default_factory=dict)  # of the services whose backends speak it


Judge = Callable[[str, BackendKey], Verdict | None]

_NOTHING: Final = Knowledge(
    facts=Snapshot(source="table"),
    suspended=MappingProxyType({}),
    claims=MappingProxyType({}),
    pending=frozenset(),
)
_NO_LOSS: Final[Mapping[BackendKey, str]] = MappingProxyType({})
_STARTING: Final = "starting: "


class Composer:
    """Makes one table after the other. *slot* says which block of the scoreboard counts for a service."""

    def __init__(self, slot: Callable[[str], int]) -> None:
        self._slot = slot
        self._known = _NOTHING
        self._base = EMPTY
        self._base_services: dict[str, ServiceRow] = {}
        self._base_at: dict[Place, set[str]] = {}  # which services have rows in the base at an address
        self._services: dict[str, ServiceRow] = {}
        self._lines: tuple[ServiceRow, ...] = ()
        self._rows: Mapping[str, tuple[BackendRow, ...]] = MappingProxyType({})
        self._changed: set[str] = set()  # learnt, but not composed yet
        self._reordered = False  # the services may not be those they were, or in another order

    def learn(self, known: Knowledge, base: TableSnapshot) -> set[str]:
        """Note what is known now; return the services whose facts are not what they were.

        *base* is the table of a previous control process or configuration. What no source has spoken of
        yet is kept from it, so that a restart during an outage of the API takes nothing away.
        """
        before, self._known = self._known, known
        facts = known.facts
        changed = _differing(before.facts.by_service, facts.by_service)
        changed |= _differing(before.facts.services, facts.services)
        changed |= _differing(before.suspended, known.suspended)
        changed |= before.facts.awaited ^ facts.awaited
        changed |= _differing(before.tls, known.tls)
        if known.stale != before.stale:
            changed |= {row.name for row in self._services.values() if row.identity is not None}
        if base is not self._base or known.pending != before.pending:
            changed |= self._base_services.keys() | {row.name for row in base.services}
            self._base = base
            self._base_services = {row.name: row for row in base.services}
            self._base_at = _by_place(base) if known.pending else {}
            self._reordered = True
        elif known.pending:
            changed |= self._displaced(changed, before)
        self._changed |= changed
        if facts.services is not before.facts.services:
            self._reordered = True
        return changed

    def kept(self, service: str) -> tuple[BackendRow, ...]:
        """Return the rows of the base that no source has spoken of yet.

        A source that has answered without naming a task has said that it is gone, and an address that a
        source gives to another task is that task's.
        """
        known = self._known
        if not known.pending:
            return ()
        named = {endpoint.key for endpoint in known.facts.by_service.get(service, ())}
        return tuple(
            row
            for row in self._base.by_service.get(service, ())
            if self._unspoken(row)
            and check_id(row)[1] not in named
            and (row.host, row.port) not in known.claims
        )

    def table(self, *, verdict: Judge, touched: Set[str], settings: WorkerSettings) -> TableSnapshot:
        """Return the table to send, with revision 0. *touched*: services of which a verdict has changed."""
        known, base = self._known, self._base
        services, again = self._services, self._reordered
        made: dict[str, tuple[BackendRow, ...]] = {}
        for name in self._changed | touched:
            service = self._service(name)
            if service is not services.get(name):
                again = True
            if service is None:
                services.pop(name, None)
                continue
            services[name] = service
            rows = tuple(self._made(name, service, verdict))
            if rows != self._rows.get(name):
                made[name] = rows
        self._changed, self._reordered = set(), False
        if again:
            names = [*known.facts.services]
            if known.pending:
                names += (name for name in self._base_services if name not in known.facts.services)
            lines = tuple(services[name] for name in names)
            self._lines = self._lines if lines == self._lines else lines
            every = {**self._rows, **made}
            self._rows = MappingProxyType({name: every[name] for name in names})
        elif made:
            self._rows = MappingProxyType({**self._rows, **made})
        return TableSnapshot(
            revision=0,
            loaded=base.loaded or not known.pending,
            services=self._lines,
            by_service=self._rows,
            settings=settings,
        )

    def _displaced(self, changed: Set[str], before: Knowledge) -> set[str]:
        """Return the services that have rows in the base where endpoints of those in *changed* come or go."""
        found: set[str] = set()
        for name in changed:
            for facts in (before.facts, self._known.facts):
                for endpoint in facts.by_service.get(name, ()):
                    found |= self._base_at.get((endpoint.host, endpoint.port), set())
        return found

    def _unspoken(self, row: BackendRow) -> bool:
        if row.source:
            # Else it has answered, or the configuration has let go of it.
            return row.source in self._known.pending
        return row.service not in self._known.facts.services

    def _service(self, name: str) -> ServiceRow | None:
        """Return how the workers know a service; the same object as long as it is the same."""
        known = self._known
        before = self._services.get(name)
        service = known.facts.services.get(name)
        if service is not None:
            made = ServiceRow(
                name=name,
                slot=self._slot(name),
                hosts=service.hosts,
                path=service.path,
                tls=known.tls.get(name),
                identity=identity_check(service),
                awaited=name in known.facts.awaited,
            )
        elif known.pending and name in self._base_services:
            made = replace(self._base_services[name], slot=self._slot(name))
        else:
            return None
        return before if before == made else made

    def _made(self, name: str, service: ServiceRow, verdict: Judge) -> Iterable[BackendRow]:
        """Yield the rows of a service; each is the object it was as long as it is the same."""
        known = self._known
        before = {check_id(row): row for row in self._rows.get(name, ())}
        lost = known.suspended.get(name, _NO_LOSS)
        doubted = known.stale if service.identity is not None else frozenset()
        for endpoint in known.facts.by_service.get(name, ()):
            found = verdict(name, endpoint.key)
            row = _row(endpoint, found, lost=lost, confirm=endpoint.source in doubted)
            former = before.get((name, endpoint.key))
            yield former if former == row else row
        for kept in self.kept(name):
            row = replace(_with_verdict(kept, verdict(*check_id(kept))), confirm=kept.source in doubted)
            former = before.get(check_id(row))
            yield former if former == row else row


V = TypeVar("V")


def _differing(before: Mapping[str, V], now: Mapping[str, V]) -> set[str]:
    """Return the names under which the two do not have the same object."""
    if before is now:
        return set()
    get = before.get
    names = {name for name, value in now.items() if get(name) is not value}
    return names | (before.keys() - now.keys())


def _by_place(base: TableSnapshot) -> dict[Place, set[str]]:
    found: dict[Place, set[str]] = {}
    for row in base.backends:
        found.setdefault((row.host, row.port), set()).add(row.service)
    return found


def identity_check(service: Service) -> IdentityCheck | None:
    """Return how backends of *service* prove whose they are; None: nobody asks them."""
    check = service.health
    if not proves_identity(check):
        return None
    return IdentityCheck(
        path=check.path,
        host=host_header(service),
        header=check.identity_header,
        body=check.identity_body,
        timeout_s=check.timeout_s,
    )


def inherited(base: TableSnapshot, targets: Iterable[Target], now_s: float) -> dict[CheckId, Verdict]:
    """Return the verdicts *base* holds on *targets*: on the same identity at the same address."""
    found: dict[CheckId, Verdict] = {}
    rows: dict[tuple[str, BackendKey, str, int], BackendRow] = {}
    for service in {target.service for target in targets}:
        rows |= {(*check_id(row), row.host, row.port): row for row in base.by_service.get(service, ())}
    for target in targets:
        row = rows.get((target.service, target.key, target.host, target.port))
        if row is not None:
            found[target.service, target.key] = carried(row.healthy, _check_reason(row), now_s)
    return found


def _check_reason(row: BackendRow) -> str:
    """Return why the checks have failed; "" if the reason is another one."""
    return "" if row.draining or row.suspended or row.reason.startswith(_STARTING) else row.reason


def _row(
    endpoint: Endpoint, found: Verdict | None, *, lost: Mapping[BackendKey, str], confirm: bool
) -> BackendRow:
    key = endpoint.key
    healthy = found is not None and found.healthy and not endpoint.starting
    return BackendRow(
        service=endpoint.service,
        task_arn=endpoint.task_arn,
        container=endpoint.container,
        container_port=endpoint.container_port,
        host=endpoint.host,
        port=endpoint.port,
        healthy=healthy,
        draining=endpoint.draining,
        suspended=key in lost,
        reason=lost.get(key, "") or _reason(endpoint, found),
        zone=endpoint.zone,
        instance=endpoint.instance,
        release=endpoint.release,
        started_at=endpoint.started_at,
        source=endpoint.source,
        confirm=confirm,
    )


def _reason(endpoint: Endpoint, found: Verdict | None) -> str:
    if endpoint.draining and endpoint.reason:
        return endpoint.reason
    if endpoint.starting:
        return _STARTING + (endpoint.reason or "its container is not healthy yet")
    return found.reason if found is not None else NOT_CHECKED


def _with_verdict(row: BackendRow, found: Verdict | None) -> BackendRow:
    if found is None or found.healthy == row.healthy or row.reason.startswith(_STARTING):
        return row
    reason = row.reason if row.draining or row.suspended else found.reason
    return replace(row, healthy=found.healthy, reason=reason)
