"""Facts, verdicts and what was inherited in, the workers' table out. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from discovery.model import BackendKey, Endpoint, Service, Snapshot
from proxy.control.health.check import Target, host_header, proves_identity
from proxy.control.health.schedule import CheckId
from proxy.link.snapshots import BackendRow, ServiceRow, TableSnapshot, by_service
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
    """What the sources have said so far, merged."""

    facts: Snapshot
    suspended: Mapping[str, Mapping[BackendKey, str]]  # by service
    answered: frozenset[str]  # names of the sources that have given a complete answer
    pending: frozenset[str]  # names of those that have not


def compose(
    known: Knowledge,
    *,
    base: TableSnapshot,
    verdict: Callable[[str, BackendKey], Verdict | None],
    slot: Callable[[str], int],
    settings: WorkerSettings,
    tls: Mapping[str, BackendTls] = MappingProxyType({}),
) -> TableSnapshot:
    """Return the table to send, with revision 0.

    *tls* has the services whose backends speak TLS, by name.

    *base* is the table of a previous control process or configuration. What no source has spoken of yet is
    kept from it, so that a restart during an outage of the API takes nothing away.
    """
    kept = kept_rows(known, base)
    services = [
        ServiceRow(
            name=name,
            slot=slot(name),
            hosts=service.hosts,
            path=service.path,
            tls=tls.get(name),
            identity=identity_check(service),
        )
        for name, service in known.facts.services.items()
    ]
    if known.pending:
        services += (
            replace(row, slot=slot(row.name)) for row in base.services if row.name not in known.facts.services
        )
    backends = [_row(endpoint, known, verdict) for endpoint in known.facts.endpoints]
    backends += (_with_verdict(row, verdict(*check_id(row))) for row in kept)
    return TableSnapshot(
        revision=0,
        loaded=base.loaded or not known.pending,
        services=tuple(services),
        by_service=by_service(backends),
        settings=settings,
    )


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


def kept_rows(known: Knowledge, base: TableSnapshot) -> tuple[BackendRow, ...]:
    """Return the rows of *base* that no source has spoken of yet.

    A source that has answered without naming a task has said that it is gone, and an address that a
    source gives to another task is that task's.
    """
    if not known.pending:
        return ()
    named = {(endpoint.service, endpoint.key) for endpoint in known.facts.endpoints}
    taken = {(endpoint.host, endpoint.port) for endpoint in known.facts.endpoints}
    return tuple(
        row
        for row in base.backends
        if check_id(row) not in named and (row.host, row.port) not in taken and _unspoken(row, known)
    )


def _unspoken(row: BackendRow, known: Knowledge) -> bool:
    owner = source_of(row.task_arn)
    if owner:
        return owner in known.pending  # else it has answered, or the configuration has let go of it
    return row.service not in known.facts.services


def source_of(task_arn: str) -> str:
    """Return the name of the source that a task comes from, "" if its ARN does not tell (the old format)."""
    if task_arn.startswith("static:"):
        return "static"
    parts = task_arn.split("/")
    return f"ecs:{parts[1]}" if len(parts) == 3 else ""


def inherited(base: TableSnapshot, targets: Iterable[Target], now_s: float) -> dict[CheckId, Verdict]:
    """Return the verdicts *base* holds on *targets*: on the same identity at the same address."""
    rows = {(*check_id(row), row.host, row.port): row for row in base.backends}
    found = {}
    for target in targets:
        row = rows.get((target.service, target.key, target.host, target.port))
        if row is not None:
            found[target.service, target.key] = carried(row.healthy, _check_reason(row), now_s)
    return found


def _check_reason(row: BackendRow) -> str:
    return "" if row.draining or row.suspended else row.reason


def _row(
    endpoint: Endpoint, known: Knowledge, verdict: Callable[[str, BackendKey], Verdict | None]
) -> BackendRow:
    found = verdict(endpoint.service, endpoint.key)
    healthy = found is not None and found.healthy
    lost = known.suspended.get(endpoint.service, {})
    rival = lost.get(endpoint.key, "")
    check_reason = found.reason if found is not None else NOT_CHECKED
    return BackendRow(
        service=endpoint.service,
        task_arn=endpoint.task_arn,
        container=endpoint.container,
        container_port=endpoint.container_port,
        host=endpoint.host,
        port=endpoint.port,
        healthy=healthy,
        draining=endpoint.draining,
        suspended=endpoint.key in lost,
        reason=rival or (endpoint.reason if endpoint.draining else "") or check_reason,
        zone=endpoint.zone,
        instance=endpoint.instance,
        release=endpoint.release,
        started_at=endpoint.started_at,
    )


def _with_verdict(row: BackendRow, found: Verdict | None) -> BackendRow:
    if found is None or found.healthy == row.healthy:
        return row
    reason = row.reason if row.draining or row.suspended else found.reason
    return replace(row, healthy=found.healthy, reason=reason)


class Slots:
    """Gives each service a block of the scoreboard and never takes it back: counters must not mix."""

    def __init__(self, base: TableSnapshot, *, count: int, unused: Callable[[int], bool]) -> None:
        self._by_name = {row.name: row.slot for row in base.services if row.slot}
        self._count = count
        self._unused = unused

    def __call__(self, name: str) -> int:
        """Return the slot of *name*; 0, which services share, once all others have been used."""
        slot = self._by_name.get(name)
        if slot is None:
            taken = set(self._by_name.values())
            free = (n for n in range(1, self._count) if n not in taken and self._unused(n))
            slot = self._by_name[name] = next(free, 0)
        return slot
