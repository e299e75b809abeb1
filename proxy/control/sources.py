"""From the configuration to the sources of discovery."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter

from discovery.dns_names import Name
from discovery.file import BadFile, FileSource
from discovery.identity import NOBODY
from discovery.loops import OwnAddresses
from discovery.model import HealthCheck, Problem, Service, Source, Tls
from discovery.static import StaticSource
from discovery.whoami import Whoami
from proxy import config
from proxy.config import Config, ConfigError, Issue, clusters_of, split_address
from proxy.config.service_files import read_services


def build(
    settings: Config, *, whoami: Whoami | None = None, blank: Callable[[], bool] = lambda: True
) -> tuple[Source, ...]:
    """Return the sources that *settings* asks for, the most trusted first.

    *whoami* knows who this proxy is, or finds it out once a source wants to know. *blank* says whether
    there is no table yet, so that one that was written down is better than none.
    """
    return (
        *_static(settings),
        *_dns(settings),
        *_file(settings),
        *_ecs(settings, whoami or Whoami.told(NOBODY), blank),
    )


def same(old: Config, new: Config) -> bool:
    """Return whether both configurations ask for the same sources."""
    keys = attrgetter("ecs", "dns", "file", "fleet", "state", "service", "health", "backend_tls")
    return bool(keys(old) == keys(new))


def health_check(section: config.Health) -> HealthCheck:
    """Return *section* in the words of discovery."""
    return HealthCheck(
        kind=section.kind,
        path=section.path,
        interval_s=section.interval_s,
        timeout_s=section.timeout_s,
        healthy_threshold=section.healthy_threshold,
        unhealthy_threshold=section.unhealthy_threshold,
        host=section.host,
        identity_header=section.identity_header,
        identity_body=section.identity_body,
    )


def _service(settings: Config, section: config.Service) -> Service:
    return Service(
        name=section.name,
        hosts=section.hosts,
        path=section.path,
        health=health_check(section.health or settings.health),
        tls=_tls(section.tls),
    )


def _tls(section: config.ServiceTls | None) -> Tls | None:
    if section is None:
        return None
    return Tls(name=section.name, verify=section.verify, ca=section.ca, cert=section.cert, key=section.key)


def _static(settings: Config) -> list[Source]:
    listed = [
        (_service(settings, section), [split_address(text) for text in section.static])
        for section in settings.service
        if section.static
    ]
    return [StaticSource(listed)] if listed else []


def _dns(settings: Config) -> list[Source]:
    named = [
        (_service(settings, section), [_dns_name(text) for text in section.dns])
        for section in settings.service
        if section.dns
    ]
    if not named:
        return []
    # Like boto3 below: only who names something takes the time to import what resolves it.
    from discovery.dns import DnsSource  # noqa: PLC0415
    from discovery.dns_lookup import Lookup  # noqa: PLC0415

    servers = [split_address(text) if _has_port(text) else (text, 0) for text in settings.dns.servers]
    own = [split_address(listener.address) for listener in settings.listener]
    return [
        DnsSource(named, ask=Lookup(servers).ask, is_own=OwnAddresses(own), ttl_max_s=settings.dns.ttl_max_s)
    ]


def _file(settings: Config) -> list[Source]:
    if not settings.file.path:
        return []

    def parse(path: str, data: bytes) -> list[tuple[Service, list[tuple[str, int]]]]:
        try:
            sections = read_services(data, path, settings)
        except ConfigError as error:
            raise BadFile([_problem(issue) for issue in error.issues]) from None
        return [
            (_service(settings, section), [split_address(text) for text in section.static])
            for section in sections
        ]

    named = [
        _service(settings, section)
        for section in settings.service
        if section.ecs is None and not (section.static or section.dns)
    ]
    return [FileSource(settings.file.path, parse, is_own=_own(settings), services=named)]


def _problem(issue: Issue) -> Problem:
    where = f"file {issue.source}" + (f", line {issue.line}" if issue.line else "")
    return Problem(where, issue.message + (f": {issue.hint}" if issue.hint else ""))


def _own(settings: Config) -> OwnAddresses:
    return OwnAddresses(split_address(listener.address) for listener in settings.listener)


def _dns_name(text: str) -> Name:
    host, colon, port = text.rpartition(":")
    return Name(host, int(port)) if colon else Name(text)


def _has_port(address: str) -> bool:
    return address.startswith("[") or address.count(":") == 1


def _ecs(settings: Config, whoami: Whoami, blank: Callable[[], bool]) -> list[Source]:
    if not clusters_of(settings.ecs):
        return []
    # boto3 takes 0.2 s and 30 MB to import; a proxy of static addresses does without.
    from proxy.control import clusters  # noqa: PLC0415

    return [
        *clusters.build(
            settings,
            whoami,
            service=partial(_service, settings),
            health=health_check(settings.health),
            blank=blank,
        )
    ]
