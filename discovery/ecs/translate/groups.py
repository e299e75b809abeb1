"""One group of tasks ("service:web"): what it offers to which service. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.ledger.words import GONE
from discovery.ecs.shapes import Task, TaskDefinition
from discovery.ecs.translate.endpoints import Site, rows_of
from discovery.ecs.translate.lifecycle import Row
from discovery.ecs.translate.plans import Plan
from discovery.model import Problem, Service


class Claim(NamedTuple):
    """How a group describes a service; the higher `rank` is believed, the newest revision that stays."""

    rank: tuple[bool, int, float, str]
    service: Service


class _View(NamedTuple):
    """One task, and what was made of it: as long as the first three are the same objects, that holds."""

    task: Task
    definition: TaskDefinition
    site: Site
    rows: Mapping[str, Row]


@dataclass(slots=True)
class Group:
    """What one group of tasks offers."""

    ecs_service: str = ""
    plans: dict[str, Plan] = field(default_factory=dict)  # by definition ARN
    sites: dict[str, Site] = field(default_factory=dict)  # by instance ARN
    views: dict[str, _View] = field(default_factory=dict)  # by task ARN
    claims: dict[str, Claim] = field(default_factory=dict)  # by name of service
    rows: dict[str, list[Row]] = field(default_factory=dict)  # likewise
    problems: set[Problem] = field(default_factory=set)
    coming: bool = False  # a task is wanted that nothing can be sent to yet

    def differs(self, other: Group) -> set[str]:
        """Return the names of the services that get something else from *other*."""
        names = self.claims.keys() | other.claims.keys()
        return {
            name
            for name in names
            if self.claims.get(name) != other.claims.get(name)
            or self.rows.get(name) != other.rows.get(name)
            or self.coming is not other.coming
        }


def look(
    tasks: Mapping[str, Task],
    ledger: Ledger,
    old: Group,
    *,
    plan: Callable[[TaskDefinition, str], Plan],
    source: str,
    cluster: str,
) -> Group:
    """Return what *tasks*, all of one group, offer; what has not changed since *old* is the same object."""
    group = Group(ecs_service=next((task.ecs_service for task in tasks.values()), ""))
    definitions = ledger.definitions
    strength: dict[str, tuple[bool, float]] = {}  # by definition ARN: one of its tasks stays, newest start
    for arn, task in tasks.items():
        definition = definitions.get(task.definition_arn)
        if definition is None:
            group.coming = group.coming or _is_wanted(task)
            continue
        made = group.plans.get(definition.arn)
        if made is None:
            made = old.plans.get(definition.arn) or plan(definition, task.ecs_service)
            group.plans[definition.arn] = made
            group.problems.update(made.problems)
        if not made.routes:
            continue
        live = task.last_status == "RUNNING" and task.desired_status == "RUNNING"
        best = strength.get(definition.arn)
        if best is None or (live, task.started_at) > best:
            strength[definition.arn] = (live, task.started_at)
        site = group.sites.get(task.instance_arn)
        if site is None:
            site = group.sites[task.instance_arn] = _site(task.instance_arn, ledger, old)
        view = old.views.get(arn)
        if view is None or not (view.task is task and view.site is site and view.definition is definition):
            view = _View(task, definition, site, rows_of(task, definition, made.routes, site, source=source))
        group.views[arn] = view
        for name, row in view.rows.items():
            group.rows.setdefault(name, []).append(row)
        if not view.rows:
            group.coming = group.coming or _is_wanted(task)
        if not view.rows and (problem := _unreachable(task, definition, site, ledger, cluster)):
            group.problems.add(problem)
    for definition_arn, best in strength.items():
        _claim(group, definitions[definition_arn], best)
    return group


def _is_wanted(task: Task) -> bool:
    return task.desired_status == "RUNNING" and task.last_status not in GONE


def _claim(group: Group, definition: TaskDefinition, strength: tuple[bool, float]) -> None:
    live, started_at = strength
    rank = (live, definition.revision, started_at, definition.arn)
    for route in group.plans[definition.arn].routes:
        best = group.claims.get(route.service.name)
        if best is None or rank > best.rank:
            group.claims[route.service.name] = Claim(rank, route.service)


def _site(instance_arn: str, ledger: Ledger, old: Group) -> Site:
    instance = ledger.instances.get(instance_arn)
    if instance is None:
        site = Site()
    else:
        ec2_id = instance.ec2_id
        site = Site(instance, ledger.addresses.get(ec2_id, ""), ledger.notices.get(ec2_id, ""))
    before = old.sites.get(instance_arn)
    return before if before is not None and before == site else site


def _unreachable(
    task: Task, definition: TaskDefinition, site: Site, ledger: Ledger, cluster: str
) -> Problem | None:
    """Return why a running task that somebody wants has no address, None if it may get one soon."""
    if task.last_status != "RUNNING" or task.desired_status != "RUNNING":
        return None
    if definition.network_mode == "none":
        where = f"task-definition/{definition.short}"
        return Problem(where, 'networkMode "none": nothing outside can reach the task')
    instance = site.instance
    if definition.network_mode == "awsvpc" or instance is None or site.address:
        return None  # its address or binding is not known yet: the usual state of a young task
    where = f"cluster {cluster}, container instance {instance.ec2_id}"
    if instance.ec2_id.startswith("mi-"):
        return Problem(
            where,
            "is an ECS Anywhere machine, whose address the EC2 API does not know: its tasks are "
            "left out; list their addresses as a static service",
        )
    if instance.ec2_id in ledger.nowhere:
        return Problem(
            where, "has no private address in ec2:DescribeInstances (terminated?): its tasks are left out"
        )
    return None
