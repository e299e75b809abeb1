"""Where this proxy stands in its fleet, for the sources of all clusters: who the others are, and where."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import takewhile
from typing import Final

from discovery.ecs.aws.queries import EcsQueries
from discovery.ecs.fleet.election import Peer, older, peers
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.shapes import task
from discovery.identity import Identity

_PLACED_WITHIN_S: Final = 5.0  # the definition, instances and addresses of the others, from whoever tells
_PLACED_POLL_S: Final = 0.05


class Fleet:
    """The other proxies of our ECS service, as the ledger of our own cluster has them.

    `port` is the port of their metrics server inside their container. Until `attach`, and for one that is no
    task of an ECS service, there are no others.
    """

    def __init__(self, *, key: str, port: int, identity: Callable[[], Identity]) -> None:
        self.key = key
        self._port = port
        self._identity = identity
        self._ledger: Ledger | None = None
        self._known: tuple[int, str, tuple[Peer, ...]] = (-1, "", ())
        self._elsewhere: set[str] = set()  # clusters that are not ours
        self.found = asyncio.Event()  # it has been tried to find them

    @property
    def attached(self) -> bool:
        """Whether the ledger of our own cluster is known."""
        return self._ledger is not None

    @property
    def known(self) -> bool:
        """Whether it is known who the others are."""
        return bool(self._ledger is not None and self.group and any(self._ledger.groups.get(self.group, {})))

    def attach(self, ledger: Ledger) -> None:
        """Take *ledger* as that of our own cluster."""
        self._ledger = ledger
        self._known = (-1, "", ())

    @property
    def own_arn(self) -> str:
        return self._identity().task_arn

    @property
    def group(self) -> str:
        """Our group ("service:anyport"), "" if we are no task of a service as far as is known."""
        identity = self._identity()
        if identity.service:
            return f"service:{identity.service}"
        own = self._ledger.task(identity.task_arn) if self._ledger is not None else None
        return own.group if own is not None and own.ecs_service else ""

    def is_in(self, cluster: str, *, region: str = "", account: str = "") -> bool:
        """Say whether we are a task in *cluster*, a name or an ARN, as far as can be told ("": not)."""
        us = self._identity()
        same = us.cluster_arn == cluster if cluster.startswith("arn:") else us.cluster == cluster
        here = all(not its or its == ours for its, ours in ((region, us.region), (account, us.account)))
        return bool(us.task_arn) and same and here

    async def elsewhere(self, cluster: str, *, among: int) -> None:
        """Wait until the others have been looked for in our own cluster, which is not *cluster*.

        Not for ever: once this is known of *among* so many clusters, there is none left to look in.
        """
        self._elsewhere.add(cluster)
        if len(self._elsewhere) >= among:
            self.found.set()
        await self.found.wait()

    def peers(self) -> tuple[Peer, ...]:
        """Return every proxy of the fleet, the oldest first, ours included as soon as it is in the table."""
        group = self.group
        if self._ledger is None or not group:
            return ()
        revision = self._ledger.revision
        if self._known[:2] != (revision, group):
            self._known = (revision, group, peers(self._ledger, group, self._port))
        return self._known[2]

    def others(self) -> tuple[Peer, ...]:
        """Return all others: those that must be asked whether something holds everywhere."""
        own_arn = self.own_arn
        return tuple(peer for peer in self.peers() if peer.task_arn != own_arn)

    def older(self) -> tuple[Peer, ...]:
        """Return those we may follow, the oldest first."""
        return older(self.own_arn, self.peers())

    async def find(self, api: EcsQueries, cluster: str, *, heard: Callable[[], None]) -> None:
        """Put the others into the ledger of our own cluster, if it has none: three calls of the API at most.

        *heard* lets their definition and addresses be asked for; they are waited for, a while. Raises
        `DiscoveryError`.
        """
        ledger, identity = self._ledger, self._identity()
        try:
            if ledger is None or not identity.task_arn:
                return
            if not self.others():
                await self._list(ledger, api, cluster, identity)
                heard()
            async with asyncio.timeout(_PLACED_WITHIN_S):
                while not self._placed():  # noqa: ASYNC110 - it is the resolver that tells the ledger
                    await asyncio.sleep(_PLACED_POLL_S)
        except TimeoutError:
            return
        finally:
            self.found.set()

    def _placed(self) -> bool:
        older = takewhile(lambda peer: peer.task_arn != self.own_arn, self.peers())
        return all(peer.host for peer in older if peer.started)

    async def _list(self, ledger: Ledger, api: EcsQueries, cluster: str, identity: Identity) -> None:
        service = identity.service
        if not service:
            for raw in (await api.describe_tasks(cluster, [identity.task_arn])).found:
                ledger.hear_task(task(raw), by="api")
            service = self.group.partition(":")[2]
        if not service:
            return
        arns = [arn async for page in api.task_pages(cluster, service=service) for arn in page]
        for raw in (await api.describe_tasks(cluster, arns)).found:
            ledger.hear_task(task(raw), by="api")
