"""One task as the endpoints of the services it serves. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from discovery.ecs.shapes import Container, ContainerInstance, Task, TaskDefinition
from discovery.ecs.translate.labels import Route
from discovery.ecs.translate.lifecycle import SETTLED_S, Row, stage
from discovery.ecs.translate.ports import locate
from discovery.model import Endpoint


@dataclass(frozen=True, slots=True)
class Site:
    """Where a task runs, as far as that is known."""

    instance: ContainerInstance | None = None
    address: str = ""  # private address of the instance
    notice: str = ""  # what EC2 has announced of it


def rows_of(
    task: Task, definition: TaskDefinition, routes: Iterable[Route], site: Site, *, source: str
) -> dict[str, Row]:
    """Return a task's row for each service (by name) it serves now and has an address for."""
    found = {}
    for route in routes:
        container = task.container(route.container)
        if container is not None and (row := _row(task, definition, container, route, site, source)):
            found[route.service.name] = row
    return found


def _row(
    task: Task, definition: TaskDefinition, container: Container, route: Route, site: Site, source: str
) -> Row | None:
    if container.last_status != "RUNNING":
        return None  # nothing answers there
    place = locate(task, definition, container, route.port, site.address)
    if place is None:
        return None
    described = definition.container(container.name)
    instance = site.instance
    facts: dict[str, Any] = {
        "last_status": task.last_status,
        "desired_status": task.desired_status,
        "container_status": container.last_status,
        "health": container.health,
        "has_health_check": described is not None and described.has_health_check,
        "connectivity": task.connectivity,
        "stop_code": task.stop_code,
        "instance": instance.ec2_id if instance else "",
        "instance_status": instance.status if instance else "ACTIVE",
        "notice": site.notice,
    }
    state, reason = stage(**facts)
    if state == "gone":
        return None
    endpoint = Endpoint(
        service=route.service.name,
        task_arn=task.arn,
        container=container.name,
        container_port=route.port,
        host=place[0],
        port=place[1],
        draining=state == "draining",
        starting=state == "starting",
        reason=reason,
        source=source,
        zone=task.zone or (instance.zone if instance else ""),
        instance=instance.ec2_id if instance else "",
        release=task.started_by if task.started_by.startswith("ecs-svc/") else definition.short,
        started_at=task.started_at,
        version=task.version,
        stopping_at=task.stopping_at,
    )
    if state != "ready":
        return Row(endpoint.key, endpoint, None, math.inf)
    later, why = stage(**facts, relieved=True)
    relieved = replace(endpoint, draining=True, reason=why) if later == "draining" else None
    settled_s = 0.0 if container.health == "HEALTHY" else task.started_at + SETTLED_S
    return Row(endpoint.key, endpoint, relieved, settled_s)
