"""From the configuration to the sources of discovery."""

from __future__ import annotations

from functools import partial

from discovery.ecs.rules import ServiceRule
from discovery.ecs.shapes import short_name
from discovery.identity import NOBODY
from discovery.model import HealthCheck, Service, Source, Tls
from discovery.static import StaticSource
from discovery.whoami import Whoami
from proxy import config
from proxy.config import Config, split_address


def build(settings: Config, *, whoami: Whoami | None = None) -> tuple[Source, ...]:
    """Return the sources that *settings* asks for, the most trusted first.

    *whoami* knows who this proxy is, or finds it out once a source wants to know.
    """
    return (*_static(settings), *_ecs(settings, whoami or Whoami.told(NOBODY)))


def same(old: Config, new: Config) -> bool:
    """Return whether both configurations ask for the same sources."""
    return (old.ecs, old.service, old.health, old.backend_tls) == (
        new.ecs,
        new.service,
        new.health,
        new.backend_tls,
    )


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


def _ecs(settings: Config, whoami: Whoami) -> list[Source]:
    if not settings.ecs.clusters:
        return []
    # boto3 takes 0.2 s and 30 MB to import; a proxy of static addresses does without.
    from discovery.ecs.api import EcsApi  # noqa: PLC0415
    from discovery.ecs.cluster import EcsCluster  # noqa: PLC0415
    from discovery.ecs.sessions import Account  # noqa: PLC0415
    from discovery.ecs.translate import Translator  # noqa: PLC0415

    sources: list[Source] = []
    for cluster in settings.ecs.clusters:
        api = EcsApi(
            Account(region=settings.ecs.region, endpoint_url=settings.ecs.endpoint_url),
            call_timeout_s=settings.ecs.call_timeout_s,
        )
        rules = [
            ServiceRule(
                service=_service(settings, section),
                ecs_service=section.ecs.service,
                cluster=cluster,
                container=section.ecs.container,
                port=section.ecs.port,
                port_name=section.ecs.port_name,
            )
            for section in settings.service
            if section.ecs is not None and section.ecs.cluster in ("", cluster)
        ]
        name = f"ecs:{short_name(cluster)}"
        translator = partial(
            Translator,
            source=name,
            cluster=short_name(cluster),
            rules=rules,
            domain=settings.ecs.domain,
            default_health=health_check(settings.health),
            default_tls=Tls(
                ca=settings.backend_tls.ca, cert=settings.backend_tls.cert, key=settings.backend_tls.key
            ),
        )
        sources.append(
            EcsCluster(
                api,
                name=name,
                cluster=cluster,
                translator=translator,
                whoami=whoami,
                budget=api.budget,
                interval_s=settings.ecs.poll_interval_s,
            )
        )
    return sources
