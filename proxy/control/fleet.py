"""From the configuration to our place in the fleet, and what the proxies of a fleet tell each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from urllib.parse import quote

import aiohttp
from aiohttp import web

from discovery.ecs.aws.queries import EcsQueries
from discovery.ecs.cluster import EcsCluster
from discovery.ecs.fleet.fellows import Fleet
from discovery.ecs.fleet.follow import Follower
from discovery.ecs.fleet.peer import PeerError, ask
from discovery.ecs.fleet.share import Share
from discovery.model import Source
from discovery.whoami import Whoami
from proxy.config import ClusterAt, Config, split_address
from proxy.control.admin.fleet import LEDGER_PATH, FleetPages, Said, ledger_page
from proxy.control.drained import Drains, is_task_arn

DRAINED_PATH = "/fleet/v1/drained"
_WITHIN_S = 0.4


def fleet_of(settings: Config, whoami: Whoami) -> Fleet | None:
    """Return our place in the fleet, None where each proxy asks for itself."""
    key = settings.fleet.key.get_secret_value()
    if not key:
        return None
    port = settings.fleet.port or split_address(settings.metrics.address)[1]
    return Fleet(key=key, port=port, identity=lambda: whoami.identity)


def leader_feed(
    cluster: EcsCluster, at: ClusterAt, fleet: Fleet, *, api: EcsQueries, whoami: Whoami, among: int
) -> Follower:
    """Return what leads or follows for a cluster, one of *among* so many."""
    share = Share(
        cluster.ledger,
        cluster.status,
        hurry=cluster.hurry,
        seen=cluster.hear_seen,
        notice=cluster.hear_notice,
    )
    cluster.listeners.append(share.notify)

    async def find() -> None:
        await whoami.known()
        if fleet.is_in(at.cluster, region=at.region, account=at.account):
            fleet.attach(cluster.ledger)
            await fleet.find(api, at.cluster, heard=cluster.heard)
        else:
            await fleet.elsewhere(at.id, among=among)

    follower = Follower(
        cluster.ledger,
        cluster.heard,
        cluster=at.id,
        fleet=fleet,
        share=share,
        status=cluster.status,
        lead=cluster.lead,
        follow=cluster.follow,
        doubt=cluster.doubt,
        find=find,
    )
    cluster.pass_on = follower.pass_on
    cluster.pass_seen = follower.pass_seen
    cluster.pass_notice = follower.pass_notice
    return follower


def followers(sources: Iterable[Source]) -> list[Follower]:
    """Return the feeds of *sources* that lead or follow."""
    return [feed for source in sources for feed in getattr(source, "feeds", ()) if isinstance(feed, Follower)]


def fleet_pages(
    app: web.Application, sources: Callable[[], Iterable[Source]], own_arn: Callable[[], str], drains: Drains
) -> None:
    """Add to *app* what the other proxies ask. Without a key there is nothing."""

    def key() -> str:
        return next((follower.fleet.key for follower in followers(sources())), "")

    def share(cluster: str) -> Share | None:
        found = followers(sources())
        return next((follower.share for follower in found if follower.cluster == cluster), None)

    async def drained(request: web.Request) -> Said:
        task_arn = request.query.get("task", "")
        if not is_task_arn(task_arn):
            return Said(status=400)
        here = drains.here(task_arn)
        return Said(word={"drained": here.drained, "known": here.known, "reason": here.reason})

    pages = FleetPages(key)
    pages.add(app, LEDGER_PATH, ledger_page(share, own_arn))
    pages.add(app, DRAINED_PATH, drained)


class FleetPeers:
    """The other proxies of the fleet, for whoever must know whether something holds at all of them."""

    def __init__(self, session: aiohttp.ClientSession, sources: Callable[[], Iterable[Source]]) -> None:
        self._session = session
        self._sources = sources

    def others(self) -> Sequence[str] | None:
        """Return the ARNs of their tasks; None where it is not known who they are."""
        fleet = self._fleet()
        if fleet is None or not fleet.known:
            return None
        return [peer.task_arn for peer in fleet.others() if peer.started]

    async def drained(self, other: str, task_arn: str) -> bool:
        """Return whether *other* says that the task gets nothing new from it; no answer is a no."""
        fleet = self._fleet()
        peer = next((p for p in fleet.others() if p.task_arn == other), None) if fleet is not None else None
        if fleet is None or peer is None or not peer.host:
            return False
        target = f"{DRAINED_PATH}?task={quote(task_arn, safe='')}"
        try:
            answer = await ask(self._session, fleet.key, peer, target, within_s=_WITHIN_S)
        except PeerError:
            return False
        return answer.status == 200 and answer.word.get("drained") is True

    def _fleet(self) -> Fleet | None:
        return next((follower.fleet for follower in followers(self._sources())), None)
