"""From the configuration to the queue of events that the clusters share, and to the feed of each."""

from __future__ import annotations

import os
import uuid

from discovery.ecs.aws.sessions import Account
from discovery.ecs.cluster import EcsCluster
from discovery.ecs.events.feed import EventsFeed
from discovery.ecs.events.queue import EventQueue
from discovery.ecs.events.queue_api import QueueApi, region_of
from discovery.ecs.events.queue_place import GivenQueue, OwnQueue
from discovery.whoami import Whoami
from proxy.config import ClusterAt, Config, clusters_of


def event_queue(settings: Config, whoami: Whoami) -> EventQueue | None:
    """Return the reader of the queue that [ecs.events] names, None where events are off.

    It is asked as ourselves, whatever roles the clusters want: a queue belongs to who reads it.
    """
    ecs = settings.ecs
    queue, topic = ecs.events.queue, ecs.events.topic
    if not queue:
        return None
    region = region_of(queue) or region_of(topic) or ecs.region
    api = QueueApi(Account(region=region, endpoint_url=ecs.endpoint_url))
    if queue != "auto":
        return EventQueue(api, GivenQueue(api, queue))

    async def owner() -> str:
        return (await whoami.known()).task_arn

    own = OwnQueue(
        api,
        topic=topic,
        cluster=clusters_of(ecs)[0].name,
        owner=owner,
        process=str(os.getppid()),  # the supervisor: it stays when this process is started again
        unique=lambda: uuid.uuid4().hex[:12],
    )
    return EventQueue(api, own)


def events_feed(cluster: EcsCluster, at: ClusterAt, queue: EventQueue) -> EventsFeed:
    """Return what *queue* tells of a cluster."""
    return EventsFeed(
        cluster.ledger,
        cluster.heard,
        queue=queue,
        cluster=at.cluster,
        status=cluster.status,
        describe=cluster.describe,
        poll=cluster.poller.hurry,
        region=at.region,
        account=at.account,
    )
