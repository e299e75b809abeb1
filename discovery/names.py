"""Which service each host and path means, and who describes it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from discovery.model import Problem, Service, Snapshot

Claim = tuple[str, str]  # host pattern, path prefix


def first_facts(known: Iterable[Snapshot]) -> tuple[dict[str, Service], set[Problem]]:
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


def grant_claims(
    services: Mapping[str, Service], holders: Mapping[Claim, str]
) -> tuple[dict[str, Service], dict[Claim, str], set[Problem]]:
    """Let each host and path mean one service: the one that has it keeps it, else the first to ask.

    A service that loses a host keeps its others; one that loses all is left out, for no request can
    mean it.
    """
    granted: dict[Claim, str] = {}
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


def _claims(service: Service) -> tuple[Claim, ...]:
    return tuple((host, service.path) for host in service.hosts)
