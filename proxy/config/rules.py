"""What no single key can show: whether the keys of a configuration fit together. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.config.clusters import clusters_of
from proxy.config.model import BackendTls, Config, Health, Service
from proxy.config.positions import Path
from proxy.config.text import split_address

_TOKEN_CHARACTERS = 16  # fewer can be guessed
_PROOF = frozenset(("kind", "identity_header", "identity_body"))


@dataclass(frozen=True, slots=True)
class Problem:
    """Keys that do not fit together. The first of `paths` is where it is shown."""

    paths: tuple[Path, ...]
    message: str
    hint: str


def check(config: Config) -> Iterator[Problem]:
    """Yield everything in *config* that cannot work."""
    yield from _addresses(config)
    yield from _proxy_protocol(config)
    yield from _admin(config)
    yield from _fleet(config)
    yield from _clusters(config)
    yield from _events(config)
    yield from _timing(config)
    yield from _names(config)
    yield from _routes(config)
    yield from _client_pair(config.backend_tls, ("backend_tls",))
    for index, service in enumerate(config.service):
        yield from _places(config, service, ("service", index))
        yield from _tls(service, ("service", index, "tls"))
    if not clusters_of(config.ecs) and not config.service and not config.file.path:
        yield Problem(
            (("ecs",), ("service",)),
            "there is nothing to route to: no [ecs] clusters and no [[service]]",
            'add `clusters = ["<name>"]` under [ecs], or a [[service]] with `static = ["ip:port"]`',
        )


def _addresses(config: Config) -> Iterator[Problem]:
    if not config.listener:
        yield Problem((("listener",),), "there is no listener", "leave the key out for 0.0.0.0:8080")
    bound: list[tuple[Path, str]] = [
        *((("listener", i, "address"), listener.address) for i, listener in enumerate(config.listener)),
        (("metrics", "address"), config.metrics.address),
        (("admin", "address"), config.admin.address),
    ]
    for position, (path, address) in enumerate(bound):
        for earlier_path, earlier in bound[:position]:
            if _collide(address, earlier):
                yield Problem(
                    (path, earlier_path),
                    f"`{dotted(path)}` {address} and `{dotted(earlier_path)}` {earlier} cannot both be bound",
                    "give one of them another port",
                )
                break


def _proxy_protocol(config: Config) -> Iterator[Problem]:
    for index, listener in enumerate(config.listener):
        if listener.proxy_protocol and not config.trusted_proxies:
            yield Problem(
                (("listener", index, "proxy_protocol"), ("trusted_proxies",)),
                "`proxy_protocol` is on and nobody may send the header: `trusted_proxies` is empty",
                'name the load balancers in front: trusted_proxies = ["10.0.0.0/8"]',
            )


def _collide(one: str, other: str) -> bool:
    (host, port), (other_host, other_port) = split_address(one), split_address(other)
    a, b = ipaddress.ip_address(host), ipaddress.ip_address(other_host)
    if port != other_port or port == 0 or a.version != b.version:
        return False
    return a == b or a.is_unspecified or b.is_unspecified


def _admin(config: Config) -> Iterator[Problem]:
    token, path = config.admin.token.get_secret_value(), ("admin", "token")
    host, _ = split_address(config.admin.address)
    if not token and not ipaddress.ip_address(host).is_loopback:
        yield Problem(
            (("admin", "address"), path),
            "the admin API would be open to the network",
            f'set `token` in [admin] ({_TOKEN_CHARACTERS} characters), or `address = "127.0.0.1:9181"`',
        )
    yield from _hard_to_guess(token, path)


def _fleet(config: Config) -> Iterator[Problem]:
    yield from _hard_to_guess(config.fleet.key.get_secret_value(), ("fleet", "key"))
    if config.fleet.alone and config.fleet.key.get_secret_value():
        yield Problem(
            (("fleet", "alone"), ("fleet", "key")),
            "`alone` is for the only proxy there is, and a key is for several",
            "leave one of them out",
        )
    host, port = split_address(config.metrics.address)
    if config.fleet.key.get_secret_value() and ipaddress.ip_address(host).is_loopback:
        yield Problem(
            (("metrics", "address"), ("fleet", "key")),
            "the other proxies of the fleet cannot reach [metrics] on a loopback address",
            f'write `address = "0.0.0.0:{port}"`, or leave out the key',
        )


def _hard_to_guess(secret: str, path: Path) -> Iterator[Problem]:
    if secret and (
        len(secret) < _TOKEN_CHARACTERS or not secret.isascii() or not secret.isprintable() or " " in secret
    ):
        yield Problem(
            (path,),
            f"`{path[-1]}` must be {_TOKEN_CHARACTERS} or more ASCII characters without spaces",
            "make one with: openssl rand -hex 32",
        )


def _clusters(config: Config) -> Iterator[Problem]:
    seen: set[str] = set()
    for path, at in zip(_cluster_paths(config), clusters_of(config.ecs), strict=True):
        if not at.cluster.strip():
            yield Problem((path,), "a cluster needs a name", "write its name or its ARN")
        elif at.id in seen:
            yield Problem(
                (path,),
                f'cluster "{at.cluster}" is named twice',
                "leave one out, or say which Region each is in",
            )
        elif at.external_id and not at.role_arn:
            yield Problem(
                ((*path[:-1], "external_id"), (*path[:-1], "role_arn")),
                "`external_id` is of no use without `role_arn`",
                "add the role that asks for it, or leave it out",
            )
        seen.add(at.id)


def _cluster_paths(config: Config) -> Iterator[Path]:
    """Yield where each cluster is named, in the order of `clusters_of`."""
    yield from (("ecs", "clusters", index) for index in range(len(config.ecs.clusters)))
    yield from (("ecs", "cluster", index, "name") for index in range(len(config.ecs.cluster)))


def _events(config: Config) -> Iterator[Problem]:
    events = config.ecs.events
    if events.topic and events.queue != "auto":
        yield Problem(
            (("ecs", "events", "topic"), ("ecs", "events", "queue")),
            "`topic` is set, and no queue of our own is to be subscribed to it",
            'write `queue = "auto"`, or leave `topic` out',
        )


def _timing(config: Config) -> Iterator[Problem]:
    yield from _health(config.health, ("health",))
    yield from _proof(config.health, config.health, ("health",))
    for index, service in enumerate(config.service):
        if service.health is not None and service.health.model_fields_set & {"interval_s", "timeout_s"}:
            yield from _health(service.health, ("service", index, "health"))
        if service.health is not None and service.health.model_fields_set & _PROOF:
            yield from _proof(service.health, config.health, ("service", index, "health"))
    if config.limits.request_line_bytes > config.limits.request_head_bytes:
        yield Problem(
            (("limits", "request_line_bytes"), ("limits", "request_head_bytes")),
            "`request_line_bytes` is larger than `request_head_bytes`, which the line is part of",
            f"write at most {config.limits.request_head_bytes}",
        )
    timeouts = config.timeouts
    if timeouts.lb_drain_s >= timeouts.drain_s:
        yield Problem(
            (("timeouts", "lb_drain_s"), ("timeouts", "drain_s")),
            f"`lb_drain_s` ({timeouts.lb_drain_s:g}) leaves nothing of `drain_s` ({timeouts.drain_s:g})",
            "write less than `drain_s`; 0 where no load balancer stands in front",
        )


def _health(health: Health, path: Path) -> Iterator[Problem]:
    if health.timeout_s > health.interval_s:
        yield Problem(
            ((*path, "timeout_s"), (*path, "interval_s")),
            f"`timeout_s` ({health.timeout_s:g}) is longer than `interval_s` ({health.interval_s:g})",
            "a check must end before the next one begins",
        )


def _proof(health: Health, general: Health, path: Path) -> Iterator[Problem]:
    """A proof of identity is in the answer to a GET, and no other check gets one."""
    kind = health.kind if "kind" in health.model_fields_set else general.kind
    for key in ("identity_header", "identity_body"):
        if getattr(health, key) and kind != "http":
            yield Problem(
                ((*path, key), (*path, "kind")),
                f'`{key}` needs an answer to look into, and the check is of kind "{kind}"',
                'write `kind = "http"`, or leave it out',
            )


def _names(config: Config) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, service in enumerate(config.service):
        earlier = first.setdefault(service.name, index)
        if earlier != index:
            yield Problem(
                (("service", index, "name"), ("service", earlier, "name")),
                f'two services are named "{service.name}"',
                "give one of them another name",
            )


def _routes(config: Config) -> Iterator[Problem]:
    """Two services for one host and path: which of them a request means would be chance."""
    first: dict[tuple[str, str], int] = {}
    for index, service in enumerate(config.service):
        for host in hosts_of(service, config.ecs.domain):
            earlier = first.setdefault((host, service.path.rstrip("/") or "/"), index)
            if earlier != index:
                other = config.service[earlier].name
                yield Problem(
                    (("service", index, "hosts"), ("service", earlier, "hosts"), ("service", index, "path")),
                    f'"{service.name}" and "{other}" both answer to host "{host}" and path "{service.path}"',
                    "give one of them another host or path",
                )


def _places(config: Config, service: Service, path: Path) -> Iterator[Problem]:
    """Where a service runs. Both `ecs` and `static` is allowed: a server on its way into ECS."""
    if service.ecs is None and not (service.static or service.dns or config.file.path):
        yield Problem(
            (path,),
            "it runs nowhere",
            'say where: `static = ["ip:port"]`, `dns = ["name:port"]`, or [service.ecs] with '
            '`service = "<ECS service>"`',
        )
    if not hosts_of(service, config.ecs.domain):
        yield Problem(
            (path, (*path, "hosts"), ("ecs", "domain")),
            "it answers to no host",
            'add `hosts = ["web.example.com"]`, or `hosts = ["*"]` for every host, or `domain` in [ecs]',
        )
    for index, address in enumerate(service.static):
        host, port = split_address(address)
        if port == 0 or ipaddress.ip_address(host).is_unspecified:
            yield Problem(
                ((*path, "static", index),), f"nothing can be reached at {address}", "write where it runs"
            )
    if service.ecs is not None:
        yield from _target(config, service, (*path, "ecs"))


def _tls(service: Service, path: Path) -> Iterator[Problem]:
    tls = service.tls
    if tls is None:
        return
    yield from _client_pair(tls, path)
    if tls.verify and not tls.name:
        yield Problem(
            (path, (*path, "name"), (*path, "verify")),
            "it does not say which name the tasks' certificates are for",
            'add `name = "<a name in them>"`, or `verify = false` to believe whoever answers',
        )
    if tls.ca and not tls.verify:
        yield Problem(
            ((*path, "ca"), (*path, "verify")),
            "`ca` is of no use with `verify = false`",
            "keep one of them",
        )


def _client_pair(tls: BackendTls, path: Path) -> Iterator[Problem]:
    if bool(tls.cert) != bool(tls.key):
        have, lack = ("cert", "key") if tls.cert else ("key", "cert")
        yield Problem(
            ((*path, have), (*path, lack)),
            f"`{have}` is of no use without `{lack}`",
            f"add `{lack}`; one PEM file may be both",
        )


def _target(config: Config, service: Service, path: Path) -> Iterator[Problem]:
    target = service.ecs
    assert target is not None
    clusters = clusters_of(config.ecs)
    known = ", ".join(f'"{cluster}"' for cluster in sorted(at.id for at in clusters))
    if not clusters:
        yield Problem(
            (path, ("ecs", "clusters")),
            f'service "{service.name}" is in ECS, but [ecs] names no cluster',
            'add `clusters = ["<name>"]` under [ecs]',
        )
    elif target.cluster and not any(at.is_meant_by(target.cluster, clusters) for at in clusters):
        yield Problem(
            ((*path, "cluster"), ("ecs", "clusters")),
            f'cluster "{target.cluster}" is not one of [ecs] clusters',
            f"write one of {known}, or add it to [ecs] clusters",
        )
    elif not target.cluster and len(clusters) > 1:
        yield Problem(
            (path, ("ecs", "clusters")),
            f'service "{service.name}" does not say in which cluster it is',
            f"add `cluster` with one of {known}",
        )
    if target.port is not None and target.port_name:
        yield Problem(
            ((*path, "port_name"), (*path, "port")),
            "`port` and `port_name` both say which port is meant",
            "keep one of them",
        )
    if not target.service.strip():
        yield Problem(((*path, "service"),), "an ECS service needs a name", "write its name as ECS has it")


def hosts_of(service: Service, domain: str) -> tuple[str, ...]:
    """Return the hosts *service* answers to: its own, else its (ECS) name in *domain*."""
    if service.hosts:
        return service.hosts
    name = service.name if service.ecs is None else short(service.ecs.service)
    return (f"{name}.{domain}".lower(),) if domain else ()


def short(cluster: str) -> str:
    """Return the name of a cluster given by name or ARN."""
    return cluster.rpartition("/")[2]


def dotted(path: Path) -> str:
    """Return *path* as messages have it: service[0].ecs.port."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
