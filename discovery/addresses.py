"""Who answers at which address: of two tasks that claim one, the newer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from types import MappingProxyType

from discovery.model import BackendKey, Endpoint

Place = tuple[str, int]  # host and port

_NONE: Mapping[BackendKey, str] = MappingProxyType({})


class Addresses:
    """Every claim on an address, and who of them may be sent to. A change costs what it touches."""

    def __init__(self) -> None:
        self._claims: dict[Place, tuple[Endpoint, ...]] = {}
        # Lost for good: a running container never gets its port back, so when the rival goes first, the
        # older claim does not revive.
        self._lost: dict[Place, frozenset[BackendKey]] = {}
        self._losers: dict[Place, tuple[Endpoint, ...]] = {}  # those suspended because of it
        self.suspended: Mapping[str, Mapping[BackendKey, str]] = MappingProxyType({})  # by service; and why

    @property
    def claims(self) -> Mapping[Place, tuple[Endpoint, ...]]:
        """All claims as of now."""
        return MappingProxyType(self._claims)

    def change(self, pairs: Iterable[tuple[Sequence[Endpoint], Sequence[Endpoint]]]) -> None:
        """Take note of new endpoints in the place of old ones, which were given here before."""
        touched: set[Place] = set()
        for old, new in pairs:
            kept = {id(e) for e in old} & {id(e) for e in new}
            for endpoint in old:
                if id(endpoint) not in kept:
                    place = _place(endpoint)
                    touched.add(place)
                    self._claims[place] = tuple(e for e in self._claims[place] if e is not endpoint)
            for endpoint in new:
                if id(endpoint) not in kept:
                    place = _place(endpoint)
                    touched.add(place)
                    self._claims[place] = (*self._claims.get(place, ()), endpoint)
        self._judge(touched)

    def _judge(self, places: Iterable[Place]) -> None:
        reasons: dict[str, dict[BackendKey, str]] = {}  # of the services that change
        losses: list[tuple[Endpoint, str]] = []
        for place in places:
            for endpoint in self._losers.pop(place, ()):
                self._of(reasons, endpoint.service).pop(endpoint.key, None)
            lost = self._lost.pop(place, frozenset())
            claims = sorted(self._claims[place], key=lambda e: (e.service, e.key))
            if not claims:
                del self._claims[place]
                continue
            if len(claims) == 1 and claims[0].key not in lost:
                continue
            found, still_lost = _suspended(claims, lost)
            if found:
                self._losers[place] = tuple(e for e, _ in found)
                losses += found
            if still_lost:
                self._lost[place] = still_lost
        # After all are taken back: one that has moved from one contested address to another stays suspended.
        for endpoint, reason in losses:
            self._of(reasons, endpoint.service)[endpoint.key] = reason
        changed = {
            name: MappingProxyType(dict(sorted(some.items())))
            for name, some in reasons.items()
            if some != self.suspended.get(name, _NONE)
        }
        if changed:
            merged = {**self.suspended, **changed}
            self.suspended = MappingProxyType({name: merged[name] for name in sorted(merged) if merged[name]})

    def _of(self, reasons: dict[str, dict[BackendKey, str]], service: str) -> dict[BackendKey, str]:
        if service not in reasons:
            reasons[service] = dict(self.suspended.get(service, _NONE))
        return reasons[service]


def _place(endpoint: Endpoint) -> Place:
    return endpoint.host, endpoint.port


def _suspended(
    claims: Sequence[Endpoint], lost: Set[BackendKey]
) -> tuple[list[tuple[Endpoint, str]], frozenset[BackendKey]]:
    """Return which of the *claims* on one address get nothing and why, and which have lost it for good."""
    winners = _winners([e for e in claims if e.key not in lost])
    found: list[tuple[Endpoint, str]] = []
    still_lost: set[BackendKey] = set()
    for endpoint in claims:
        if any(_claimant(e) == _claimant(endpoint) for e in winners):
            continue
        found.append((endpoint, _rivalry(endpoint, claims, winners)))
        if endpoint.key in lost or (winners and endpoint.started_at):
            still_lost.add(endpoint.key)
    return found, frozenset(still_lost)


def _winners(claims: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the endpoints of the one task that answers there, or none if nothing tells which it is."""
    if not claims:
        return []
    best = max(_strength(e) for e in claims)
    newest = [e for e in claims if _strength(e) == best]
    if len({_claimant(e) for e in newest}) > 1 and len({e.service for e in newest}) > 1:
        return []
    # Tasks of one service that started together: either would be right, so take the first by name.
    return [e for e in claims if _claimant(e) == _claimant(newest[0])]


def _claimant(endpoint: Endpoint) -> str:
    """Return who claims: a task; or whoever wrote the address down, as himself ("static:10.0.0.1:80") or as a
    name that leads there, and may mean it for several services."""
    return endpoint.address if endpoint.task_arn.endswith(f":{endpoint.address}") else endpoint.task_arn


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
