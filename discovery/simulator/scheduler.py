"""What the ECS service scheduler does: facts in, actions out, and a thin loop that carries them out.

A REPLICA service is rolled by ECS's two percentages: never more live tasks than maximumPercent of the
desired count, never fewer healthy ones than minimumHealthyPercent. A task counts as healthy when it is
RUNNING, and HEALTHY where a container of it has a health check.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from discovery.simulator.arns import service_of
from discovery.simulator.placement import surplus_order
from discovery.simulator.state import Cluster, Deployment, Instance, Service, Task


@dataclass(frozen=True, slots=True)
class Start:
    """Start a task of the primary deployment: here, or wherever placement finds room."""

    deployment: Deployment
    instance: Instance | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    task: Task
    reason: str


@dataclass(frozen=True, slots=True)
class Settle:
    """The primary deployment is rolled out, and no task of the others is left."""

    deployment: Deployment


@dataclass(frozen=True, slots=True)
class Fail:
    """The circuit breaker opens: the roll-out has failed, and may be rolled back."""

    deployment: Deployment


@dataclass(frozen=True, slots=True)
class Retire:
    """The deleted service has no task left."""


Action = Start | Stop | Settle | Fail | Retire


def is_healthy(task: Task) -> bool:
    if task.last_status != "RUNNING" or task.desired_status != "RUNNING":
        return False
    checked = [c for c in task.containers if "healthCheck" in c.definition]
    return all(container.health_status == "HEALTHY" for container in checked)


def decide(cluster: Cluster, service: Service, now: float) -> list[Action]:
    """What to do for *service* now. Nothing is changed here; asking again after doing it gives nothing."""
    primary = next((d for d in service.deployments if d.status == "PRIMARY"), None)
    if service.status == "INACTIVE" or primary is None:
        return []
    there = [
        task
        for task in cluster.tasks.values()
        if service_of(task.group) == service.name and task.last_status != "STOPPED"
    ]
    if service.status == "DRAINING":
        stops: list[Action] = [Stop(t, _reason(service, primary)) for t in there if _wanted(t)]
        return stops if there else [Retire()]
    if breaker_opens(service, primary):
        return [Fail(primary)]
    plan = _daemon if service.strategy == "DAEMON" else _replica
    actions = list(plan(cluster, service, primary, there, now))
    if not actions and primary.rollout_state == "IN_PROGRESS" and _settled(cluster, service, primary, there):
        return [Settle(primary)]
    return actions


def breaker_opens(service: Service, primary: Deployment) -> bool:
    """Whether the deployment circuit breaker is on and too many tasks in a row have failed to start."""
    threshold = min(200, max(3, math.ceil(service.desired_count / 2)))
    return (
        bool(service.circuit_breaker.get("enable"))
        and primary.rollout_state == "IN_PROGRESS"
        and primary.failed_tasks >= threshold
    )


def back_off_s(failed_tasks: int) -> float:
    """How long the scheduler waits after so many tasks in a row that failed, at normal speed."""
    return 0.0 if failed_tasks < 2 else min(60.0, 2.0 ** (failed_tasks - 1))


def _replica(
    cluster: Cluster, service: Service, primary: Deployment, there: list[Task], now: float
) -> Iterator[Action]:
    live = [task for task in there if _wanted(task)]
    desired = service.desired_count
    good = [task for task in live if not _leaving(task, primary)]
    leaving = [task for task in live if _leaving(task, primary)]
    most = math.floor(desired * service.maximum_percent / 100)
    least = math.ceil(desired * service.minimum_healthy_percent / 100)

    if now >= primary.not_before and primary.rollout_state != "FAILED":
        yield from (Start(primary) for _ in range(min(desired - len(good), most - len(live))))

    # What is not serving yet can go at once: nobody will miss it.
    idle = [task for task in leaving if not is_healthy(task) and not _protected(task, now)]
    yield from (Stop(task, _reason(service, primary)) for task in idle)

    healthy = sum(is_healthy(task) for task in live)
    spare = max(0, healthy - least)
    serving = [task for task in leaving if is_healthy(task) and not _protected(task, now)]
    yield from (Stop(task, _reason(service, primary)) for task in surplus_order(serving)[:spare])

    surplus = len(good) - desired
    if surplus > 0:
        free = [task for task in good if not _protected(task, now)]
        yield from (Stop(task, _reason(service, primary)) for task in surplus_order(free)[:surplus])


def _daemon(
    cluster: Cluster, service: Service, primary: Deployment, there: list[Task], now: float
) -> Iterator[Action]:
    """One task on each ACTIVE instance; of a DRAINING one it is the last to leave."""
    hosts = _daemon_hosts(cluster, service)
    by_instance: dict[str, list[Task]] = {}
    for task in there:
        if task.instance is not None:
            by_instance.setdefault(task.instance.arn, []).append(task)
    if now >= primary.not_before and primary.rollout_state != "FAILED":
        yield from (Start(primary, host) for host in hosts if host.arn not in by_instance)
    least = math.ceil(len(hosts) * service.minimum_healthy_percent / 100)
    spare = max(0, sum(is_healthy(task) for task in there) - least)
    for task in there:
        instance = task.instance
        if not _wanted(task) or instance is None:
            continue
        if instance.status != "ACTIVE":
            if not _replicas_on(cluster, instance):
                yield Stop(task, _reason(service, primary))
        elif task.started_by != primary.id or task.health_status == "UNHEALTHY":
            if not is_healthy(task):
                yield Stop(task, _reason(service, primary))
            elif spare > 0 and not _protected(task, now):
                spare -= 1
                yield Stop(task, _reason(service, primary))


def _settled(cluster: Cluster, service: Service, primary: Deployment, there: list[Task]) -> bool:
    mine = [task for task in there if task.started_by == primary.id and is_healthy(task)]
    others = [task for task in there if task.started_by != primary.id and _wanted(task)]
    daemon = service.strategy == "DAEMON"
    wanted = len(_daemon_hosts(cluster, service)) if daemon else service.desired_count
    return len(mine) >= wanted and not others


def _daemon_hosts(cluster: Cluster, service: Service) -> list[Instance]:
    return [
        instance
        for instance in cluster.instances.values()
        if instance.status == "ACTIVE" and instance.launch_type == service.launch_type
    ]


def _replicas_on(cluster: Cluster, instance: Instance) -> bool:
    """Whether tasks of REPLICA services are left on *instance*."""
    for task in cluster.tasks.values():
        owner = cluster.services.get(service_of(task.group))
        here = task.instance is instance and task.last_status != "STOPPED"
        if here and owner is not None and owner.strategy == "REPLICA":
            return True
    return False


def _wanted(task: Task) -> bool:
    return task.desired_status == "RUNNING"


def _leaving(task: Task, primary: Deployment) -> bool:
    """Whether *task* has to be replaced: by the deployment, its instance, or its health."""
    draining = task.instance is not None and task.instance.status != "ACTIVE"
    return task.started_by != primary.id or draining or task.health_status == "UNHEALTHY"


def _protected(task: Task, now: float) -> bool:
    return task.protected_until > now and task.health_status != "UNHEALTHY"


def _reason(service: Service, primary: Deployment) -> str:
    return f"Scaling activity initiated by (deployment {primary.id})"
