"""The workers' table made from nothing each time: slow, and easy to see right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from proxy.control.compose import Judge, Knowledge, _row, _with_verdict, check_id, identity_check
from proxy.link.snapshots import BackendRow, ServiceRow, TableSnapshot
from proxy.settings import WorkerSettings


def slow_compose(
    known: Knowledge,
    *,
    base: TableSnapshot,
    verdict: Judge,
    slot: Callable[[str], int],
    settings: WorkerSettings,
) -> TableSnapshot:
    """Return what `Composer.table` must return, whatever it was told before."""
    facts = known.facts
    services = [
        ServiceRow(
            name=name,
            slot=slot(name),
            hosts=service.hosts,
            path=service.path,
            tls=known.tls.get(name),
            identity=identity_check(service),
        )
        for name, service in facts.services.items()
    ]
    if known.pending:
        services += [
            replace(row, slot=slot(row.name)) for row in base.services if row.name not in facts.services
        ]
    rows: dict[str, tuple[BackendRow, ...]] = {}
    for line in services:
        stale = known.stale if line.identity is not None else frozenset()
        found = [
            _row(
                endpoint,
                verdict(line.name, endpoint.key),
                lost=known.suspended.get(line.name, {}),
                confirm=endpoint.source in stale,
            )
            for endpoint in facts.endpoints
            if endpoint.service == line.name
        ]
        found += [
            replace(_with_verdict(row, verdict(*check_id(row))), confirm=row.source in stale)
            for row in base.backends
            if row.service == line.name and known.pending and _kept(row, known)
        ]
        rows[line.name] = tuple(found)
    return TableSnapshot(
        revision=0,
        loaded=base.loaded or not known.pending,
        services=tuple(services),
        by_service=rows,
        settings=settings,
    )


def _kept(row: BackendRow, known: Knowledge) -> bool:
    endpoints = known.facts.endpoints
    if any(
        (e.service, e.key) == check_id(row) or (e.host, e.port) == (row.host, row.port) for e in endpoints
    ):
        return False
    return row.source in known.pending if row.source else row.service not in known.facts.services
