"""The poller against a scripted cluster: what it asks, when it speaks, and what it never forgets."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from discovery.ecs.poller import EcsPoller, retry_delay_s
from discovery.ecs.queries import Described, Json
from discovery.ecs.rules import ServiceRule
from discovery.model import DiscoveryError, Service, Snapshot
from tests.kit import ecs_json as ecs

INTERVAL_S = 5.0


class FakeApi:
    """A cluster that a test changes between polls; answers are the API's own JSON."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.tasks: dict[str, Json] = {}
        self.listed: list[str] | None = None  # None: those that are meant to run
        self.instances = {ecs.instance_arn(n): ecs.instance(n) for n in (1, 2)}
        self.addresses = {ecs.ec2_id(1): "10.0.1.5", ecs.ec2_id(2): "10.0.2.5"}
        self.definitions = {ecs.definition_arn("web:42"): ecs.definition()}
        self.errors: list[tuple[str, DiscoveryError]] = []  # the next call of that name fails

    def put(self, *tasks: dict[str, Any]) -> None:
        self.tasks |= {task["taskArn"]: task for task in tasks}

    def _ask(self, operation: str) -> None:
        self.calls[operation] += 1
        if self.errors and self.errors[0][0] == operation:
            raise self.errors.pop(0)[1]

    async def list_tasks(self, cluster: str, *, desired_status: str = "RUNNING") -> list[str]:
        self._ask("ListTasks")
        if self.listed is not None:
            return list(self.listed) if desired_status == "RUNNING" else []
        return [arn for arn, task in self.tasks.items() if task["desiredStatus"] == desired_status]

    async def describe_tasks(self, cluster: str, arns: Sequence[str]) -> Described:
        self._ask("DescribeTasks")
        return _described(self.tasks, arns)

    async def describe_container_instances(self, cluster: str, arns: Sequence[str]) -> Described:
        self._ask("DescribeContainerInstances")
        return _described(self.instances, arns)

    async def describe_task_definition(self, arn: str) -> Json:
        self._ask("DescribeTaskDefinition")
        return self.definitions[arn]

    async def instance_addresses(self, ec2_ids: Sequence[str]) -> dict[str, str]:
        self._ask("DescribeInstances")
        return {one: self.addresses[one] for one in ec2_ids if one in self.addresses}


def _described(known: dict[str, Any], arns: Sequence[str]) -> Described:
    unique = list(dict.fromkeys(arns))
    return Described([known[a] for a in unique if a in known], [a for a in unique if a not in known])


class _Enough(Exception):
    """The script of a test has ended."""


class Watched:
    """A poller on a fake cluster, in a time that passes only while it sleeps."""

    def __init__(self, **more: Any) -> None:
        self.api = FakeApi()
        self.now_s = 1000.0
        self.slept: list[float] = []
        web = ServiceRule(service=Service(name="web", hosts=("a.io",)), ecs_service="web", cluster="prod")
        elsewhere = ServiceRule(service=Service(name="x"), ecs_service="x", cluster="other")
        options: dict[str, Any] = {"cluster": "prod", "rules": [web, elsewhere], **more}
        self.poller = EcsPoller(
            self.api,
            interval_s=INTERVAL_S,
            clock=lambda: self.now_s,
            wall_clock=lambda: ecs.STARTED.timestamp() + 1,
            sleep=self._sleep,
            rng=random.Random(1),
            **options,
        )

    async def run(self, *steps: Callable[[], object]) -> list[Snapshot | None]:
        """Poll once, and once more after each step; return what each poll yielded, None for nothing."""
        self._steps = list(steps)
        self._seen: list[Snapshot | None] = [None]
        try:
            async for snapshot in self.poller.watch():
                self._seen[-1] = snapshot
        except _Enough:
            return self._seen
        raise AssertionError("the watch has ended by itself")

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        if not self._steps:
            raise _Enough
        self._seen.append(None)
        self._steps.pop(0)()


def nothing() -> None:
    """Let a poll go by."""


def endpoints(snapshot: Snapshot | None) -> list[str]:
    assert snapshot is not None, "this poll should have yielded"
    return [f"{e.address}{' draining' if e.draining else ''}" for e in snapshot.endpoints]


def stopping(number: int = 1, **more: Any) -> dict[str, Any]:
    return ecs.task(number, desiredStatus="STOPPED", version=4, **more)


# --- facts -----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_one_poll_asks_each_thing_once() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1), ecs.task(2, instance=2))

    first, second, third = await watched.run(nothing, nothing)

    assert endpoints(first) == ["10.0.1.5:32771", "10.0.2.5:32771"]
    assert (second, third) == (None, None), "no change, no snapshot"
    assert watched.api.calls == {
        "ListTasks": 4,  # one more at the start, for those on their way out
        "DescribeTasks": 3,
        "DescribeContainerInstances": 3,
        "DescribeInstances": 1,  # an address belongs to an instance for its life
        "DescribeTaskDefinition": 1,  # a revision never changes
    }
    assert watched.poller.status.calls is watched.api.calls
    assert watched.poller.status.refreshes == 3


@pytest.mark.asyncio
async def test_life_of_a_task() -> None:
    watched = Watched()
    api = watched.api
    pending = ecs.task(lastStatus="PENDING", version=1, containers=[ecs.container(bindings=[])])
    over = stopping(lastStatus="STOPPED") | {"version": 6}

    polls = await watched.run(
        lambda: api.put(pending),
        lambda: api.put(ecs.task()),
        lambda: api.put(stopping()),
        lambda: api.put(over),
    )

    assert endpoints(polls[0]) == []
    assert polls[1] is not None, "the rule of the config has a task now"
    assert (endpoints(polls[1]), polls[1].problems) == ([], ())
    assert endpoints(polls[2]) == ["10.0.1.5:32771"]
    assert endpoints(polls[3]) == ["10.0.1.5:32771 draining"]
    assert endpoints(polls[4]) == []


@pytest.mark.asyncio
async def test_tasks_already_stopping_at_the_start_are_seen() -> None:
    """A restarted control process must not drop the sessions they still hold."""
    watched = Watched()
    watched.api.put(stopping())

    (first,) = await watched.run()

    assert endpoints(first) == ["10.0.1.5:32771 draining"]


@pytest.mark.asyncio
async def test_rules_of_other_clusters_are_not_its_business() -> None:
    (first,) = await Watched(cluster=ecs.arn("cluster", "prod")).run()

    assert first is not None
    assert (first.source, set(first.services)) == ("ecs:prod", {"web"})


@pytest.mark.asyncio
async def test_address_of_a_new_instance_is_asked_until_known() -> None:
    watched = Watched()
    watched.api.put(ecs.task())
    address = watched.api.addresses.pop(ecs.ec2_id(1))

    polls = await watched.run(nothing, lambda: watched.api.addresses.update({ecs.ec2_id(1): address}))

    assert polls[0] is not None
    assert "no private address" in polls[0].problems[0].what
    assert endpoints(polls[2]) == ["10.0.1.5:32771"]
    assert watched.api.calls["DescribeInstances"] == 3


# --- no news is not bad news -------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_stale_list_removes_nothing() -> None:
    """An empty list does not end what DescribeTasks still shows running."""
    watched = Watched()
    watched.api.put(ecs.task(1), ecs.task(2))

    polls = await watched.run(lambda: setattr(watched.api, "listed", []), nothing, nothing, nothing)

    assert len(endpoints(polls[0])) == 2
    assert polls[1:] == [None] * 4


@pytest.mark.asyncio
async def test_suddenly_empty_cluster_is_believed_only_after_a_second_look() -> None:
    watched = Watched(confirm_s=3 * INTERVAL_S)
    watched.api.put(ecs.task(1), ecs.task(2))

    polls = await watched.run(watched.api.tasks.clear, *[nothing] * 5)

    assert [snapshot is not None for snapshot in polls] == [True, False, False, False, False, True, False]
    assert endpoints(polls[5]) == []


@pytest.mark.asyncio
async def test_listed_and_unknown_is_a_contradiction_and_removes_nothing() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1), ecs.task(2), ecs.task(3))

    def lose_one() -> None:
        watched.api.listed = list(watched.api.tasks)
        del watched.api.tasks[ecs.task_arn(1)]

    assert (await watched.run(lose_one, nothing))[1:] == [None, None]


@pytest.mark.asyncio
async def test_missing_task_of_many_is_removed_by_a_complete_answer() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1), ecs.task(2, instance=2), ecs.task(3, instance=2))

    polls = await watched.run(lambda: watched.api.tasks.pop(ecs.task_arn(1)))

    assert endpoints(polls[1]) == ["10.0.2.5:32771", "10.0.2.5:32771"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "operation",
    [
        "ListTasks",
        "DescribeTasks",
        "DescribeContainerInstances",
        "DescribeInstances",
        "DescribeTaskDefinition",
    ],
)
async def test_any_failed_call_makes_the_whole_poll_say_nothing(operation: str) -> None:
    """Even one that would only add: half a change is not a state the cluster was ever in."""
    watched = Watched()
    api = watched.api
    api.put(ecs.task(1))
    api.definitions[ecs.definition_arn("web:43")] = ecs.definition("web:43")

    def deploy_and_fail() -> None:
        api.put(ecs.task(2, instance=2, definition="web:43"))
        del api.tasks[ecs.task_arn(1)]
        api.errors = [(operation, DiscoveryError("throttled", "slow down"))]

    polls = await watched.run(deploy_and_fail, nothing)

    assert polls[1] is None
    assert len(endpoints(polls[2])) == 2
    assert watched.poller.status.errors == {"throttled": 1}


@pytest.mark.asyncio
async def test_malformed_answer_is_an_error_like_any_other() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1))

    polls = await watched.run(
        lambda: watched.api.put({"taskArn": ecs.task_arn(2), "desiredStatus": "RUNNING"})
    )

    assert polls[1] is None
    assert watched.poller.status.errors == {"malformed": 1}
    assert watched.poller.status.last_success_s == 1000.0


@pytest.mark.asyncio
async def test_definitions_learnt_before_an_error_are_kept() -> None:
    """Else a cold start whose budget ends half way would begin again for ever."""
    watched = Watched()
    api = watched.api
    for number in range(1, 4):
        api.definitions[ecs.definition_arn(f"s{number}:1")] = ecs.definition(f"s{number}:1")
        api.put(ecs.task(number, service=f"s{number}", definition=f"s{number}:1"))
    answers = iter([None, DiscoveryError("throttled", "slow down")])
    ask = api._ask

    def throttled(operation: str) -> None:
        ask(operation)
        if operation == "DescribeTaskDefinition" and (error := next(answers, None)) is not None:
            raise error

    api._ask = throttled  # type: ignore[method-assign]

    polls = await watched.run(nothing)

    assert polls[0] is None
    assert polls[1] is not None
    assert api.calls["DescribeTaskDefinition"] <= 5, "the first of the three was not asked for twice"


@pytest.mark.asyncio
async def test_service_of_labels_stays_known_without_tasks() -> None:
    watched = Watched(rules=(), domain="example.com")
    watched.api.put(ecs.task())

    polls = await watched.run(lambda: watched.api.put(stopping(lastStatus="STOPPED")))

    assert endpoints(polls[1]) == []
    assert polls[1] is not None
    assert set(polls[1].services) == {"web"}


# --- pace and voice ----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_polls_are_jittered_and_never_later_than_the_interval() -> None:
    watched = Watched()

    await watched.run(*[nothing] * 50)

    assert max(watched.slept) <= INTERVAL_S
    assert min(watched.slept) >= 0.8 * INTERVAL_S
    assert len(set(watched.slept)) > 40


@pytest.mark.asyncio
async def test_slow_answer_shortens_the_pause_but_never_to_nothing() -> None:
    watched = Watched()
    ask = watched.api._ask

    def slow(operation: str) -> None:
        watched.now_s += 3.0
        ask(operation)

    watched.api._ask = slow  # type: ignore[method-assign]

    await watched.run(nothing, nothing)

    assert all(0.1 * INTERVAL_S <= pause < 2.0 for pause in watched.slept)


@pytest.mark.asyncio
async def test_hurry_shortens_the_pause_but_no_back_off() -> None:
    """A storm of refused connections must not keep asking an API whose budget is spent."""
    watched = Watched()
    watched.api.errors = [("ListTasks", DiscoveryError("throttled", "slow down"))] * 3
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        watched.poller.hurry()
        for _ in range(5):
            await asyncio.sleep(0)  # time for the hurry to be heard
        slept.append(seconds)
        if len(slept) == 3:
            raise _Enough

    watched.poller._sleep = sleep
    await watched.run()

    assert slept[0] <= 0.5 < slept[1] <= 1.0 < slept[2] <= 2.0


@pytest.mark.asyncio
async def test_hurry_ends_a_pause_at_once_but_for_the_shortest() -> None:
    watched = Watched()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if seconds > 0.1 * INTERVAL_S:
            watched.poller.hurry()
            await asyncio.Event().wait()  # nothing but the hurry ends it
        if len(slept) == 4:
            raise _Enough

    watched.poller._sleep = sleep
    assert await watched.run() != []

    assert slept[1] <= 0.1 * INTERVAL_S < slept[0]


def test_retries_start_soon_and_end_at_a_minute() -> None:
    rng = random.Random(1)
    delays = [retry_delay_s(failures, rng) for failures in range(1, 40)]

    assert delays[0] <= 0.5
    assert all(delay <= 60.0 for delay in delays)
    assert min(delays[10:]) >= 30.0
    assert len(set(delays)) == len(delays)


@pytest.mark.asyncio
async def test_errors_are_logged_when_they_change_and_back_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyport.discovery.ecs")
    watched = Watched()
    throttled, denied = DiscoveryError("throttled", "slow down"), DiscoveryError("denied", "not yours")
    watched.api.errors = [("ListTasks", error) for error in (throttled, throttled, denied)]

    polls = await watched.run(nothing, nothing, nothing)

    assert [record.getMessage() for record in caplog.records] == [
        "ecs:prod: slow down",
        "ecs:prod: not yours",
        "ecs:prod: answers completely again",
    ]
    assert watched.poller.status.errors == {"throttled": 2, "denied": 1}
    assert watched.poller.status.last_error == ""
    assert watched.slept[0] <= 0.5 < watched.slept[2] <= 2.0
    assert polls[3] is not None
