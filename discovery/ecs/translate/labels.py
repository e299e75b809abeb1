"""`anyport.*` docker labels: which service a container is, and how to reach it. Pure.

A container says `anyport.host`, `anyport.port`, ...; one that serves several services says
`anyport.route.<name>.host`, ... once for each. What makes no sense is a `Problem` and leaves its
route out: a guess could send one service's users to another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from discovery.ecs.shapes import LABEL_PREFIX, ContainerDefinition, TaskDefinition
from discovery.ecs.translate.label_values import KEYS, ROUTE_NAME, BadValue, read_switch
from discovery.ecs.translate.ports import PortChoiceError, choose_port
from discovery.model import HealthCheck, Problem, Service, Tls
from discovery.spelling import did_you_mean


class Route(NamedTuple):
    """A service, and the container port that answers for it."""

    service: Service
    container: str
    port: int


@dataclass(frozen=True, slots=True)
class Labels:
    """What the labels of one task definition say."""

    routes: tuple[Route, ...] = ()
    problems: tuple[Problem, ...] = ()
    spoken: bool = False  # a label describes a service, or tried to: nothing shall be inferred beside it
    disabled: frozenset[str] = frozenset()  # containers that said anyport.enable=false


def read_labels(
    definition: TaskDefinition,
    ecs_service: str,
    *,
    domain: str,
    default_health: HealthCheck,
    default_tls: Tls = Tls(),  # noqa: B008 - frozen
) -> Labels:
    """Return the routes that the labels of `definition` describe, for tasks of `ecs_service` ("": none).

    `default_tls` has the files for those that ask for TLS: labels come from outside and name no files.
    """
    routes: list[Route] = []
    problems: list[Problem] = []
    disabled: set[str] = set()
    spoken = False
    for container in definition.containers:
        reader = _ContainerLabels(definition, container, ecs_service, domain, default_health, default_tls)
        problems += reader.problems
        if not reader.enabled:
            disabled.add(container.name)
        elif reader.routes or reader.problems:
            spoken = True
            routes += reader.routes
    routes, clashes = _without_clashes(routes, definition)
    return Labels(tuple(routes), tuple(problems + clashes), spoken, frozenset(disabled))


def _without_clashes(routes: list[Route], definition: TaskDefinition) -> tuple[list[Route], list[Problem]]:
    """Leave out every service that two routes of one task definition describe."""
    by_name: dict[str, list[Route]] = {}
    for route in routes:
        by_name.setdefault(route.service.name, []).append(route)
    problems = [
        Problem(
            f"task-definition/{definition.short}, label anyport.service",
            f"service {name!r} is claimed by "
            + " and ".join(f"container {r.container} port {r.port}" for r in claims)
            + ": give each its own anyport.service",
        )
        for name, claims in by_name.items()
        if len(claims) > 1
    ]
    return [claims[0] for claims in by_name.values() if len(claims) == 1], problems


# --- one container -------------------------------------------------------------------------------


class _ContainerLabels:
    """Reads the labels of one container into `routes` and `problems`."""

    def __init__(
        self,
        definition: TaskDefinition,
        container: ContainerDefinition,
        ecs_service: str,
        domain: str,
        default_health: HealthCheck,
        default_tls: Tls,
    ) -> None:
        self._definition = definition
        self._container = container
        self._ecs_service = ecs_service
        self._domain = domain
        self._default_health = default_health
        self._default_tls = default_tls
        self.routes: list[Route] = []
        self.problems: list[Problem] = []
        labels = self._lower_case()
        self.enabled = self._enabled(labels.pop("enable", "true"))
        if self.enabled:
            self._read(labels)

    def _problem(self, label: str, what: str) -> None:
        where = (
            f"task-definition/{self._definition.short}, container {self._container.name}, "
            f"label {LABEL_PREFIX}{label}"
        )
        self.problems.append(Problem(where, what))

    def _lower_case(self) -> dict[str, str]:
        labels: dict[str, str] = {}
        for written, value in self._container.labels:
            key = written.lower()[len(LABEL_PREFIX) :]
            if labels.get(key, value) != value:
                self._problem(key, "is given twice, in different letter cases and with different values")
            labels[key] = value.strip()
        return labels

    def _enabled(self, value: str) -> bool:
        try:
            return read_switch(value)
        except BadValue as exc:
            self._problem("enable", str(exc))
            return True

    def _read(self, labels: Mapping[str, str]) -> None:
        """Sort the labels into routes; an unknown one could belong to any, so it stops them all."""
        by_route: dict[str, dict[str, str]] = {}
        for key, value in labels.items():
            route, name = _split(key)
            if name in KEYS and (not route or ROUTE_NAME.fullmatch(route)):
                by_route.setdefault(route, {})[name] = value
            else:
                self._problem(key, f"is not a label of anyport{_hint(route, name)}")
        if self.problems:
            return
        if not by_route and self._container.labels:
            by_route[""] = {}  # anyport.enable=true alone: everything else has a default
        for route, values in sorted(by_route.items()):
            self._route(route, values)

    def _route(self, route: str, values: Mapping[str, str]) -> None:
        prefix = f"route.{route}." if route else ""
        parsed: dict[str, Any] = {}
        for name, value in values.items():
            try:
                parsed[name] = KEYS[name](value)
            except BadValue as exc:
                self._problem(prefix + name, str(exc))
        if len(parsed) < len(values):
            return
        service = parsed.get("service") or self._default_name(route)
        if not service:
            self._problem(
                f"{prefix}service", "is needed: the task belongs to no ECS service to take a name from"
            )
            return
        hosts = parsed.get("host") or ((f"{service}.{self._domain}".lower(),) if self._domain else ())
        if not hosts:
            self._problem(f"{prefix}host", 'is needed, such as "web.example.com" (or set domain in [ecs])')
            return
        health = _health(parsed, self._default_health)
        if health.timeout_s > health.interval_s:
            self._problem(
                f"{prefix}health.timeout",
                f"{health.timeout_s:g}s is longer than the interval of {health.interval_s:g}s",
            )
            return
        proof = next((n for n in ("identity-header", "identity-body") if parsed.get(f"health.{n}")), "")
        if proof and health.kind != "http":
            self._problem(
                f"{prefix}health.{proof}",
                f"needs an answer to look into, and the check is of kind {health.kind!r}",
            )
            return
        try:
            tls = _tls(parsed, self._default_tls)
        except BadValue as exc:
            self._problem(f"{prefix}tls.name", str(exc))
            return
        number, name = parsed.get("port", (None, ""))
        try:
            _, port = choose_port(
                self._definition, container=self._container.name, port=number, port_name=name
            )
        except PortChoiceError as exc:
            self._problem(f"{prefix}port", str(exc))
            return
        self.routes.append(
            Route(
                Service(
                    name=service,
                    hosts=hosts,
                    path=parsed.get("path", "/"),
                    health=health,
                    tls=tls,
                    origin=f"task-definition/{self._definition.short} labels",
                ),
                self._container.name,
                port,
            )
        )

    def _default_name(self, route: str) -> str:
        if not self._ecs_service or not route:
            return self._ecs_service
        return f"{self._ecs_service}-{route}"


def _split(key: str) -> tuple[str, str]:
    """Return (route, key within it): "route.admin.health.path" is ("admin", "health.path")."""
    if key.startswith("route."):
        route, _, name = key.removeprefix("route.").partition(".")
        return route, name
    return "", key


def _hint(route: str, name: str) -> str:
    if route and not ROUTE_NAME.fullmatch(route):
        return ": a route's name is letters, digits and hyphens, as in anyport.route.admin.host"
    near = did_you_mean(name, (*KEYS, "enable"))
    if route and near:
        near = near.replace("'", f"'{LABEL_PREFIX}route.{route}.", 1)
    elif near:
        near = near.replace("'", f"'{LABEL_PREFIX}", 1)
    return near or f"; known are {', '.join((*KEYS, 'enable'))}"


def _health(parsed: Mapping[str, Any], default: HealthCheck) -> HealthCheck:
    changes = {
        field: parsed[f"health.{label}"]
        for label, field in _HEALTH_FIELDS.items()
        if f"health.{label}" in parsed
    }
    health = replace(default, **changes)
    if "timeout_s" not in changes and health.timeout_s > health.interval_s:
        return replace(health, timeout_s=health.interval_s)  # only the default is too long: follow the label
    return health


def _tls(parsed: Mapping[str, Any], default: Tls) -> Tls | None:
    mode, name = parsed.get("tls", "off"), parsed.get("tls.name", "")
    if mode == "off":
        if name:
            raise BadValue('says nothing without anyport.tls: add anyport.tls = "verify"')
        return None
    if mode == "verify" and not name:
        raise BadValue(
            'is needed with anyport.tls = "verify": a name that the container\'s certificate is for'
        )
    verify = mode == "verify"
    return replace(default, name=name, verify=verify, ca=default.ca if verify else "")


_HEALTH_FIELDS: Final = {
    "kind": "kind",
    "path": "path",
    "interval": "interval_s",
    "timeout": "timeout_s",
    "healthy": "healthy_threshold",
    "unhealthy": "unhealthy_threshold",
    "host": "host",
    "identity-header": "identity_header",
    "identity-body": "identity_body",
}


def known_labels() -> Iterator[str]:
    """Yield every label a container may carry, for the manual and its test."""
    yield f"{LABEL_PREFIX}enable"
    for key in KEYS:
        yield LABEL_PREFIX + key
