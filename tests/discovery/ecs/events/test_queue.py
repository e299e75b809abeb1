"""The reader of a queue, with boto3 and SQS, SNS and EventBridge of the embedded cluster."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from discovery.ecs.aws.sessions import Account
from discovery.ecs.events.meaning import News
from discovery.ecs.events.queue import EventQueue
from discovery.ecs.events.queue_api import QueueApi, region_of
from discovery.ecs.events.queue_place import OWNER, PROCESS, SUBSCRIPTION, GivenQueue, OwnQueue, Places
from discovery.model import DiscoveryError
from discovery.simulator.simulator import Simulator
from tests.kit.aws import Operator
from tests.kit.ecs_json import arn, task_arn
from tests.kit.event_json import body, spot_event, task_event
from tests.kit.eventually import eventually

module_loop = pytest.mark.asyncio(loop_scope="module")
OURS = task_arn(77)
FAR_AWAY = 2_000_000_000.0  # so late that no queue is young
unique = itertools.count(1)


@dataclass
class Listener:
    """Keeps what it is told."""

    cluster: str = "prod"
    heard: list[News] = field(default_factory=list)
    answers: int = 0
    gaps: int = 0
    errors: list[str] = field(default_factory=list)
    over: set[str] = field(default_factory=set)

    def asks(self, cluster_arn: str) -> bool:
        return cluster_arn.endswith(f"/{self.cluster}")

    def hear(self, news: Sequence[News]) -> None:
        self.answers += 1
        self.heard += news

    def gap(self, settled_s: float) -> None:
        self.gaps += 1

    def failed(self, error: DiscoveryError) -> None:
        self.errors.append(error.kind)

    def ended(self, task_arn: str) -> bool:
        return task_arn in self.over

    def kinds(self) -> list[str]:
        return [news.kind for news in self.heard]


@dataclass
class Sky:
    """The embedded AWS, and what speaks to it."""

    simulator: Simulator
    operator: Operator

    def api(self) -> QueueApi:
        return QueueApi(Account(region="eu-west-1", endpoint_url=self.simulator.url))

    def own(self, api: QueueApi, *, owner: str = OURS, **more: Any) -> OwnQueue:
        async def known() -> str:
            return owner

        named = {"topic": "", "cluster": "prod", "process": "host/1", **more}
        number = next(unique)
        return OwnQueue(api, owner=known, unique=lambda: f"test{number}-{next(unique)}", **named)

    @asynccontextmanager
    async def reading(self, places: Places, api: QueueApi, *listeners: Listener) -> AsyncIterator[EventQueue]:
        """Read for *listeners*, with pauses of no length."""
        queue = EventQueue(api, places, wait_s=2, sleep=_short)
        tasks = [asyncio.create_task(queue.serve(listener)) for listener in listeners]
        try:
            yield queue
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def _short(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.02) if seconds < 100 else 1000)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sky() -> AsyncIterator[Sky]:
    with pytest.MonkeyPatch.context() as patch:
        async with Simulator(throttling=False) as simulator:
            for name, value in simulator.environment.items():
                patch.setenv(name, value)
            operator = Operator(simulator)
            await operator.topic()
            yield Sky(simulator, operator)
            operator.close()


# --- a queue of the operator's --------------------------------------------------------------------


@module_loop
@pytest.mark.parametrize("given", ["url", "arn"])
async def test_a_given_queue_is_read_and_emptied_junk_and_all(sky: Sky, given: str) -> None:
    url, queue_arn = await sky.operator.queue(f"given-{given}")
    api, listener = sky.api(), Listener()
    await sky.operator.send(url, "junk", body(task_event()), "{}", body(spot_event()))
    async with sky.reading(GivenQueue(api, url if given == "url" else queue_arn), api, listener):
        await eventually(lambda: len(listener.heard) == 4)
        await sky.operator.send(url, *(body(task_event(version=number)) for number in range(12)))
        await eventually(lambda: len(listener.heard) == 16)

        async def empty() -> bool:
            return await sky.operator.waiting(url) == 0

        await eventually(empty)
    assert sorted(listener.kinds()) == sorted(["spot", "unknown", "unknown", *["task"] * 13])
    assert listener.gaps == 1
    assert f"given-{given}" in await sky.operator.queues()  # it is not ours to remove


@module_loop
async def test_several_clusters_share_a_queue_and_each_gets_its_own(sky: Sky) -> None:
    url, _ = await sky.operator.queue("shared")
    api, prod, staging = sky.api(), Listener(), Listener("staging")
    cluster = arn("cluster", "staging")
    async with sky.reading(GivenQueue(api, url), api, prod, staging):
        await eventually(lambda: prod.gaps == staging.gaps == 1)
        other = arn("cluster", "other")
        await sky.operator.send(
            url,
            body(task_event()),
            body(task_event(2, clusterArn=cluster)),
            body(task_event(3, clusterArn=other)),
            body(spot_event()),
        )
        await eventually(lambda: len(prod.heard) == len(staging.heard) == 3)
    assert sorted(prod.kinds()) == sorted(staging.kinds()) == ["foreign", "spot", "task"]
    assert {news.cluster for news in prod.heard if news.task} == {arn("cluster", "prod")}
    assert {news.cluster for news in staging.heard if news.task} == {cluster}


@module_loop
async def test_when_the_reader_of_two_clusters_is_cancelled_the_other_reads_on(sky: Sky) -> None:
    url, _ = await sky.operator.queue("handed")
    api, first, second = sky.api(), Listener(), Listener("staging")
    queue = EventQueue(api, GivenQueue(api, url), sleep=_short)
    reader = asyncio.create_task(queue.serve(first))
    await eventually(lambda: first.gaps == 1)
    waiter = asyncio.create_task(queue.serve(second))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader])
    await sky.operator.send(url, body(spot_event()))
    await eventually(lambda: second.kinds() == ["spot"])
    waiter.cancel()
    await asyncio.wait([waiter])
    assert first.heard == []


@module_loop
async def test_a_queue_that_is_not_there_is_told_once_and_read_as_soon_as_it_is(
    sky: Sky, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anyport.discovery.ecs")
    url = f"{sky.simulator.url}/123456789012/later"
    api, listener = sky.api(), Listener()
    async with sky.reading(GivenQueue(api, url), api, listener):
        await eventually(lambda: len(listener.errors) > 3)
        await sky.operator.queue("later")
        await sky.operator.send(url, body(spot_event()))
        await eventually(lambda: listener.kinds() == ["spot"])
    assert set(listener.errors) == {"missing_queue"}
    assert [record.message for record in caplog.records] == [
        "events: sqs:GetQueueAttributes: the queue does not exist: check queue in [ecs.events]",
        "events: the queue answers again",
    ]


@module_loop
async def test_calls_that_fail_are_tried_again(sky: Sky) -> None:
    url, _ = await sky.operator.queue("flaky")
    await sky.operator.send(url, body(spot_event()))
    sky.simulator.faults.error("ReceiveMessage", count=2, status=503)
    sky.simulator.faults.error("DeleteMessageBatch", count=1)
    api, listener = sky.api(), Listener()
    async with sky.reading(GivenQueue(api, url), api, listener):
        await eventually(lambda: "spot" in listener.kinds())
    sky.simulator.faults.clear()
    assert listener.errors[:2] == ["other", "other"]


# --- a queue of our own ---------------------------------------------------------------------------


@module_loop
async def test_an_own_queue_is_made_subscribed_and_removed(sky: Sky) -> None:
    api, listener = sky.api(), Listener()
    before = await sky.operator.queues()
    async with sky.reading(sky.own(api), api, listener):
        await eventually(lambda: listener.gaps == 1)
        (name,) = set(await sky.operator.queues()) - set(before)
        assert name.startswith("anyport-prod-test")
        url = f"{sky.simulator.url}/123456789012/{name}"
        tags = (await sky.operator.call("sqs", "list_queue_tags", QueueUrl=url))["Tags"]
        assert (tags[OWNER], tags[PROCESS]) == (OURS, "host/1")
        assert tags[SUBSCRIPTION].startswith("arn:aws:sns:eu-west-1:123456789012:anyport-events:")
        found = await sky.operator.call("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
        assert found["Attributes"]["MessageRetentionPeriod"] == "300"
        assert "arn:aws:sns:eu-west-1:123456789012:anyport-events" in found["Attributes"]["Policy"]
        topic = "arn:aws:sns:eu-west-1:123456789012:anyport-events"
        await sky.operator.call("sns", "publish", TopicArn=topic, Message=body(spot_event()))
        await eventually(lambda: listener.kinds() == ["spot"])  # as it is, not wrapped
    assert await sky.operator.queues() == before
    assert await sky.operator.subscriptions() == []


@module_loop
async def test_an_own_queue_that_somebody_deletes_is_made_anew(sky: Sky) -> None:
    api, listener = sky.api(), Listener()
    async with sky.reading(sky.own(api), api, listener):
        await eventually(lambda: listener.gaps == 1)
        (name,) = [name for name in await sky.operator.queues() if "anyport-prod" in name]
        await sky.operator.call("sqs", "delete_queue", QueueUrl=f"{sky.simulator.url}/123456789012/{name}")
        await eventually(lambda: listener.gaps == 2, within_s=30)
        assert [n for n in await sky.operator.queues() if "anyport-prod" in n] != [name]
        assert len(await sky.operator.subscriptions()) == 1
    assert await sky.operator.subscriptions() == []


@module_loop
@pytest.mark.parametrize("operation", ["SetQueueAttributes", "Subscribe", "TagQueue"])
async def test_a_queue_that_cannot_be_finished_is_not_left_behind(sky: Sky, operation: str) -> None:
    before = await sky.operator.queues()
    sky.simulator.faults.denied(operation, count=1)
    with pytest.raises(DiscoveryError) as caught:
        await sky.own(sky.api()).open()
    assert caught.value.kind == "denied"
    assert operation in str(caught.value)
    assert await sky.operator.queues() == before
    assert await sky.operator.subscriptions() == []


@module_loop
async def test_a_topic_that_is_not_there_says_what_to_do(sky: Sky) -> None:
    with pytest.raises(DiscoveryError, match="events-setup"):
        await sky.own(sky.api(), topic="nobody-made-it").open()


# --- what others have left ------------------------------------------------------------------------


async def left(sky: Sky, task: str, *, process: str = "host/9", cluster: str = "prod") -> OwnQueue:
    """Leave a queue behind, as a proxy does that is killed."""
    places = sky.own(sky.api(), owner=task, process=process, cluster=cluster)
    await places.open()
    return places


@module_loop
async def test_queues_of_tasks_that_have_ended_are_removed_and_no_others(sky: Sky) -> None:
    ended, runs = task_arn(1), task_arn(2)
    gone = await left(sky, ended)
    stay = [
        await left(sky, runs),
        await left(sky, ""),  # outside of ECS: nobody can know
        await left(sky, OURS, process="host/2"),  # hands over to us, or we to it
        await left(sky, runs, cluster="prod-b"),  # its name begins as ours do
    ]
    own_left = await left(sky, OURS, process="host/1")  # of this process, before it was started again
    ours = sky.own(sky.api(), wall_clock=lambda: FAR_AWAY)
    await ours.open()
    before = await sky.operator.queues()
    subscribed = len(await sky.operator.subscriptions())
    await ours.tidy(lambda task: task == ended)
    assert len(await sky.operator.queues()) == len(before) - 2
    assert len(await sky.operator.subscriptions()) == subscribed - 2
    with pytest.raises(DiscoveryError):
        await sky.api().attributes(gone._url)
    with pytest.raises(DiscoveryError):
        await sky.api().attributes(own_left._url)
    for places in (ours, *stay):
        await sky.api().attributes(places._url)
        await places.close()


@module_loop
async def test_a_young_queue_is_left_alone(sky: Sky) -> None:
    young = await left(sky, task_arn(1))
    ours = sky.own(sky.api())
    await ours.tidy(lambda task: True)
    await sky.api().attributes(young._url)
    await young.close()


@pytest.mark.parametrize(
    ("queue", "region"),
    [
        ("arn:aws:sqs:eu-west-1:111122223333:events", "eu-west-1"),
        ("https://sqs.eu-west-1.amazonaws.com/111122223333/events", "eu-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/111122223333/events", "cn-north-1"),
        ("https://eu-west-1.queue.amazonaws.com/111122223333/events", "eu-west-1"),
        ("https://queue.amazonaws.com/111122223333/events", ""),
        ("http://127.0.0.1:4566/123456789012/events", ""),
        ("auto", ""),
        ("", ""),
    ],
)
def test_the_region_of_a_queue(queue: str, region: str) -> None:
    assert region_of(queue) == region
