"""The few fields of ECS API answers that matter, checked once and kept without the rest.

A task definition holds environment variables and secrets in plain text. They end here: what these
functions return has no place for them, so nothing further on can log, cache or show them.

Every reader raises `DiscoveryError("malformed")` when a field it needs is absent or of another type:
an answer that cannot be understood is no answer, and removes nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NoReturn

from discovery.model import DiscoveryError

LABEL_PREFIX: Final = "anyport."

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    """One entry of portMappings; a single port is a range of one."""

    first: int
    last: int
    host_port: int = 0  # 0: given out when the container starts
    protocol: str = "tcp"
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerDefinition:
    name: str
    ports: tuple[PortMapping, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()  # only `anyport.*`, as written
    has_health_check: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    arn: str
    network_mode: str = "bridge"
    containers: tuple[ContainerDefinition, ...] = ()

    @property
    def short(self) -> str:
        """Return "family:revision"."""
        return short_name(self.arn)

    @property
    def revision(self) -> int:
        tail = self.arn.rpartition(":")[2]
        return int(tail) if tail.isascii() and tail.isdigit() and len(tail) <= 9 else 0

    def container(self, name: str) -> ContainerDefinition | None:
        return next((c for c in self.containers if c.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Host ports that lead to container ports, as the agent reported them; one port is a range of one."""

    first: int
    last: int
    host_first: int
    protocol: str = "tcp"
    bind_ip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    name: str
    last_status: str
    health: str = "UNKNOWN"
    runtime_id: str = ""
    bindings: tuple[Binding, ...] = ()
    ipv4: tuple[str, ...] = ()  # awsvpc only
    ipv6: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    arn: str
    definition_arn: str
    last_status: str
    desired_status: str
    group: str = ""
    started_by: str = ""
    instance_arn: str = ""  # "" on Fargate
    zone: str = ""
    connectivity: str = ""
    stop_code: str = ""
    version: int = 0  # 0: not told
    started_at: float = 0.0
    stopping_at: float = 0.0
    containers: tuple[Container, ...] = ()
    interfaces: tuple[str, ...] = ()  # addresses of its ENI attachments, IPv4 first

    @property
    def ecs_service(self) -> str:
        """Return the name of its ECS service, or "" for a task that was started alone."""
        prefix, _, name = self.group.partition(":")
        return name if prefix == "service" else ""

    def container(self, name: str) -> Container | None:
        return next((c for c in self.containers if c.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerInstance:
    arn: str
    ec2_id: str
    status: str = "ACTIVE"
    zone: str = ""
    version: int = 0


def short_name(arn: str) -> str:
    """Return what follows the last slash: "web:42", a task's id, a cluster's name (names pass unchanged)."""
    return arn.rpartition("/")[2]


def task_definition(raw: Json) -> TaskDefinition:
    """Read `taskDefinition` of DescribeTaskDefinition."""
    arn = _text(raw, "taskDefinitionArn", "a task definition")
    return TaskDefinition(
        arn=arn,
        network_mode=_text(raw, "networkMode", arn, "bridge"),
        containers=tuple(_container_definition(c, arn) for c in _items(raw, "containerDefinitions", arn)),
    )


def _container_definition(raw: Json, of: str) -> ContainerDefinition:
    labels = raw.get("dockerLabels") or {}
    if not isinstance(labels, Mapping):
        _malformed(of, "dockerLabels", labels)
    return ContainerDefinition(
        name=_text(raw, "name", of),
        ports=tuple(
            _port_mapping(p, of)
            for p in _items(raw, "portMappings", of, optional=True)
            if p.get("containerPort") or p.get("containerPortRange")
        ),
        labels=tuple(sorted((k, str(v)) for k, v in labels.items() if k.lower().startswith(LABEL_PREFIX))),
        has_health_check=bool(raw.get("healthCheck")),
    )


def _port_mapping(raw: Json, of: str) -> PortMapping:
    first, last = _span(raw, "containerPort", "containerPortRange", of)
    return PortMapping(
        first=first,
        last=last,
        host_port=_number(raw, "hostPort", of, 0),
        protocol=_text(raw, "protocol", of, "tcp").lower(),
        name=_text(raw, "name", of, ""),
    )


def task(raw: Json) -> Task:
    """Read one of `tasks` of DescribeTasks."""
    arn = _text(raw, "taskArn", "a task")
    result = Task(
        arn=arn,
        definition_arn=_text(raw, "taskDefinitionArn", arn),
        last_status=_text(raw, "lastStatus", arn),
        desired_status=_text(raw, "desiredStatus", arn),
        group=_text(raw, "group", arn, ""),
        started_by=_text(raw, "startedBy", arn, ""),
        instance_arn=_text(raw, "containerInstanceArn", arn, ""),
        zone=_text(raw, "availabilityZone", arn, ""),
        connectivity=_text(raw, "connectivity", arn, ""),
        stop_code=_text(raw, "stopCode", arn, ""),
        version=_number(raw, "version", arn, 0),
        started_at=_instant(raw, "startedAt", arn),
        stopping_at=_instant(raw, "stoppingAt", arn),
        containers=tuple(_container(c, arn) for c in _items(raw, "containers", arn)),
        interfaces=_interfaces(raw, arn),
    )
    if result.last_status == "RUNNING":
        if not result.containers:
            _malformed(arn, "containers", [])
        if raw.get("launchType") in ("EC2", "EXTERNAL") and not result.instance_arn:
            _malformed(arn, "containerInstanceArn", None)
    return result


def _container(raw: Json, of: str) -> Container:
    interfaces = _items(raw, "networkInterfaces", of, optional=True)
    return Container(
        name=_text(raw, "name", of),
        last_status=_text(raw, "lastStatus", of),
        health=_text(raw, "healthStatus", of, "UNKNOWN"),
        runtime_id=_text(raw, "runtimeId", of, ""),
        bindings=in_order(
            _binding(b, of)
            for b in _items(raw, "networkBindings", of, optional=True)
            if b.get("hostPort") or b.get("hostPortRange")  # without one it is not bound yet
        ),
        ipv4=tuple(_ip(i["privateIpv4Address"], of) for i in interfaces if i.get("privateIpv4Address")),
        ipv6=tuple(_ip(i["ipv6Address"], of) for i in interfaces if i.get("ipv6Address")),
    )


def _binding(raw: Json, of: str) -> Binding:
    first, last = _span(raw, "containerPort", "containerPortRange", of)
    host_first, host_last = _span(raw, "hostPort", "hostPortRange", of)
    if host_last - host_first != last - first:
        _malformed(of, "hostPortRange", raw.get("hostPortRange"))
    return Binding(
        first=first,
        last=last,
        host_first=host_first,
        protocol=_text(raw, "protocol", of, "tcp").lower(),  # absent in old payloads
        bind_ip=_text(raw, "bindIP", of, ""),
    )


def in_order(bindings: Iterable[Binding]) -> tuple[Binding, ...]:
    """Return *bindings* in an order of their own: that of the API is not stable."""
    return tuple(sorted(bindings, key=lambda b: (b.first, b.protocol, b.host_first, b.bind_ip, b.last)))


def _interfaces(raw: Json, of: str) -> tuple[str, ...]:
    """Return the addresses of the ENI attachments; the API and events spell the type differently."""
    details: list[tuple[str, str]] = []
    for attachment in _items(raw, "attachments", of, optional=True):
        if attachment.get("type") in ("ElasticNetworkInterface", "eni"):
            details += [
                (_text(d, "name", of, ""), _text(d, "value", of, ""))
                for d in _items(attachment, "details", of, optional=True)
            ]
    wanted = ("privateIPv4Address", "ipv6Address")
    return tuple(_ip(value, of) for want in wanted for name, value in details if name == want and value)


def container_instance(raw: Json) -> ContainerInstance:
    """Read one of `containerInstances` of DescribeContainerInstances."""
    arn = _text(raw, "containerInstanceArn", "a container instance")
    attributes = _items(raw, "attributes", arn, optional=True)
    return ContainerInstance(
        arn=arn,
        ec2_id=_text(raw, "ec2InstanceId", arn, ""),
        status=_text(raw, "status", arn),
        zone=next(
            (_text(a, "value", arn, "") for a in attributes if a.get("name") == "ecs.availability-zone"), ""
        ),
        version=_number(raw, "version", arn, 0),
    )


def tasks_on_instance(raw: Json) -> tuple[int, int]:
    """Return how many tasks run, and how many are on their way, on one of `containerInstances`."""
    arn = _text(raw, "containerInstanceArn", "a container instance")
    return _number(raw, "runningTasksCount", arn), _number(raw, "pendingTasksCount", arn)


def tasks_of_service(raw: Json) -> tuple[str, int]:
    """Return the name of one of `services` of DescribeServices, and how many tasks it has, or soon has."""
    name = _text(raw, "serviceName", "an ECS service")
    return name, _number(raw, "runningCount", name) + _number(raw, "pendingCount", name)


def instance_address(raw: Json) -> tuple[str, str]:
    """Read one instance of ec2:DescribeInstances: (id, address), the address "" if it has none (any more)."""
    ec2_id = _text(raw, "InstanceId", "an EC2 instance")
    found = _text(raw, "PrivateIpAddress", ec2_id, "") or _text(raw, "Ipv6Address", ec2_id, "")
    if not found:
        for interface in _items(raw, "NetworkInterfaces", ec2_id, optional=True):
            for address in _items(interface, "Ipv6Addresses", ec2_id, optional=True):
                found = found or _text(address, "Ipv6Address", ec2_id, "")
    return ec2_id, _ip(found, ec2_id) if found else ""


# --- reading one field ---------------------------------------------------------------------------


def _malformed(of: str, name: str, value: object) -> NoReturn:
    # The type only: the value could be anything, secrets included.
    raise DiscoveryError("malformed", f"{of}: field {name} is missing or senseless ({type(value).__name__})")


def _text(raw: Json, name: str, of: str, default: str | None = None) -> str:
    value = raw.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        _malformed(of, name, value)
    return value


def _number(raw: Json, name: str, of: str, default: int | None = None) -> int:
    value = raw.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        _malformed(of, name, value)
    return value


def _items(raw: Json, name: str, of: str, *, optional: bool = False) -> list[Json]:
    value = raw.get(name)
    if value is None and optional:
        return []
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        _malformed(of, name, value)
    return value


def _span(raw: Json, single: str, span: str, of: str) -> tuple[int, int]:
    """Return (first, last) of a port given as one number or as "7000-7002"."""
    if raw.get(single):
        port = _number(raw, single, of)
        first = last = str(port)
    else:
        first, dash, last = _text(raw, span, of).partition("-")
        last = last if dash else first
    numbers = []
    for text in (first, last):
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535):
            _malformed(of, single, raw.get(single, raw.get(span)))
        numbers.append(int(text))
    if numbers[0] > numbers[1]:
        _malformed(of, span, raw.get(span))
    return numbers[0], numbers[1]


def _instant(raw: Json, name: str, of: str) -> float:
    """Return Unix seconds; boto3 gives a datetime, an event an ISO text, plain JSON a number."""
    value = raw.get(name)
    if value is None:
        return 0.0
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError):
        _malformed(of, name, value)


def _ip(value: object, of: str) -> str:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        _malformed(of, "address", value)
