"""What ECS says about a cluster, as services, endpoints and problems. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from discovery.ecs.labels import Route, read_labels
from discovery.ecs.ports import PortChoiceError, choose_port, did_you_mean, locate
from discovery.ecs.rules import ServiceRule
from discovery.ecs.shapes import Container, Task, TaskDefinition, World
from discovery.model import Endpoint, HealthCheck, Problem, Service, Snapshot, Tls, by_service

# How long a task must have run before those of a DRAINING instance step back in its favour: discovery
# does not see health checks, and a task that has just started may still be loading.
SETTLED_S: Final = 30.0

_ENDING: Final = ("DEACTIVATING", "STOPPING", "DEPROVISIONING")


def translate(
    world: World,
    *,
    source: str,
    rules: Sequence[ServiceRule] = (),
    domain: str = "",
    default_health: HealthCheck = HealthCheck(),  # noqa: B008 - frozen
    default_tls: Tls = Tls(),  # noqa: B008 - frozen
    now_s: float,
) -> Snapshot:
    """Return everything `world` says about the services of `rules`, of labels and of `domain`.

    `now_s` is Unix time. Every rule's service is in the result, with or without tasks; of the others,
    those that a task describes. Where a service's revisions differ, the newest one describes it.
    """
    rules = [_with_host(rule, domain) for rule in rules]
    problems: list[Problem] = []
    plans: dict[tuple[str, str], tuple[Route, ...]] = {}
    for task in world.tasks:
        definition = world.definitions.get(task.definition_arn)
        if definition is not None and (plan := (task.ecs_service, definition.arn)) not in plans:
            plans[plan], said = _routes(
                definition, task.ecs_service, rules, domain, default_health, default_tls
            )
            problems += said
    services, accepted, said = _services(plans, world, rules)
    problems += said
    endpoints: list[Endpoint] = []
    settled: set[str] = set()  # tasks
    for task in world.tasks:
        for route in plans.get((task.ecs_service, task.definition_arn), ()):
            if (route.service.name, task.ecs_service) not in accepted:
                continue
            container = task.container(route.container)
            if container is not None and (endpoint := _endpoint(world, task, container, route)) is not None:
                endpoints.append(endpoint)
                if container.health == "HEALTHY" or now_s - task.started_at >= SETTLED_S:
                    settled.add(task.arn)
    problems += _unreachable(world, endpoints, plans)
    problems += _silent_rules(world, rules)
    return Snapshot(
        source=source,
        services=MappingProxyType(services),
        by_service=by_service(_step_back(endpoints, world, settled)),
        problems=tuple(sorted(set(problems), key=lambda p: (p.where, p.what))),
    )


# --- which services -------------------------------------------------------------------------------


def _routes(
    definition: TaskDefinition,
    ecs_service: str,
    rules: Sequence[ServiceRule],
    domain: str,
    default_health: HealthCheck,
    default_tls: Tls,
) -> tuple[tuple[Route, ...], list[Problem]]:
    """Return what tasks of `ecs_service` with this definition serve: by config, else labels, else domain."""
    of_config = [rule for rule in rules if ecs_service and rule.ecs_service == ecs_service]
    if of_config:
        return _by_config(definition, of_config)
    labels = read_labels(
        definition, ecs_service, domain=domain, default_health=default_health, default_tls=default_tls
    )
    problems = list(labels.problems)
    if labels.spoken or not (ecs_service and domain):
        return labels.routes, problems
    candidates = [c for c in definition.containers if c.name not in labels.disabled]
    if not any(m.protocol == "tcp" for c in candidates for m in c.ports):
        return (), problems  # a worker that serves nobody is no mistake
    try:
        container, port = choose_port(definition, without=labels.disabled)
    except PortChoiceError as exc:
        where = f"task-definition/{definition.short}, ECS service {ecs_service}"
        return (), [*problems, Problem(where, f"{exc}, with the label anyport.port or a [[service]]")]
    service = Service(
        name=ecs_service,
        hosts=(f"{ecs_service}.{domain}".lower(),),
        health=default_health,
        origin="[ecs] domain",
    )
    return (Route(service, container, port),), problems


def _with_host(rule: ServiceRule, domain: str) -> ServiceRule:
    """Give a rule without host names the one its service would have without a rule."""
    if rule.service.hosts or not domain:
        return rule
    return replace(rule, service=replace(rule.service, hosts=(f"{rule.ecs_service}.{domain}".lower(),)))


def _by_config(
    definition: TaskDefinition, rules: Iterable[ServiceRule]
) -> tuple[tuple[Route, ...], list[Problem]]:
    routes, problems = [], []
    for rule in rules:
        try:
            container, port = choose_port(
                definition, container=rule.container, port=rule.port, port_name=rule.port_name
            )
        except PortChoiceError as exc:
            where = f"config, service {rule.service.name}, task-definition/{definition.short}"
            problems.append(Problem(where, str(exc)))
        else:
            routes.append(Route(rule.service, container, port))
    return tuple(routes), problems


def _services(
    plans: Mapping[tuple[str, str], tuple[Route, ...]], world: World, rules: Sequence[ServiceRule]
) -> tuple[dict[str, Service], set[tuple[str, str]], list[Problem]]:
    """Return the services by name, which (service, ECS service) may serve them, and what was refused."""
    services = {rule.service.name: rule.service for rule in rules}
    accepted = {(rule.service.name, rule.ecs_service) for rule in rules}
    rank = _ranks(world)
    claims: dict[str, dict[str, tuple[tuple[bool, int, float, str], Service]]] = {}
    for (ecs_service, arn), routes in plans.items():
        for route in routes:
            best = claims.setdefault(route.service.name, {})
            claim = (rank[ecs_service, arn], route.service)
            if ecs_service not in best or claim[0] > best[ecs_service][0]:
                best[ecs_service] = claim
    problems = []
    for name, by_ecs_service in sorted(claims.items()):
        # An ECS service of that very name is believed before one that only says so.
        for ecs_service, (_, service) in sorted(by_ecs_service.items(), key=lambda c: (c[0] != name, c[0])):
            if (name, ecs_service) in accepted:
                continue
            first = services.setdefault(name, service)
            if replace(first, origin="") == replace(service, origin=""):
                accepted.add((name, ecs_service))
                continue
            problems.append(
                Problem(
                    f"{service.origin}, ECS service {ecs_service or 'none'}",
                    f"service {name!r} is already described otherwise by {first.origin}: "
                    "say the same there, or choose another anyport.service",
                )
            )
    return services, accepted, problems


def _ranks(world: World) -> dict[tuple[str, str], tuple[bool, int, float, str]]:
    """Return how much each (ECS service, definition) is to be believed: newest revision that stays."""
    ranks: dict[tuple[str, str], tuple[bool, int, float, str]] = {}
    for task in world.tasks:
        definition = world.definitions.get(task.definition_arn)
        if definition is not None:
            plan = (task.ecs_service, definition.arn)
            live = task.last_status == "RUNNING" and task.desired_status == "RUNNING"
            rank = (live, definition.revision, task.started_at, definition.arn)
            ranks[plan] = max(rank, ranks.get(plan, rank))
    return ranks


# --- which endpoints ------------------------------------------------------------------------------


def _endpoint(world: World, task: Task, container: Container, route: Route) -> Endpoint | None:
    """Return the endpoint, or None while the container cannot be reached or is gone."""
    if container.last_status != "RUNNING" or task.last_status not in ("RUNNING", *_ENDING):
        return None
    definition = world.definitions[task.definition_arn]
    instance = world.instances.get(task.instance_arn)
    address = world.addresses.get(instance.ec2_id, "") if instance else ""
    place = locate(task, definition, container, route.port, address)
    if place is None:
        return None
    reason = _why_draining(task, container, definition)
    return Endpoint(
        service=route.service.name,
        task_arn=task.arn,
        container=container.name,
        container_port=route.port,
        host=place[0],
        port=place[1],
        draining=bool(reason),
        reason=reason,
        zone=task.zone or (instance.zone if instance else ""),
        instance=instance.ec2_id if instance else "",
        release=task.started_by if task.started_by.startswith("ecs-svc/") else definition.short,
        started_at=task.started_at,
        version=task.version,
    )


def _why_draining(task: Task, container: Container, definition: TaskDefinition) -> str:
    """Return why nothing new may start there, or ""."""
    if task.desired_status == "STOPPED" or task.last_status in _ENDING:
        return "ECS is stopping the task" + (f" ({task.stop_code})" if task.stop_code else "")
    if container.health == "UNHEALTHY":
        return "container health UNHEALTHY"
    described = definition.container(container.name)
    # UNKNOWN also means that ECS has lost sight of the agent, which says nothing about the container.
    if (
        container.health == "UNKNOWN"
        and described is not None
        and described.has_health_check
        and task.connectivity != "DISCONNECTED"
    ):
        return "container health UNKNOWN: its health check has not passed yet"
    return ""


def _step_back(endpoints: Iterable[Endpoint], world: World, settled: set[str]) -> list[Endpoint]:
    """Let tasks on DRAINING instances drain, as soon as the rest of their service can carry the load.

    ECS leaves them running until their replacements run, and discovery does not see health checks: so
    they step back only for at least as many settled ones elsewhere, never on the first sight of one.
    """
    leaving = {
        instance.ec2_id: f"container instance {instance.ec2_id} is DRAINING"
        for instance in world.instances.values()
        if instance.status == "DRAINING" and instance.ec2_id
    }
    by_service: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_service.setdefault(endpoint.service, []).append(endpoint)
    result = []
    for group in by_service.values():
        going = [e for e in group if not e.draining and e.instance in leaving]
        staying = sum(not e.draining and e.instance not in leaving and e.task_arn in settled for e in group)
        drain = {e.key for e in going} if staying >= len(going) else set()
        result += [
            replace(e, draining=True, reason=leaving[e.instance]) if e.key in drain else e for e in group
        ]
    return result


# --- what the operator should know ----------------------------------------------------------------


def _unreachable(
    world: World, endpoints: Iterable[Endpoint], plans: Mapping[tuple[str, str], tuple[Route, ...]]
) -> list[Problem]:
    """Return why running tasks that somebody wants have no address."""
    placed = {endpoint.task_arn for endpoint in endpoints}
    problems = []
    for task in world.tasks:
        if task.arn in placed or task.last_status != "RUNNING" or task.desired_status != "RUNNING":
            continue
        if not plans.get((task.ecs_service, task.definition_arn)):
            continue
        mode = world.definitions[task.definition_arn].network_mode
        instance = world.instances.get(task.instance_arn)
        if mode == "none":
            where = f"task-definition/{world.definitions[task.definition_arn].short}"
            problems.append(Problem(where, 'networkMode "none": nothing outside can reach the task'))
        elif mode == "awsvpc" or instance is None or instance.ec2_id in world.addresses:
            continue  # its address or binding is not known yet: the usual state of a young task
        elif instance.ec2_id.startswith("mi-"):
            problems.append(
                Problem(
                    f"cluster {world.cluster}, container instance {instance.ec2_id}",
                    "is an ECS Anywhere machine, whose address the EC2 API does not know: its tasks are "
                    "left out; list their addresses as a static service",
                )
            )
        else:
            problems.append(
                Problem(
                    f"cluster {world.cluster}, container instance {instance.ec2_id}",
                    "has no private address in ec2:DescribeInstances (terminated?): its tasks are left out",
                )
            )
    return problems


def _silent_rules(world: World, rules: Sequence[ServiceRule]) -> list[Problem]:
    """Return the rules no task belongs to: scaled to nothing, or a name with a slip in it."""
    seen = sorted({task.ecs_service for task in world.tasks if task.ecs_service})
    return [
        Problem(
            f"config, service {rule.service.name}",
            f"no task of ECS service {rule.ecs_service!r} in cluster {world.cluster}"
            + (did_you_mean(rule.ecs_service, seen) or (f"; there are: {', '.join(seen)}" if seen else "")),
        )
        for rule in rules
        if rule.ecs_service not in seen
    ]
