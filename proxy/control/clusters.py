"""From the configuration to the sources of its ECS clusters, and who tells each of them what there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

from discovery.ecs.aws.api import EcsApi
from discovery.ecs.aws.budget import Budget
from discovery.ecs.aws.sessions import Account
from discovery.ecs.cluster import EcsCluster
from discovery.ecs.disk import Disk
from discovery.ecs.events.queue import EventQueue
from discovery.ecs.feed import Feed
from discovery.ecs.instance.agent import AgentFeed
from discovery.ecs.instance.spot import SpotFeed
from discovery.ecs.translate.rules import ServiceRule
from discovery.ecs.translate.translator import Translator
from discovery.model import HealthCheck, Service, Tls
from discovery.whoami import Whoami
from proxy import config
from proxy.config import ClusterAt, Config, clusters_of
from proxy.control.events import event_queue, events_feed
from proxy.control.fleet import fleet_of, leader_feed

Informant: TypeAlias = Callable[[EcsCluster], Feed]


def build(
    settings: Config,
    whoami: Whoami,
    *,
    service: Callable[[config.Service], Service],
    health: HealthCheck,
    blank: Callable[[], bool] = lambda: True,
) -> list[EcsCluster]:
    """Return a source for each cluster; *service* puts a section into the words of discovery.

    *blank* says whether there is no table yet that the disk could only be older than.
    """
    clusters = clusters_of(settings.ecs)
    events = event_queue(settings, whoami)
    fleet = fleet_of(settings, whoami)
    budgets: dict[tuple[str, str, str], Budget] = {}
    sources = []
    for at in clusters:
        account = Account(
            region=at.region, endpoint_url=at.endpoint_url, role_arn=at.role_arn, external_id=at.external_id
        )
        budget = budgets.setdefault(account.key(at.cluster), Budget(settings.ecs.api_share))
        name = f"ecs:{at.id}"
        translator = partial(
            Translator,
            source=name,
            cluster=at.name,
            rules=_rules(settings, at, clusters, service),
            domain=settings.ecs.domain,
            default_health=health,
            default_tls=_tls(settings.backend_tls),
        )
        api = EcsApi(account, budget=budget, call_timeout_s=settings.ecs.call_timeout_s)
        informants = list(_informants(settings, at, whoami, events, blank))
        if fleet is not None:
            leader = partial(leader_feed, at=at, fleet=fleet, api=api, whoami=whoami, among=len(clusters))
            informants.append(leader)
        sources.append(
            EcsCluster(
                api,
                name=name,
                cluster=at.cluster,
                translator=translator,
                whoami=whoami,
                informants=informants,
                budget=budget,
                led=fleet is not None,
                interval_s=settings.ecs.poll_interval_s,
            )
        )
    return sources


def _informants(
    settings: Config,
    at: ClusterAt,
    whoami: Whoami,
    events: EventQueue | None,
    blank: Callable[[], bool],
) -> Iterable[Informant]:
    """Yield who tells of a cluster beside its API."""
    if settings.ecs.agent != "off":
        yield lambda cluster: AgentFeed(
            cluster.ledger,
            cluster.heard,
            cluster=at.cluster,
            whoami=whoami,
            region=at.region,
            account=at.account,
            setting=settings.ecs.agent,
            tell=cluster.tell_seen,
        )
    yield lambda cluster: SpotFeed(
        cluster.ledger,
        cluster.heard,
        whoami=whoami,
        tell=cluster.tell_notice,
    )
    if events is not None:
        yield lambda cluster: events_feed(cluster, at, events)
    if settings.state.path:
        yield lambda cluster: Disk(
            cluster.ledger,
            cluster.heard,
            folder=settings.state.path,
            cluster=at.cluster,
            where=f"{at.account} {at.region} {at.endpoint_url}",
            status=cluster.status,
            max_age_s=settings.state.max_age_s,
            needed=blank,
        )


def _rules(
    settings: Config,
    at: ClusterAt,
    clusters: tuple[ClusterAt, ...],
    service: Callable[[config.Service], Service],
) -> list[ServiceRule]:
    return [
        ServiceRule(
            service=service(section),
            ecs_service=section.ecs.service,
            cluster=at.cluster,
            container=section.ecs.container,
            port=section.ecs.port,
            port_name=section.ecs.port_name,
        )
        for section in settings.service
        if section.ecs is not None
        and (not section.ecs.cluster or at.is_meant_by(section.ecs.cluster, clusters))
    ]


def _tls(section: config.BackendTls) -> Tls:
    return Tls(ca=section.ca, cert=section.cert, key=section.key)
