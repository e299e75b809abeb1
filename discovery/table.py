"""Many sources in, one table out: what runs where, with every doubt resolved the safe way. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from types import MappingProxyType

from discovery.model import BackendKey, Endpoint, Problem, Service, Snapshot, by_service

_Claim = tuple[str, str]  # host pattern, path prefix
_Place = tuple[BackendKey, str]  # a backend, and an address it was said to have


class BackendTable:
    """The merged knowledge of all sources; earlier ones are believed first."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._order = tuple(dict.fromkeys(sources))
        self._latest: dict[str, Snapshot] = {}
        self._answered: set[str] = set()
        self._holders: dict[_Claim, str] = {}
        self._suspended: Mapping[BackendKey, str] = MappingProxyType({})
        self._lost: frozenset[_Place] = frozenset()
        self._snapshot = Snapshot(source="table")

    @property
    def snapshot(self) -> Snapshot:
        """All services, endpoints and problems, in an order that depends on nothing but their names."""
        return self._snapshot

    @property
    def loaded(self) -> bool:
        """Whether every source has answered completely at least once."""
        return len(self._answered) == len(self._order)

    @property
    def missing(self) -> tuple[str, ...]:
        """The sources that have not answered yet."""
        return tuple(name for name in self._order if name not in self._answered)

    @property
    def suspended(self) -> Mapping[BackendKey, str]:
        """Backends whose address another, newer task claims, and why: nothing at all may go there."""
        return self._suspended

    def apply(self, snapshot: Snapshot) -> bool:
        """Take what one source now knows, instead of what it knew; return whether anything changed.

        Raises:
            KeyError: If the table was not made for this source.
        """
        if snapshot.source not in self._order:
            raise KeyError(snapshot.source)
        before = (self._snapshot, self._suspended, self.loaded)
        self._latest[snapshot.source] = snapshot
        if snapshot.complete:
            self._answered.add(snapshot.source)
        self._merge()
        return before != (self._snapshot, self._suspended, self.loaded)

    def _merge(self) -> None:
        known = [self._latest[name] for name in self._order if name in self._latest]
        problems = {problem for snapshot in known for problem in snapshot.problems}
        services, conflicts = _first_facts(known)
        services, self._holders, contested = _grant_claims(services, self._holders)
        endpoints = {
            (e.service, e.key): e
            for snapshot in reversed(known)
            for e in snapshot.endpoints
            if e.service in services
        }
        merged = tuple(endpoints[key] for key in sorted(endpoints))
        suspended, self._lost = _suspend(merged, self._lost)
        self._suspended = MappingProxyType(suspended)
        self._snapshot = Snapshot(
            source="table",
            services=MappingProxyType(dict(sorted(services.items()))),
            by_service=by_service(merged),
            problems=tuple(sorted(problems | conflicts | contested, key=lambda p: (p.where, p.what))),
        )


def _first_facts(known: Iterable[Snapshot]) -> tuple[dict[str, Service], set[Problem]]:
    """Return each service as the first source describes it, and where later ones disagree."""
    services: dict[str, Service] = {}
    told_by: dict[str, str] = {}
    problems: set[Problem] = set()
    for snapshot in known:
        for name, service in snapshot.services.items():
            first = services.setdefault(name, service)
            told_by.setdefault(name, snapshot.source)
            if replace(first, origin="") != replace(service, origin=""):
                problems.add(
                    Problem(
                        f"service {name}, source {snapshot.source} ({service.origin})",
                        f"is described otherwise by source {told_by[name]} ({first.origin}), which counts: "
                        "say the same in both, or give one another name",
                    )
                )
    return services, problems


def _grant_claims(
    services: Mapping[str, Service], holders: Mapping[_Claim, str]
) -> tuple[dict[str, Service], dict[_Claim, str], set[Problem]]:
    """Let each host and path mean one service: the one that has it keeps it, else the first to ask.

    A service that loses a host keeps its others; one that loses all is left out, for no request can
    mean it.
    """
    granted: dict[_Claim, str] = {}
    for name, service in services.items():
        for claim in _claims(service):
            holder = holders.get(claim, "")
            still_held = holder in services and claim in _claims(services[holder])
            granted.setdefault(claim, holder if still_held else name)
    result: dict[str, Service] = {}
    problems: set[Problem] = set()
    for name, service in services.items():
        lost = [claim for claim in _claims(service) if granted[claim] != name]
        for host, path in lost:
            owner = services[granted[host, path]]
            problems.add(
                Problem(
                    f"service {name} ({service.origin})",
                    f"host {host!r} with path {path!r} already means service {owner.name} "
                    f"({owner.origin}), which keeps it: change one of the two",
                )
            )
        hosts = tuple(host for host in service.hosts if granted[host, service.path] == name)
        if hosts == service.hosts:
            result[name] = service
        elif hosts:
            result[name] = replace(service, hosts=hosts)
    return result, granted, problems


def _claims(service: Service) -> tuple[_Claim, ...]:
    return tuple((host, service.path) for host in service.hosts)


def _suspend(
    endpoints: Iterable[Endpoint], lost: Set[_Place]
) -> tuple[dict[BackendKey, str], frozenset[_Place]]:
    """Return the backends that must get nothing, because another task has taken their address.

    Also returns the addresses lost for good: a running container never gets its port back, so when the
    rival goes first, the older claim does not revive.
    """
    by_address: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_address.setdefault(endpoint.address, []).append(endpoint)
    suspended: dict[BackendKey, str] = {}
    still_lost: set[_Place] = set()
    for address, claims in by_address.items():
        if len(claims) == 1 and (claims[0].key, address) not in lost:
            continue
        winners = _winners([e for e in claims if (e.key, address) not in lost])
        for endpoint in claims:
            if any(e.task_arn == endpoint.task_arn for e in winners):
                continue
            suspended[endpoint.key] = _rivalry(endpoint, claims, winners)
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
