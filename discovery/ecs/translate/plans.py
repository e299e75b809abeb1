"""Which services the tasks of one ECS service with one task definition serve. Pure.

The configuration is asked first, then the labels of the definition, then `[ecs] domain`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from discovery.ecs.shapes import TaskDefinition
from discovery.ecs.translate.labels import Route, read_labels
from discovery.ecs.translate.ports import PortChoiceError, choose_port
from discovery.ecs.translate.rules import ServiceRule
from discovery.model import HealthCheck, Problem, Service, Tls


class Plan(NamedTuple):
    """What such tasks serve, and what about that the operator should know."""

    routes: tuple[Route, ...]
    problems: tuple[Problem, ...]


def plan(
    definition: TaskDefinition,
    ecs_service: str,
    *,
    rules: Sequence[ServiceRule],
    domain: str,
    default_health: HealthCheck,
    default_tls: Tls,
) -> Plan:
    """Return what tasks of *ecs_service* ("": none) with this definition serve."""
    of_config = [rule for rule in rules if ecs_service and rule.ecs_service == ecs_service]
    if of_config:
        return _by_config(definition, of_config)
    labels = read_labels(
        definition, ecs_service, domain=domain, default_health=default_health, default_tls=default_tls
    )
    if labels.spoken or not (ecs_service and domain):
        return Plan(labels.routes, labels.problems)
    candidates = [c for c in definition.containers if c.name not in labels.disabled]
    if not any(m.protocol == "tcp" for c in candidates for m in c.ports):
        return Plan((), labels.problems)  # a worker that serves nobody is no mistake
    try:
        container, port = choose_port(definition, without=labels.disabled)
    except PortChoiceError as exc:
        where = f"task-definition/{definition.short}, ECS service {ecs_service}"
        problem = Problem(where, f"{exc}, with the label anyport.port or a [[service]]")
        return Plan((), (*labels.problems, problem))
    service = Service(
        name=ecs_service,
        hosts=(f"{ecs_service}.{domain}".lower(),),
        health=default_health,
        origin="[ecs] domain",
    )
    return Plan((Route(service, container, port),), labels.problems)


def with_host(rule: ServiceRule, domain: str) -> ServiceRule:
    """Give a rule without host names the one its service would have without a rule."""
    if rule.service.hosts or not domain:
        return rule
    return replace(rule, service=replace(rule.service, hosts=(f"{rule.ecs_service}.{domain}".lower(),)))


def _by_config(definition: TaskDefinition, rules: Iterable[ServiceRule]) -> Plan:
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
    return Plan(tuple(routes), tuple(problems))
