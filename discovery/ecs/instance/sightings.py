"""What the agent's introspection API says, read strictly. Pure.

Facts: amazon-ecs-agent, ecs-agent/introspection/v1/response.go and agent/handlers/v1/response.go. It names
neither group nor labels nor health; it lists tasks, containers and ports in no order; a port that Docker
binds for IPv4 and IPv6 stands there twice; one that is not bound yet has no host port; a task that has
stopped stays listed for hours.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

import orjson

from discovery.ecs.ledger.words import Sighting
from discovery.ecs.shapes import Binding, Container
from discovery.identity import Arn, parse_arn
from discovery.model import DiscoveryError

_STATUSES: Final = ("PENDING", "RUNNING", "STOPPED")
_DESIRED: Final = ("", "RUNNING", "STOPPED")
_MOST_CHARACTERS: Final = 300


class Reader:
    """Reads answers to /v1/tasks of the agent on one instance; what is as before is not read again."""

    def __init__(self, instance_arn: str) -> None:
        """*instance_arn* is that of the container instance, as `identity.of_agent` has checked it."""
        arn = parse_arn(instance_arn)
        if arn is None:
            raise ValueError(f"{instance_arn!r} is no ARN")
        self._home = arn
        self._body = b""
        self._raw: dict[str, Mapping[str, Any]] = {}
        self._sightings: dict[str, Sighting] = {}

    def same(self, body: bytes) -> bool:
        """Return whether *body* is what was read last."""
        return body == self._body

    def read(self, body: bytes) -> Iterable[Sighting]:
        """Return every task the agent lists; raise `DiscoveryError` for an answer that makes no sense."""
        if self._body and body == self._body:
            return self._sightings.values()
        raw, sightings = {}, {}
        for item in _tasks(body):
            arn = _text(item, "Arn")
            if arn in raw:
                _malformed("Arn")
            raw[arn] = item
            # The same JSON is the same sighting: of a hundred tasks one has changed.
            known = self._sightings.get(arn) if self._raw.get(arn) == item else _sighting(item, self._home)
            if known is not None:
                sightings[arn] = known
        self._body, self._raw, self._sightings = body, raw, sightings
        return sightings.values()


def _tasks(body: bytes) -> list[Mapping[str, Any]]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        _malformed("the body")
    if not isinstance(document, dict) or "Tasks" not in document:
        _malformed("Tasks")
    tasks = document["Tasks"]
    if tasks is None:  # what Go prints for an empty list that was never made
        return []
    if not isinstance(tasks, list):
        _malformed("Tasks")
    return tasks


def _sighting(raw: Mapping[str, Any], home: Arn) -> Sighting | None:
    """Return what is said of one task, None for one of a cluster this instance was in before."""
    arn = parse_arn(_text(raw, "Arn"))
    if arn is None or arn.kind != "task" or (arn.region, arn.account) != (home.region, home.account):
        _malformed("Arn")
    if arn.cluster and home.cluster and arn.cluster != home.cluster:
        return None
    known, desired = _text(raw, "KnownStatus"), _text(raw, "DesiredStatus", "")
    if known not in _STATUSES or desired not in _DESIRED:
        _malformed("KnownStatus")
    revision = _text(raw, "Version")
    if not (revision.isascii() and revision.isdigit() and len(revision) <= 9):
        _malformed("Version")
    containers = [_container(c, known) for c in _items(raw, "Containers")] if known != "STOPPED" else []
    return Sighting(
        arn=_text(raw, "Arn"),
        definition=f"{_text(raw, 'Family')}:{int(revision)}",
        known_status=known,
        desired_status=desired,
        containers=tuple(sorted(containers, key=lambda c: c.name)),
    )


def _container(raw: Mapping[str, Any], known: str) -> Container:
    networks = _items(raw, "Networks")
    return Container(
        name=_text(raw, "Name"),
        last_status=known,  # it says nothing of single containers
        runtime_id=_text(raw, "DockerId", ""),
        # In awsvpc mode the ports are the container's own, and its networks are told instead.
        bindings=() if networks else _bindings(_items(raw, "Ports")),
        ipv4=_addresses(networks, "IPv4Addresses"),
        ipv6=_addresses(networks, "IPv6Addresses"),
    )


def _bindings(ports: Iterable[Mapping[str, Any]]) -> tuple[Binding, ...]:
    found = set()
    for port in ports:
        protocol = _text(port, "Protocol", "tcp").lower()
        container_port, host_port = _port(port, "ContainerPort"), _port(port, "HostPort")
        if container_port and host_port:  # without one it is not bound yet
            found.add((container_port, host_port, protocol))
    return tuple(Binding(first=c, last=c, host_first=h, protocol=p) for c, h, p in sorted(found))


def _addresses(networks: Iterable[Mapping[str, Any]], name: str) -> tuple[str, ...]:
    found = []
    for network in networks:
        values = network.get(name)
        if values is None:
            continue
        if not isinstance(values, list):
            _malformed(name)
        found += [_address(value, name) for value in values]
    return tuple(found)


def _address(value: object, name: str) -> str:
    try:
        return str(ipaddress.ip_address(value)) if isinstance(value, str) else _malformed(name)
    except ValueError:
        _malformed(name)


def _text(raw: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = raw.get(name) if isinstance(raw, dict) else None
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS or (not value and default is None):
        _malformed(name)
    return value


def _items(raw: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = raw.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        _malformed(name)
    return value


def _port(raw: Mapping[str, Any], name: str) -> int:
    """Return a port, 0 if it is not told."""
    value = raw.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
        _malformed(name)
    return value


def _malformed(name: str) -> NoReturn:
    # Never the value: whoever answers here may be a stranger.
    raise DiscoveryError("malformed", f"the agent's list of tasks: {name} is missing or senseless")
