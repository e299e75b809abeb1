"""Where events are read: a queue of the operator's, or one that this proxy makes for itself."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from discovery.ecs.events.queue_api import QueueApi
from discovery.model import DiscoveryError

log = logging.getLogger("anyport.discovery.ecs")

TOPIC: Final = "anyport-events"  # where no other is named
PREFIX: Final = "anyport-"  # of every queue that a proxy makes
RETENTION_S: Final = 300  # what a proxy has not read by then, it finds out by asking
# A new queue's policy and subscription take up to a minute to hold everywhere.
SETTLE_S: Final = 60.0

# Tags of a queue, by which others see whether anybody reads it.
OWNER: Final = "anyport:task"  # ARN of the task
PROCESS: Final = "anyport:process"  # which proxy of that task: one may hand over to another
SUBSCRIPTION: Final = "anyport:subscription"  # ARN, to be ended with the queue

_YOUNG_S: Final = 900.0
_DEFAULT_RETENTION_S: Final = 60.0  # where nobody says: the least that SQS knows


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A queue that can be read."""

    url: str
    retention_s: float  # what is not read for so long is lost
    settle_s: float = 0.0  # so long after its opening not everything may arrive yet


class Places(Protocol):
    """Gives the queue to read."""

    async def open(self) -> Place:
        """Return a queue that exists. Raises `DiscoveryError`."""
        ...

    async def close(self) -> None:
        """Leave nothing behind. Trouble is logged, never raised."""
        ...

    async def tidy(self, ended: Callable[[str], bool]) -> None:
        """Remove what proxies have left whose task has ended. Raises `DiscoveryError`."""
        ...


class GivenQueue:
    """A queue of the operator's, by URL or ARN. Nobody else may read it: each event comes once."""

    def __init__(self, api: QueueApi, queue: str) -> None:
        self._api = api
        self._queue = queue

    async def open(self) -> Place:
        url = await self._api.url_of(self._queue) if self._queue.startswith("arn:") else self._queue
        try:
            retention_s = float((await self._api.attributes(url)).get("MessageRetentionPeriod", "x"))
        except ValueError:
            retention_s = _DEFAULT_RETENTION_S
        except DiscoveryError as error:
            if error.kind != "denied":  # reading is enough
                raise
            retention_s = _DEFAULT_RETENTION_S
        return Place(url=url, retention_s=retention_s)

    async def close(self) -> None:
        return

    async def tidy(self, ended: Callable[[str], bool]) -> None:
        return


class OwnQueue:
    """A queue that this proxy makes, subscribes to a topic, and removes with the subscription.

    `unique` makes another name each time it is called: SQS gives none out again within a minute.
    """

    def __init__(
        self,
        api: QueueApi,
        *,
        topic: str,  # ARN, or a name in the account and Region of the queue
        cluster: str,
        owner: Callable[[], Awaitable[str]],  # the ARN of our own task; "" if we are none
        process: str,
        unique: Callable[[], str],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._wall_clock = wall_clock
        self._topic = topic or TOPIC
        self._prefix = own_queues(cluster)
        self._owner = owner
        self._task_arn = ""
        self._process = process
        self._unique = unique
        self._url = ""
        self._subscription = ""

    async def open(self) -> Place:
        await self.close()  # of an earlier one at least the subscription may be left
        self._task_arn = await self._owner()
        tags = {PROCESS: self._process}
        if self._task_arn:
            tags[OWNER] = self._task_arn
        self._url = await self._api.create(
            self._prefix + self._unique(), attributes={"MessageRetentionPeriod": str(RETENTION_S)}, tags=tags
        )
        try:
            queue_arn = str((await self._api.attributes(self._url)).get("QueueArn"))
            topic_arn = self._topic if self._topic.startswith("arn:") else sibling(queue_arn, self._topic)
            await self._api.set_policy(self._url, queue_policy(queue_arn, topic_arn))
            self._subscription = await self._api.subscribe(topic_arn, queue_arn)
            await self._api.tag(self._url, {SUBSCRIPTION: self._subscription})
        except BaseException:
            await self.close()
            raise
        log.info("events are read from a queue of our own, %s", self._url)
        return Place(url=self._url, retention_s=RETENTION_S, settle_s=SETTLE_S)

    async def close(self) -> None:
        url, subscription, self._url, self._subscription = self._url, self._subscription, "", ""
        try:
            if subscription:
                await self._api.unsubscribe(subscription)
            if url:
                await self._api.remove(url)
        except DiscoveryError as error:
            log.warning("the queue %s may be left behind: %s", url, error)

    async def tidy(self, ended: Callable[[str], bool]) -> None:
        for url in await self._api.queues(self._prefix):
            if url == self._url:
                continue
            tags = await self._api.tags(url)
            if not self._is_left(tags.get(OWNER), tags.get(PROCESS), ended) or await self._is_young(url):
                continue
            subscription = tags.get(SUBSCRIPTION)
            if subscription:
                await self._api.unsubscribe(str(subscription))
            await self._api.remove(url)
            log.info("removed %s: the proxy that made it has ended", url)

    def _is_left(self, owner: object, process: object, ended: Callable[[str], bool]) -> bool:
        if not isinstance(owner, str) or not owner:
            return False  # made outside ECS: nobody can know
        if owner == self._task_arn:
            # Ours, from before this process was started again. Another process of the same task is
            # the one that hands over to us, or to which we do.
            return process == self._process
        return ended(owner)

    async def _is_young(self, url: str) -> bool:
        """Say whether a queue may belong to a task that has just started, of which nobody has told yet."""
        try:
            created_s = float((await self._api.attributes(url)).get("CreatedTimestamp", "x"))
        except ValueError:
            return True
        return self._wall_clock() - created_s < _YOUNG_S


def own_queues(cluster: str) -> str:
    """Return with what the names of the queues begin that proxies of *cluster* make."""
    return PREFIX + re.sub(r"[^A-Za-z0-9_-]", "-", cluster)[:40] + "-"


def sibling(arn: str, topic: str) -> str:
    """Return the ARN of a topic in the account and Region of another resource."""
    _, partition, _, region, account, *_ = [*arn.split(":"), "", "", "", "", ""]
    return f"arn:{partition}:sns:{region}:{account}:{topic}"


def queue_policy(queue_arn: str, topic_arn: str) -> dict[str, Any]:
    """Return the policy by which only this topic may send to the queue."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "anyport-events",
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": queue_arn,
                "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
            }
        ],
    }
