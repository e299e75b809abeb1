"""Events of one cluster in its ledger, and when they can be trusted alone. No queue, no clock but our own."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from discovery.ecs import shapes
from discovery.ecs.aws.sessions import Account
from discovery.ecs.events.feed import EventsFeed
from discovery.ecs.events.meaning import read
from discovery.ecs.events.queue import EventQueue, Listener
from discovery.ecs.events.queue_api import QueueApi
from discovery.ecs.events.queue_place import GivenQueue
from discovery.ecs.feed import Pushed, Shared
from discovery.ecs.ledger.ledger import Ledger
from discovery.model import DiscoveryError, SourceStatus
from tests.kit.ecs_json import arn, binding, container, ec2_id, instance_arn, task_arn
from tests.kit.event_json import CLUSTER_ARN, body, deployment_event, instance_event, spot_event, task_event
from tests.kit.eventually import eventually

WALL_S = 1767323046.0  # a second after what the events tell of


@dataclass
class Stand:
    """A feed, with the clock in our hands."""

    now_s: float = 1000.0
    described: list[set[str]] = field(default_factory=list)
    polls: int = 0
    told: int = 0

    def __post_init__(self) -> None:
        self.status = SourceStatus()
        self.ledger = Ledger(clock=lambda: self.now_s, wall_clock=self.wall_s)
        api = QueueApi(Account(region="eu-west-1"))
        self.feed = EventsFeed(
            self.ledger,
            self._heard,
            queue=EventQueue(api, GivenQueue(api, "https://sqs.eu-west-1.amazonaws.com/1/events")),
            cluster="prod",
            status=self.status,
            describe=self._describe,
            poll=self._poll,
            clock=lambda: self.now_s,
            wall_clock=self.wall_s,
        )

    def wall_s(self) -> float:
        return WALL_S + self.now_s - 1000.0

    def hear(self, *events: dict[str, Any] | str) -> None:
        self.feed.hear([read(event if isinstance(event, str) else body(event)) for event in events])

    def event(self, number: int = 1, **more: Any) -> dict[str, Any]:
        """A task event of just now."""
        now = datetime.fromtimestamp(self.wall_s(), UTC).isoformat()
        return task_event(number, updatedAt=now, **more)

    def polled(self) -> None:
        """The API has answered completely."""
        self.status.asked_s = self.now_s
        self.status.refreshes += 1

    def make_fresh(self) -> None:
        self.feed.gap(self.now_s)
        self.polled()
        self.hear(task_event())
        assert self.feed.fresh

    def wait(self, seconds: float) -> None:
        """Let time go by, in which the queue answers that there is nothing."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(until_s, self.now_s + 20.0)
            self.hear()

    def _heard(self, *, complete: bool = False, asked_s: float | None = None) -> None:
        assert not complete
        self.told += 1

    def _describe(self, arns: Set[str]) -> None:
        self.described.append(set(arns))

    def _poll(self) -> None:
        self.polls += 1


def definition(*ports: dict[str, Any]) -> shapes.TaskDefinition:
    return shapes.task_definition(
        {
            "taskDefinitionArn": arn("task-definition", "web:42"),
            "containerDefinitions": [
                {"name": "app", "portMappings": list(ports or [{"containerPort": 8080}])}
            ],
        }
    )


RANGE = {"containerPortRange": "7000-7002"}
BOUND_RANGE = {"containerPortRange": "7000-7002", "hostPortRange": "32800-32802", "protocol": "tcp"}


# --- what is told ---------------------------------------------------------------------------------


def test_a_task_is_in_the_ledger_with_the_event() -> None:
    stand = Stand()
    stand.ledger.hear_definition(definition())
    stand.hear(task_event())
    task = stand.ledger.task(task_arn(1))
    assert task is not None
    assert task.containers[0].bindings[0].host_first == 32771
    assert stand.told == 1
    assert stand.described == []
    assert [told.by for told in stand.ledger.told(task_arn(1))] == ["events"]


def test_events_of_one_answer_are_told_at_once_and_in_any_order() -> None:
    stand = Stand()
    stopped = task_event(version=5, lastStatus="STOPPED", desiredStatus="STOPPED")
    stand.hear(stopped, task_event(), stopped, task_event(2), task_event(2))
    assert stand.told == 1
    assert stand.ledger.buried(task_arn(1))
    assert [task.arn for task in stand.ledger.tasks()] == [task_arn(2)]


def test_an_older_version_that_comes_late_changes_nothing() -> None:
    stand = Stand()
    stand.hear(task_event(version=4, desiredStatus="STOPPED"))
    stand.hear(task_event(version=3))
    task = stand.ledger.task(task_arn(1))
    assert task is not None
    assert (task.version, task.desired_status) == (4, "STOPPED")


def test_an_event_without_a_version_is_only_a_hint() -> None:
    stand = Stand()
    stand.hear(task_event(version=None))
    assert stand.ledger.task(task_arn(1)) is None
    assert stand.described == [{task_arn(1)}]


def test_a_task_of_an_unknown_definition_is_described_since_it_may_have_port_ranges() -> None:
    stand = Stand()
    stand.hear(task_event(), task_event(2, lastStatus="PENDING", containers=[]))
    assert stand.described == [{task_arn(1)}]


def test_port_ranges_are_described_and_no_event_takes_them_away_again() -> None:
    stand = Stand()
    stand.ledger.hear_definition(definition({"containerPort": 8080}, RANGE))
    stand.hear(task_event())
    assert stand.described == [{task_arn(1)}]
    everything = container(bindings=[binding(8080, 32771), BOUND_RANGE])
    raw = task_event(containers=[everything])["detail"]
    stand.ledger.hear_task(shapes.task(raw), by="api")
    for version in (3, 4):
        stand.hear(task_event(version=version))
        task = stand.ledger.task(task_arn(1))
        assert task is not None
        assert {b.host_first for b in task.containers[0].bindings} == {32771, 32800}
    assert len(stand.described) == 1


def test_a_running_bridge_task_without_bindings_is_described() -> None:
    stand = Stand()
    stand.ledger.hear_definition(definition())
    stand.hear(task_event(containers=[container(bindings=[])]))
    assert stand.described == [{task_arn(1)}]


def test_instances_drain_and_are_interrupted() -> None:
    stand = Stand()
    stand.hear(spot_event())  # of an instance that is none of ours
    assert stand.ledger.notices == {}
    stand.hear(instance_event(status="DRAINING"))
    assert stand.ledger.instances[instance_arn(1)].status == "DRAINING"
    stand.hear(spot_event())
    assert stand.ledger.notices == {ec2_id(1): "Spot interruption: terminate"}


@pytest.mark.parametrize("late", [False, True])
def test_a_deployment_goes_on_until_its_end_in_whatever_order_that_is_told(late: bool) -> None:
    stand = Stand()
    begun, ended = deployment_event(), deployment_event("COMPLETED", at="2026-01-02T03:05:00Z")
    stand.hear(begun)
    assert stand.feed.deploying
    stand.hear(*((ended, begun) if late else (begun, ended)))
    assert not stand.feed.deploying


def test_a_deployment_of_whose_end_nobody_tells_is_forgotten() -> None:
    stand = Stand()
    stand.hear(deployment_event())
    stand.now_s += 3700
    stand.hear(deployment_event("COMPLETED", at="2026-01-02T04:10:00Z", resources=[]).copy())
    assert not stand.feed.deploying


def test_everything_is_counted_and_nothing_is_fatal() -> None:
    stand = Stand()
    stand.hear("garbage", task_event(), instance_event(), spot_event(), deployment_event(), "[]")
    assert stand.feed.status.kinds == {
        "unknown": 2, "task": 1, "instance": 1, "spot": 1, "deployment": 1
    }  # fmt: skip
    assert sum(stand.feed.status.ages.values()) == 4
    assert stand.feed.status.ages == {0.05: 1, 1.0: 3}
    assert stand.feed.status.age_sum_s == pytest.approx(2 * 0.75 + 1.0)
    assert stand.status.events is stand.feed.status


# --- whether they can be trusted ------------------------------------------------------------------


def test_events_are_fresh_when_one_has_come_and_the_api_has_told_what_was_before() -> None:
    stand = Stand()
    assert not stand.feed.fresh
    stand.feed.gap(stand.now_s + 60)
    assert stand.polls == 1  # what was before, nobody has told
    stand.wait(40)
    stand.hear(task_event())
    stand.polled()
    assert not stand.feed.fresh  # a new queue may not get everything yet
    stand.wait(40)
    stand.polled()
    assert not stand.feed.fresh  # it answers, but does anything come by it?
    stand.hear(stand.event(version=4))
    assert stand.feed.fresh
    assert stand.feed.status.fresh


def test_a_queue_that_does_not_answer_is_not_fresh_and_a_gap_wants_a_look_at_everything() -> None:
    stand = Stand()
    stand.make_fresh()
    stand.now_s += 30
    stand.feed.failed(DiscoveryError("unreachable", "sqs:ReceiveMessage: cannot reach it"))
    assert stand.feed.fresh  # one long poll and an attempt
    stand.now_s += 30
    assert not stand.feed.fresh
    assert stand.feed.status.errors == {"unreachable": 1}
    stand.feed.gap(stand.now_s)
    stand.hear(stand.event(version=4))
    assert stand.polls == 2
    assert not stand.feed.fresh
    stand.now_s += 1
    stand.polled()
    stand.hear(stand.event(version=5))
    assert stand.feed.fresh


def test_a_backlog_is_not_fresh_until_it_is_worked_off() -> None:
    stand = Stand()
    stand.make_fresh()
    stand.now_s += 40
    stand.hear(task_event(2))  # more than 40 s old
    assert not stand.feed.fresh
    stand.hear()
    assert stand.feed.fresh


def test_a_change_that_no_event_tells_of_is_noticed_and_doubted_for_ten_minutes() -> None:
    stand = Stand()
    stand.make_fresh()
    stand.wait(200)
    raw = task_event(version=9)["detail"]
    stand.ledger.hear_task(shapes.task(raw), by="api")
    stand.wait(60)
    assert stand.feed.fresh  # it may be on its way
    stand.wait(80)
    assert stand.feed.status.missed == 1
    assert not stand.feed.fresh
    stand.wait(600)
    assert stand.feed.fresh


def test_a_change_that_an_event_tells_of_later_is_none_that_was_missed() -> None:
    stand = Stand()
    stand.make_fresh()
    stand.wait(200)
    raw = task_event(version=9)["detail"]
    stand.ledger.hear_task(shapes.task(raw), by="api")
    stand.wait(40)
    stand.hear(stand.event(version=9))
    stand.wait(200)
    assert stand.feed.status.missed == 0
    assert stand.feed.fresh


def test_what_the_first_look_at_everything_tells_is_not_missed() -> None:
    stand = Stand()
    stand.feed.gap(stand.now_s)
    stand.wait(20)
    for number in range(20):
        raw = task_event(number, version=3)["detail"]
        stand.ledger.hear_task(shapes.task(raw), by="api")
    stand.polled()
    stand.wait(400)
    assert stand.feed.status.missed == 0


# --- in a fleet -----------------------------------------------------------------------------------


class Queue(EventQueue):
    """One that says whether it is being read."""

    served = 0
    reading = False

    async def serve(self, listener: Listener) -> None:
        self.served += 1
        self.reading = True
        try:
            await asyncio.Event().wait()
        finally:
            self.reading = False


@pytest.mark.asyncio
async def test_only_a_leader_reads_the_queue() -> None:
    stand = Stand()
    api = QueueApi(Account(region="eu-west-1"))
    queue = Queue(api, GivenQueue(api, "https://sqs.eu-west-1.amazonaws.com/1/events"))
    feed = EventsFeed(
        stand.ledger, stand._heard, queue=queue, cluster="prod", status=stand.status,
        describe=stand._describe, poll=stand._poll,
    )  # fmt: skip
    assert isinstance(feed, Pushed)  # the poller asks less often while it is fresh
    assert isinstance(feed, Shared)  # and one proxy of a fleet reads it for all
    feed.follow()
    running = asyncio.create_task(feed.run())
    await asyncio.sleep(0)
    assert queue.served == 0
    for count in (1, 2):
        feed.lead()
        feed.lead()
        await eventually(lambda: queue.reading)
        assert (queue.served, feed.status.reading) == (count, True)
        feed.follow()
        feed.follow()
        await eventually(lambda: not queue.reading)
        assert not feed.status.reading
    running.cancel()
    await asyncio.wait([running])
    assert queue.served == 2


# --- whose they are -------------------------------------------------------------------------------


def test_a_cluster_of_another_account_is_told_apart_as_soon_as_one_task_is_known() -> None:
    stand = Stand()
    other = CLUSTER_ARN.replace("111122223333", "999999999999")
    assert stand.feed.asks(CLUSTER_ARN)
    stand.hear(task_event())
    assert stand.feed.asks(CLUSTER_ARN)
    assert not stand.feed.asks(other)


def test_which_tasks_have_ended() -> None:
    stand = Stand()
    assert not stand.feed.ended(task_arn(1))  # nobody has told anything yet
    stand.hear(task_event(), task_event(2, version=6, lastStatus="STOPPED"))
    assert stand.feed.ended(task_arn(2))
    assert not stand.feed.ended(task_arn(3))
    stand.polled()
    assert stand.feed.ended(task_arn(3))
    assert not stand.feed.ended(task_arn(1))
    assert not stand.feed.ended(task_arn(3).replace("task/prod/", "task/other/"))
    assert not stand.feed.ended("arn:aws:ecs:eu-west-1:111122223333:task/4d59")  # names no cluster
