"""The merged table made from nothing each time: slow, and easy to see right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace

from discovery.model import BackendKey, Endpoint, Problem, Service, Snapshot, by_service
from discovery.names import Claim, first_facts, grant_claims

_Place = tuple[BackendKey, str]  # a backend, and an address it was said to have


class SlowTable:
    """As `BackendTable`."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._order = tuple(sources)
        self._latest: dict[str, Snapshot] = {}
        self._answered: set[str] = set()
        self._holders: dict[Claim, str] = {}
        self._lost: frozenset[_Place] = frozenset()
        self.suspended: dict[str, dict[BackendKey, str]] = {}
        self.services: dict[str, Service] = {}
        self.by_service: Mapping[str, tuple[Endpoint, ...]] = {}
        self.problems: tuple[Problem, ...] = ()

    def apply(self, snapshot: Snapshot) -> None:
        if snapshot.source in self._answered and not snapshot.complete:
            return
        if snapshot.complete:
            self._answered.add(snapshot.source)
        self._latest[snapshot.source] = snapshot
        known = [self._latest[name] for name in self._order if name in self._latest]
        services, conflicts = first_facts(known)
        services, self._holders, contested = grant_claims(services, self._holders)
        self.services = dict(sorted(services.items()))
        endpoints: dict[tuple[str, BackendKey], Endpoint] = {}
        for one in known:
            for e in one.endpoints:
                first = endpoints.get((e.service, e.key))
                if e.service in services and (first is None or e.version > first.version):
                    endpoints[e.service, e.key] = replace(e, source=e.source or one.source)
        self.by_service = by_service(endpoints.values())
        merged = [e for some in self.by_service.values() for e in some]
        self.suspended, self._lost = _suspend(merged, self._lost)
        problems = {problem for one in known for problem in one.problems} | conflicts | contested
        self.problems = tuple(sorted(problems, key=lambda p: (p.where, p.what)))


def _suspend(
    endpoints: Iterable[Endpoint], lost: Set[_Place]
) -> tuple[dict[str, dict[BackendKey, str]], frozenset[_Place]]:
    by_address: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_address.setdefault(endpoint.address, []).append(endpoint)
    suspended: dict[str, dict[BackendKey, str]] = {}
    still_lost: set[_Place] = set()
    for address, claims in by_address.items():
        if len(claims) == 1 and (claims[0].key, address) not in lost:
            continue
        winners = _winners([e for e in claims if (e.key, address) not in lost])
        for endpoint in claims:
            if any(e.task_arn == endpoint.task_arn for e in winners):
                continue
            suspended.setdefault(endpoint.service, {})[endpoint.key] = _rivalry(endpoint, claims, winners)
            if (endpoint.key, address) in lost or (winners and endpoint.started_at):
                still_lost.add((endpoint.key, address))
    return suspended, frozenset(still_lost)


def _winners(claims: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the endpoints of the one task that answers there, or none if nothing tells which it is."""
    if not claims:
        return []
    best = max(_strength(e) for e in claims)
    newest = [e for e in claims if _strength(e) == best]
    if len({e.task_arn for e in newest}) > 1 and len({e.service for e in newest}) > 1:
        return []
    # Tasks of one service that started together: either would be right, so take the first by name.
    return [e for e in claims if e.task_arn == newest[0].task_arn]


def _strength(endpoint: Endpoint) -> tuple[float, bool]:
    return endpoint.started_at, not endpoint.draining


def _rivalry(endpoint: Endpoint, claims: Sequence[Endpoint], winners: Sequence[Endpoint]) -> str:
    if winners:
        rivals, how = winners, "has the same address and started later"
    else:
        rivals = [e for e in claims if e.task_arn != endpoint.task_arn]
        how = "claims the same address, and nothing tells which answers there"
    if not rivals:
        return "its address was given to a newer task"
    return f"service {rivals[0].service}, task {rivals[0].task_arn.rpartition('/')[2]} {how}"
