"""Many sources in, one table out: what runs where, with every doubt resolved the safe way. Pure.

A change costs what has changed: services whose endpoints are the same objects as before are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from discovery.addresses import Addresses, Place
from discovery.model import BackendKey, Endpoint, Problem, Service, Snapshot
from discovery.names import Claim, first_facts, grant_claims


class BackendTable:
    """The merged knowledge of all sources; earlier ones are believed first."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._order = tuple(dict.fromkeys(sources))
        self._latest: dict[str, Snapshot] = {}
        self._answered: set[str] = set()
        self._holders: dict[Claim, str] = {}
        self._addresses = Addresses()
        self._unclear: frozenset[Problem] = frozenset()  # where services contradict each other
        self._snapshot = Snapshot(source="table")

    @property
    def snapshot(self) -> Snapshot:
        """All services, endpoints and problems, in an order that depends on nothing but their names.

        What did not change since the snapshot before is the same object.
        """
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
    def suspended(self) -> Mapping[str, Mapping[BackendKey, str]]:
        """Backends by service whose address another, newer task claims, and why: nothing may go there.

        What did not change is the same object as before.
        """
        return self._addresses.suspended

    @property
    def claims(self) -> Mapping[Place, tuple[Endpoint, ...]]:
        """Who is said to answer at which address, as of now."""
        return self._addresses.claims

    def apply(self, snapshot: Snapshot) -> bool:
        """Take what one source now knows, instead of what it knew; return whether anything changed.

        Once a source has answered completely, a snapshot that is not complete changes nothing: what it
        lacks proves nothing, and the complete one stands until there is another.

        Raises:
            KeyError: If the table was not made for this source.
        """
        if snapshot.source not in self._order:
            raise KeyError(snapshot.source)
        first_answer = snapshot.complete and snapshot.source not in self._answered
        if not snapshot.complete and snapshot.source in self._answered:
            return False
        if snapshot.complete:
            self._answered.add(snapshot.source)
        before = self._latest.get(snapshot.source) or Snapshot(source=snapshot.source)
        self._latest[snapshot.source] = snapshot
        known = [self._latest[name] for name in self._order if name in self._latest]
        services = self._services(known, before, snapshot)
        names = _changed(before.by_service, snapshot.by_service)
        if services is not self._snapshot.services:
            names |= self._snapshot.services.keys() ^ services.keys()
        merged, again = self._merge(known, services, names)
        problems = self._snapshot.problems
        if services is not self._snapshot.services or before.problems != snapshot.problems:
            found = {problem for one in known for problem in one.problems}
            problems = tuple(sorted(found | self._unclear, key=lambda p: (p.where, p.what)))
        awaited = frozenset[str]().union(*(one.awaited for one in known))
        old, self._snapshot = (
            self._snapshot,
            replace(self._snapshot, services=services, by_service=merged, problems=problems, awaited=awaited),
        )
        return (
            first_answer
            or again
            or (old.services, old.problems, old.awaited) != (services, problems, awaited)
        )

    def _services(self, known: list[Snapshot], before: Snapshot, snapshot: Snapshot) -> Mapping[str, Service]:
        if before.services is snapshot.services or before.services == snapshot.services:
            return self._snapshot.services
        services, conflicts = first_facts(known)
        services, self._holders, contested = grant_claims(services, self._holders)
        self._unclear = frozenset(conflicts | contested)
        return MappingProxyType(dict(sorted(services.items())))

    def _merge(
        self, known: list[Snapshot], services: Mapping[str, Service], names: set[str]
    ) -> tuple[Mapping[str, tuple[Endpoint, ...]], bool]:
        """Merge what is said of the services of *names*; return all endpoints, and whether any changed."""
        before = self._snapshot.by_service
        changed: dict[str, tuple[Endpoint, ...]] = {}
        for name in names:
            endpoints = _merged(name, known) if name in services else ()
            if endpoints != before.get(name, ()):
                changed[name] = endpoints
        if not changed:
            return before, False
        self._addresses.change((before.get(name, ()), now) for name, now in changed.items())
        merged = {**before, **changed}
        for name in [name for name, now in changed.items() if not now]:
            del merged[name]
        if any(not now or name not in before for name, now in changed.items()):
            merged = dict(sorted(merged.items()))
        return MappingProxyType(merged), True


def _changed(before: Mapping[str, tuple[Endpoint, ...]], now: Mapping[str, tuple[Endpoint, ...]]) -> set[str]:
    """Return the names of the services whose endpoints are not the same object."""
    if before is now:
        return set()
    get = before.get
    names = {name for name, endpoints in now.items() if get(name) is not endpoints}
    if len(before) == len(now) and all(name in before for name in names):
        return names  # and so none has gone
    return names | (before.keys() - now.keys())


def _merged(name: str, known: Iterable[Snapshot]) -> tuple[Endpoint, ...]:
    """Return what *known*, the most trusted first, say of one service, in the order of the keys.

    One backend is one endpoint, however many tell of it: the newest version, else the first source's.
    """
    told = [(one.source, one.by_service[name]) for one in known if one.by_service.get(name)]
    if len(told) == 1 and all(e.source for e in told[0][1]):
        return told[0][1]
    found: dict[BackendKey, Endpoint] = {}
    for source, endpoints in told:
        for endpoint in endpoints:
            first = found.get(endpoint.key)
            if first is None or endpoint.version > first.version:
                found[endpoint.key] = endpoint if endpoint.source else replace(endpoint, source=source)
    return tuple(found[key] for key in sorted(found))
