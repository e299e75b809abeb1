"""A cluster that is told by events: the API, SNS and SQS of the embedded one, spoken to by boto3."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from discovery.ecs.aws.api import EcsApi
from discovery.ecs.aws.sessions import Account
from discovery.ecs.cluster import EcsCluster
from discovery.ecs.events.feed import EventsFeed
from discovery.ecs.events.queue import EventQueue
from discovery.ecs.events.queue_api import QueueApi
from discovery.ecs.events.queue_place import GivenQueue
from discovery.ecs.translate.translator import Translator
from discovery.model import Endpoint, HealthCheck, Snapshot
from discovery.simulator.simulator import Simulator
from tests.kit.aws import Operator
from tests.kit.eventually import eventually

pytestmark = pytest.mark.asyncio
NEVER_S = 100_000.0


@dataclass
class Told:
    """A source that is being watched, and its newest snapshot."""

    source: EcsCluster
    newest: Snapshot = field(default_factory=lambda: Snapshot(source="none", complete=False))

    async def watch(self) -> None:
        async for snapshot in self.source.watch():
            self.newest = snapshot

    @property
    def feed(self) -> EventsFeed:
        return next(feed for feed in self.source.feeds if isinstance(feed, EventsFeed))

    def rows(self) -> dict[tuple[str, int], tuple[str, bool]]:
        """Return (task, host port) to address and whether it drains."""
        return {(e.task_arn, e.port): (e.host, e.draining) for e in self.newest.endpoints}


@dataclass
class Stand:
    simulator: Simulator
    operator: Operator
    queue: str

    @asynccontextmanager
    async def told(self, *, interval_s: float) -> AsyncIterator[Told]:
        """Watch the cluster as anyport does, polling every *interval_s*."""
        where = Account(region="eu-west-1", endpoint_url=self.simulator.url)
        queue_api = QueueApi(where)
        queue = EventQueue(queue_api, GivenQueue(queue_api, self.queue), wait_s=2)
        source = EcsCluster(
            EcsApi(where, call_timeout_s=10.0),
            name="ecs:demo",
            cluster="demo",
            translator=partial(
                Translator, source="ecs:demo", cluster="demo", domain="test", default_health=HealthCheck()
            ),
            informants=[partial(_feed, queue)],
            interval_s=interval_s,
        )
        told = Told(source)
        watching = asyncio.create_task(told.watch())
        try:
            await eventually(lambda: told.newest.complete, within_s=20)
            yield told
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    def truth(self) -> dict[tuple[str, int], tuple[str, bool]]:
        """Return what `Told.rows` must come to."""
        found = {}
        for task in self.simulator.state.clusters["demo"].tasks.values():
            for container in task.containers:
                if container.last_status != "RUNNING" or task.last_status == "STOPPED":
                    continue
                for binding in container.bindings:
                    assert task.instance is not None
                    place = (task.instance.address, task.desired_status == "STOPPED")
                    found[task.arn, binding.host_port] = place
        return found


def _feed(queue: EventQueue, cluster: EcsCluster) -> EventsFeed:
    return EventsFeed(
        cluster.ledger,
        cluster.heard,
        queue=queue,
        cluster="demo",
        status=cluster.status,
        describe=cluster.describe,
        poll=cluster.poller.hurry,
        region="eu-west-1",
    )


def define(simulator: Simulator, **more: Any) -> None:
    container = {
        "name": "app",
        "image": "anyport/app",
        "memory": 64,
        "essential": True,
        "portMappings": [{"containerPort": 8080}],
        "environment": [{"name": "LINGER_S", "value": "0"}],
        **more,
    }
    simulator.call("RegisterTaskDefinition", family="web", containerDefinitions=[container])


def create(simulator: Simulator, count: int) -> None:
    simulator.call(
        "CreateService",
        cluster="demo",
        serviceName="web",
        taskDefinition="web",
        desiredCount=count,
        launchType="EC2",
    )


@pytest_asyncio.fixture
async def stand(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stand]:
    async with Simulator(speed=20, throttling=False) as simulator:
        for name, value in simulator.environment.items():
            monkeypatch.setenv(name, value)
        operator = Operator(simulator)
        url, queue_arn = await operator.queue("events")
        await operator.rule(queue_arn)
        await simulator.add_cluster("demo")
        for _ in range(2):
            await simulator.add_instance("demo")
        yield Stand(simulator, operator, url)
        operator.close()


def same(told: Told, stand: Stand) -> Callable[[], bool]:
    return lambda: told.rows() == stand.truth()


def hurried(told: Told, holds: Callable[[], bool]) -> Callable[[], bool]:
    """Return *holds* for someone in a hurry, as a worker is whom a backend refuses: else it is a minute."""

    def look() -> bool:
        told.source.hurry()
        return holds()

    return look


@pytest.mark.timeout(120)
async def test_events_alone_keep_the_table_true(stand: Stand) -> None:
    define(stand.simulator)
    create(stand.simulator, 3)
    async with stand.told(interval_s=NEVER_S) as told:
        await eventually(same(told, stand), within_s=20)
        await eventually(lambda: told.feed.status.answered_s is not None, within_s=20)
        calls = told.source.status.calls["ListTasks"]
        for count in (6, 2, 5):
            stand.simulator.call("UpdateService", cluster="demo", service="web", desiredCount=count)
            await eventually(lambda count=count: len(stand.truth()) == count, within_s=20)
            await eventually(same(told, stand), within_s=20)
        assert told.source.status.calls["ListTasks"] == calls  # nobody has asked


@pytest.mark.timeout(120)
async def test_lost_late_and_repeated_events_end_in_the_truth_with_the_next_look(stand: Stand) -> None:
    define(stand.simulator)
    create(stand.simulator, 3)
    faults = stand.simulator.faults
    async with stand.told(interval_s=1.0) as told:
        await eventually(same(told, stand), within_s=20)
        faults.events_lost(share=0.3)
        faults.events_twice(share=0.5)
        faults.events_late(0.4, share=0.5)
        seen: list[dict[tuple[str, int], tuple[str, bool]]] = []
        for count in (6, 1, 5, 2):
            stand.simulator.call("UpdateService", cluster="demo", service="web", desiredCount=count)
            await eventually(lambda count=count: len(stand.truth()) == count, within_s=20)
            await eventually(hurried(told, same(told, stand)), within_s=30)
            seen.append(told.rows())
        faults.clear()
        stopped = {key[0] for rows in seen for key in rows} - {key[0] for key in stand.truth()}
        assert stopped
        # A container that has stopped is no row any more, though its task may go on ending for a while.
        buried = told.source.ledger.buried
        gone = hurried(told, lambda: all(buried(arn) for arn in stopped))
        await eventually(gone, within_s=30)  # so none comes back
        assert told.feed.status.kinds["task"] > 20


@pytest.mark.timeout(120)
async def test_a_task_with_a_port_range_is_described_for_what_events_leave_out(stand: Stand) -> None:
    define(
        stand.simulator,
        portMappings=[{"containerPortRange": "7000-7001"}],
        dockerLabels={"anyport.port": "7001"},
    )
    async with stand.told(interval_s=NEVER_S) as told:
        await eventually(lambda: told.feed.status.answered_s is not None, within_s=20)
        before = told.source.status.calls["DescribeTasks"]
        create(stand.simulator, 1)
        await eventually(lambda: len(told.newest.endpoints) == 1, within_s=20)
        (endpoint,) = told.newest.endpoints
        assert endpoint.container_port == 7001
        assert told.source.status.calls["DescribeTasks"] > before


@pytest.mark.timeout(120)
async def test_a_task_is_ready_when_its_health_check_has_passed_of_which_no_event_tells(
    stand: Stand,
) -> None:
    define(stand.simulator, healthCheck={"command": ["CMD", "true"], "interval": 5})
    async with stand.told(interval_s=NEVER_S) as told:
        await eventually(lambda: told.feed.status.answered_s is not None, within_s=20)
        create(stand.simulator, 1)
        await eventually(lambda: len(told.newest.endpoints) == 1, within_s=20)
        told.source.status.asked_s = told.feed._clock()  # the API has told all there was
        await eventually(lambda: told.feed.fresh, within_s=20)
        await eventually(lambda: not _only(told).starting, within_s=30)


@pytest.mark.timeout(120)
async def test_the_tasks_of_an_interrupted_spot_instance_drain_with_the_warning(stand: Stand) -> None:
    define(stand.simulator)
    create(stand.simulator, 4)
    async with stand.told(interval_s=NEVER_S) as told:
        await eventually(lambda: len(told.newest.endpoints) == 4, within_s=20)
        await eventually(lambda: told.feed.status.answered_s is not None, within_s=20)
        instance = next(iter(stand.simulator.state.clusters["demo"].instances.values()))
        await stand.simulator.interrupt_spot(instance)
        await eventually(lambda: told.feed.status.kinds["spot"] == 1, within_s=20)
        notices = told.source.ledger.notices
        assert notices == {instance.ec2_instance_id: "Spot interruption: terminate"}


def _only(told: Told) -> Endpoint:
    (endpoint,) = told.newest.endpoints
    return endpoint
