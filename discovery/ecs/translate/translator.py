"""What a ledger says about a cluster, as services, endpoints and problems. No I/O.

Only what has changed since the last time is looked at again: one changed task of ten thousand costs what
the tasks of its own service cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from operator import itemgetter
from types import MappingProxyType
from typing import Final

from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.shapes import Task, TaskDefinition
from discovery.ecs.translate import groups
from discovery.ecs.translate.groups import Claim, Group
from discovery.ecs.translate.kept import KeptServices
from discovery.ecs.translate.lifecycle import step_back
from discovery.ecs.translate.plans import Plan, plan, with_host
from discovery.ecs.translate.rules import ServiceRule
from discovery.identity import NOBODY, Identity, parse_arn
from discovery.model import Endpoint, HealthCheck, Problem, Service, Snapshot, Tls
from discovery.spelling import did_you_mean

_NAMES_SHOWN: Final = 20


class Translator:
    """Turns a ledger into snapshots of the services of `rules`, of labels and of `domain`.

    Every rule's service is in the result, with or without tasks; of the others, those that a task
    describes, and for a while those that none describes any more. Where a service's revisions differ, the
    newest one describes it. `own` is who we are: we never send a request to ourselves, nor to the other
    tasks of our own ECS service, which would send it on to us.
    """

    def __init__(
        self,
        *,
        source: str,
        cluster: str = "",
        rules: Sequence[ServiceRule] = (),
        domain: str = "",
        default_health: HealthCheck = HealthCheck(),  # noqa: B008 - frozen
        default_tls: Tls = Tls(),  # noqa: B008 - frozen
        own: Identity = NOBODY,
    ) -> None:
        self._source = source
        self._cluster = cluster or source.partition(":")[2]
        self._rules = [with_host(rule, domain) for rule in rules]
        self._domain = domain
        self._default_health = default_health
        self._default_tls = default_tls
        self._own = own
        self._own_groups: set[str] = set()
        self._ruled = {rule.service.name: rule.service for rule in self._rules}
        self._accepted: dict[str, set[str]] = {}  # name of service to the ECS services its rules name
        for rule in self._rules:
            self._accepted.setdefault(rule.service.name, set()).add(rule.ecs_service)
        self._groups: dict[str, Group] = {}
        self._offering: dict[str, set[str]] = {}  # name of service to the groups that claim it
        self._redo: set[str] = set()  # groups
        self._again_s: dict[str, float] = {}  # when a service must be looked at though nothing is new
        self._described: dict[str, Service] = {}  # services that tasks describe
        self._endpoints: dict[str, tuple[Endpoint, ...]] = {}
        self._leaving: dict[
            str, tuple[float, bool]
        ] = {}  # services whose tasks all drain: since, others come
        self._problems: dict[tuple[str, str], Set[Problem]] = {}  # by kind of place and its name
        self._kept = KeptServices()
        self._silence: bool | None = None  # whether `complete` when the silent rules were judged; None: anew
        self._new = {"services", "endpoints", "problems"}  # what of the last snapshot does not hold any more
        self._last = Snapshot(source=source)

    @property
    def own(self) -> Identity:
        """Who we are; may become known later."""
        return self._own

    @own.setter
    def own(self, own: Identity) -> None:
        if own != self._own:
            self._own = own
            self._redo |= self._groups.keys()

    def update(
        self, ledger: Ledger, now_s: float, *, complete: bool = True, asked_s: float = math.inf
    ) -> tuple[Snapshot, float | None]:
        """Return what *ledger* comes to, and when to look again even if it does not change (None: never).

        All times are Unix time. If nothing has changed, it is the very snapshot as before. While what the
        ledger holds is not *complete*, its silence proves nothing; and that nobody takes the place of tasks
        that stop is only proved by an answer to a later question: *asked_s* is when the newest one that is
        answered was asked. A translator is made for one ledger, whose dirty groups it takes.
        """
        touched = {name for name, again_s in self._again_s.items() if again_s <= now_s}
        for name in ledger.take_dirty() | self._redo:
            touched |= self._look(name, ledger)
        self._redo.clear()
        for name in touched:
            self._resolve(name, now_s)
        self._judge_silence(complete)
        self._await(asked_s)
        snapshot = self._snapshot(now_s)
        again_s = min(self._kept.until_s, *self._again_s.values(), math.inf)
        return snapshot, again_s if again_s < math.inf else None

    # -- groups ----------------------------------------------------------------------------------

    def _look(self, name: str, ledger: Ledger) -> set[str]:
        """Look at a group anew; return the names of the services that makes a difference to."""
        old = self._groups.get(name, Group())
        tasks = self._without_us(name, ledger.groups.get(name, {}))
        new = groups.look(tasks, ledger, old, plan=self._plan, source=self._source, cluster=self._cluster)
        if bool(tasks) is not (name in self._groups):
            self._silence = None
        if tasks:
            self._groups[name] = new
        else:
            self._groups.pop(name, None)
        for service in old.claims.keys() - new.claims.keys():
            self._offering[service].discard(name)
        for service in new.claims.keys() - old.claims.keys():
            self._offering.setdefault(service, set()).add(name)
        self._say("group", name, new.problems)
        return old.differs(new)

    def _plan(self, definition: TaskDefinition, ecs_service: str) -> Plan:
        return plan(
            definition,
            ecs_service,
            rules=self._rules,
            domain=self._domain,
            default_health=self._default_health,
            default_tls=self._default_tls,
        )

    def _without_us(self, name: str, tasks: Mapping[str, Task]) -> Mapping[str, Task]:
        own = self._own
        if not own.task_arn or not tasks:
            return tasks
        if own.task_arn in tasks or (
            own.service
            and name == f"service:{own.service}"
            and _same_cluster(own.task_arn, next(iter(tasks)))
        ):
            self._silence = None
            self._own_groups.add(name)  # the others stay what they are when our own task has gone
        if name not in self._own_groups:
            return tasks
        if name.startswith("service:"):
            return {}
        # Tasks that were started alone may share any group; those of our own family are proxies, too.
        return {
            arn: task
            for arn, task in tasks.items()
            if arn != own.task_arn and not (own.family and _family(task) == own.family)
        }

    # -- services --------------------------------------------------------------------------------

    def _resolve(self, name: str, now_s: float) -> None:
        """Decide who describes a service, and who may serve it."""
        best = self._claims(name)
        service = self._ruled.get(name)
        accepted = set(self._accepted.get(name, ()))
        refused = set()
        # An ECS service of that very name is believed before one that only says so.
        for ecs_service, claim in sorted(best.items(), key=lambda c: (c[0] != name, c[0])):
            if ecs_service in accepted:
                continue
            service = service or claim.service
            if replace(service, origin="") == replace(claim.service, origin=""):
                accepted.add(ecs_service)
                continue
            refused.add(
                Problem(
                    f"{claim.service.origin}, ECS service {ecs_service or 'none'}",
                    f"service {name!r} is already described otherwise by {service.origin}: "
                    "say the same there, or choose another anyport.service",
                )
            )
        self._say("service", name, refused)
        self._describe(name, service)
        rows = [
            row
            for group in self._offering.get(name, ())
            if self._groups[group].ecs_service in accepted
            for row in self._groups[group].rows.get(name, ())
        ]
        rows.sort(key=itemgetter(0))
        endpoints, again_s = step_back(rows, now_s)
        self._place(name, tuple(endpoints))
        coming = any(
            self._groups[group].coming
            for group in self._offering.get(name, ())
            if self._groups[group].ecs_service in accepted
        )
        if endpoints and all(endpoint.draining for endpoint in endpoints):
            since_s, _ = self._leaving.get(name, (now_s, coming))
            self._leaving[name] = (since_s, coming)
        else:
            self._leaving.pop(name, None)
        self._again_s.pop(name, None)
        if again_s < math.inf:
            self._again_s[name] = again_s

    def _await(self, asked_s: float) -> None:
        """Tell of which services the last word is not spoken though all their tasks drain.

        That one task stops and that another takes its place is told by different ways, in any order.
        """
        names = {name for name, (since_s, coming) in self._leaving.items() if coming or since_s >= asked_s}
        if names != self._last.awaited:
            self._last = replace(self._last, awaited=frozenset(names))

    def _claims(self, name: str) -> dict[str, Claim]:
        """Return the strongest claim of each ECS service on a service; "" for tasks of none."""
        best: dict[str, Claim] = {}
        for group in self._offering.get(name, ()):
            ecs_service, claim = self._groups[group].ecs_service, self._groups[group].claims[name]
            if ecs_service not in best or claim.rank > best[ecs_service].rank:
                best[ecs_service] = claim
        return best

    def _describe(self, name: str, service: Service | None) -> None:
        if name in self._ruled or self._described.get(name) == service:
            return
        if service is None:
            del self._described[name]
        else:
            self._described[name] = service
        self._new.add("services")

    def _place(self, name: str, endpoints: tuple[Endpoint, ...]) -> None:
        if self._endpoints.get(name, ()) == endpoints:
            return
        fresh = name not in self._endpoints
        self._endpoints[name] = endpoints
        if not endpoints:
            del self._endpoints[name]
        elif fresh:
            self._endpoints = dict(sorted(self._endpoints.items()))
        self._new.add("endpoints")

    # -- what the operator should know -----------------------------------------------------------

    def _say(self, kind: str, name: str, problems: Set[Problem]) -> None:
        if self._problems.get((kind, name), set()) == problems:
            return
        self._problems[kind, name] = problems
        if not problems:
            del self._problems[kind, name]
        self._new.add("problems")

    def _judge_silence(self, complete: bool) -> None:
        """Say which rules no task belongs to: scaled to nothing, or a name with a slip in it."""
        if self._silence is complete:
            return
        self._silence = complete
        seen = {group.ecs_service for group in self._groups.values() if group.ecs_service}
        ours = {name.partition(":")[2] for name in self._own_groups}
        silent = [rule for rule in self._rules if rule.ecs_service not in seen]
        self._say(
            "rules", "", {_silence(rule, sorted(seen), self._cluster, ours) for rule in silent if complete}
        )

    # -- the whole -------------------------------------------------------------------------------

    def _snapshot(self, now_s: float) -> Snapshot:
        last = self._last
        if self._kept.until_s <= now_s:
            self._new.add("services")
        if "services" in self._new:
            services = {**self._ruled, **dict(sorted(self._described.items()))}
            last = replace(last, services=MappingProxyType(self._kept.complete(services, now_s)))
        if "endpoints" in self._new:
            last = replace(last, by_service=MappingProxyType(self._endpoints.copy()))
        if "problems" in self._new:
            said = {problem for problems in self._problems.values() for problem in problems}
            last = replace(last, problems=tuple(sorted(said, key=lambda p: (p.where, p.what))))
        self._new.clear()
        self._last = last
        return last


def _silence(rule: ServiceRule, seen: Sequence[str], cluster: str, ours: Set[str]) -> Problem:
    where = f"config, service {rule.service.name}"
    if rule.ecs_service in ours:
        return Problem(
            where, f"ECS service {rule.ecs_service!r} is this proxy: it sends no requests to itself"
        )
    return Problem(
        where,
        f"no task of ECS service {rule.ecs_service!r} in cluster {cluster}{_hint(rule.ecs_service, seen)}",
    )


def _hint(name: str, seen: Sequence[str]) -> str:
    near = did_you_mean(name, seen)
    if near or not seen:
        return near
    more = f" and {len(seen) - _NAMES_SHOWN} more" if len(seen) > _NAMES_SHOWN else ""
    return f"; there are: {', '.join(seen[:_NAMES_SHOWN])}{more}"


def _same_cluster(one: str, other: str) -> bool:
    """Say whether two tasks may be of one cluster: ARNs in the old format do not name it."""
    a, b = parse_arn(one), parse_arn(other)
    if a is None or b is None or (a.region, a.account) != (b.region, b.account):
        return False
    return not a.cluster or not b.cluster or a.cluster == b.cluster


def _family(task: Task) -> str:
    return task.definition_arn.rpartition("/")[2].partition(":")[0]
