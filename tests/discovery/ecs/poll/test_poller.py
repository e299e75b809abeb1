"""The poller against a scripted cluster: what it asks, how often, and what it never takes away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from discovery.ecs.aws.queries import Described
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.poll.poller import ApiPoller
from discovery.ecs.shapes import ContainerInstance, container_instance
from discovery.model import DiscoveryError
from tests.kit import ecs_json as ecs
from tests.kit.fake_api import FakeApi

INTERVAL_S = 5.0
THROTTLED = DiscoveryError("throttled", "slow down")


class _Enough(Exception):
    """The script of a test has ended."""


class Watched:
    """A poller on a fake cluster, in a time that passes only while it sleeps."""

    def __init__(self, **more: Any) -> None:
        self.api = FakeApi()
        self.now_s = 1000.0
        self.slept: list[float] = []
        self.complete: list[float] = []  # when each complete answer was asked
        self.failed: list[str] = []
        self.eased = self.deploying = False
        self.ledger = Ledger(clock=lambda: self.now_s, wall_clock=lambda: 1.8e9 + self.now_s)
        self.poller = ApiPoller(
            self.api,
            self.ledger,
            self._heard,
            **{"cluster": "prod", "interval_s": INTERVAL_S, **more},
            eased=lambda: self.eased,
            deploying=lambda: self.deploying,
            failed=lambda error: self.failed.append(error.kind),
            clock=lambda: self.now_s,
            sleep=self._sleep,
            rng=random.Random(1),
        )

    def _heard(self, *, complete: bool = False, asked_s: float | None = None) -> None:
        if complete:
            assert asked_s is not None
            self.complete.append(asked_s)

    async def run(self, *steps: Callable[[], object]) -> list[list[str]]:
        """Poll once, and once more after each step; return what is known after each poll."""
        self._steps = list(steps)
        self._seen: list[list[str]] = []
        try:
            await self.poller.run()
        except _Enough:
            return self._seen
        raise AssertionError("the poller has ended by itself")

    async def _sleep(self, seconds: float) -> None:
        self._seen.append(self.tasks())
        self.slept.append(seconds)
        self.now_s += seconds
        if not self._steps:
            raise _Enough
        self._steps.pop(0)()

    def tasks(self) -> list[str]:
        """Return every task that is known: its number, and whether it is to stop."""
        return sorted(
            f"{int(task.arn[-8:], 16)}{' stopping' if task.desired_status == 'STOPPED' else ''}"
            for task in self.ledger.tasks()
        )

    def since(self, calls: int) -> list[str]:
        """Return what was asked after the first *calls* calls."""
        return [operation for operation, _ in self.api.asked[calls:]]


def nothing() -> None:
    """Let a poll go by."""


def stopping(number: int = 1, **more: Any) -> dict[str, Any]:
    return ecs.task(number, desiredStatus="STOPPED", version=4, **more)


# --- a poll -----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_one_poll_asks_each_thing_once() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1), ecs.task(2, instance=2))
    for number in (1, 2):
        watched.ledger.hear_instance(_instance(number))

    assert await watched.run(nothing, nothing) == [["1", "2"]] * 3

    assert watched.api.calls == {
        "ListTasks": 4,  # one more at the start, for those on their way out
        "DescribeTasks": 3,
        "DescribeContainerInstances": 3,
    }
    assert watched.complete[0] == 1000.0
    assert len(watched.complete) == 3


def _instance(number: int) -> ContainerInstance:
    return container_instance(ecs.instance(number))


@pytest.mark.asyncio
async def test_each_page_is_described_by_itself() -> None:
    watched = Watched()
    watched.api.put(*(ecs.task(number) for number in range(250)))

    (seen,) = await watched.run()

    assert len(seen) == 250
    described = [about for operation, about in watched.api.asked if operation == "DescribeTasks"]
    assert sorted(len(about) for about in described if isinstance(about, list)) == [50, 100, 100]


@pytest.mark.asyncio
async def test_life_of_a_task() -> None:
    watched = Watched()
    api = watched.api
    pending = ecs.task(lastStatus="PENDING", version=1, containers=[ecs.container(bindings=[])])
    over = stopping(lastStatus="STOPPED") | {"version": 6}

    assert await watched.run(
        lambda: api.put(pending),
        lambda: api.put(ecs.task()),
        lambda: api.put(stopping()),
        lambda: api.put(over),
    ) == [[], ["1"], ["1"], ["1 stopping"], []]


@pytest.mark.asyncio
async def test_tasks_already_stopping_at_the_start_are_seen() -> None:
    """A restarted control process must not drop the sessions they still hold."""
    watched = Watched()
    watched.api.put(stopping())

    assert await watched.run() == [["1 stopping"]]


@pytest.mark.asyncio
async def test_an_instance_that_begins_to_drain_is_seen() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1))
    watched.ledger.hear_instance(_instance(1))

    def drain() -> None:
        watched.api.instances[ecs.instance_arn(1)] |= {"status": "DRAINING", "version": 8}

    await watched.run(drain, nothing)

    assert watched.ledger.instances[ecs.instance_arn(1)].status == "DRAINING"


# --- no news is not bad news -------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_stale_list_removes_nothing() -> None:
    """An empty list does not end what DescribeTasks still shows running."""
    watched = Watched()
    watched.api.put(ecs.task(1), ecs.task(2))

    seen = await watched.run(lambda: setattr(watched.api, "listed", []), nothing, nothing, nothing)

    assert seen == [["1", "2"]] * 5


@pytest.mark.asyncio
async def test_suddenly_empty_service_is_believed_after_a_second_look_and_when_ecs_agrees() -> None:
    watched = Watched(confirm_s=3 * INTERVAL_S)
    watched.api.put(ecs.task(1), ecs.task(2))
    watched.api.services["web"] = 2

    seen = await watched.run(watched.api.tasks.clear, *[nothing] * 4, watched.api.services.clear, nothing)

    assert seen == [["1", "2"]] * 6 + [[]] * 2
    assert watched.api.calls["DescribeServices"] > 1


@pytest.mark.asyncio
async def test_tasks_of_a_deleted_service_are_gone() -> None:
    watched = Watched(confirm_s=INTERVAL_S)
    watched.api.put(ecs.task(1), ecs.task(2))

    async def unknown(cluster: str, names: Sequence[str]) -> Described:
        return Described([], list(names))

    watched.api.describe_services = unknown  # type: ignore[method-assign]

    assert (await watched.run(watched.api.tasks.clear, nothing, nothing))[-1] == []


@pytest.mark.asyncio
async def test_listed_and_unknown_is_a_contradiction_and_removes_nothing() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1), ecs.task(2), ecs.task(3))

    def lose_one() -> None:
        watched.api.listed = list(watched.api.tasks)
        del watched.api.tasks[ecs.task_arn(1)]

    assert await watched.run(lose_one, nothing) == [["1", "2", "3"]] * 3


@pytest.mark.asyncio
async def test_missing_task_of_many_is_removed_by_a_complete_answer() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1), ecs.task(2, instance=2), ecs.task(3, instance=2))

    seen = await watched.run(lambda: watched.api.tasks.pop(ecs.task_arn(1)))

    assert seen[1] == ["2", "3"]


@pytest.mark.asyncio
@pytest.mark.parametrize("operation", ["ListTasks", "DescribeTasks", "DescribeContainerInstances"])
async def test_a_poll_that_failed_takes_nothing_away(operation: str) -> None:
    watched = Watched()
    api = watched.api
    api.put(ecs.task(1), ecs.task(2), ecs.task(3))
    watched.ledger.hear_instance(_instance(1))

    def lose_one_and_fail() -> None:
        del api.tasks[ecs.task_arn(1)]
        api.errors = [(operation, THROTTLED)]

    seen = await watched.run(lose_one_and_fail, nothing)

    assert seen == [["1", "2", "3"], ["1", "2", "3"], ["2", "3"]]
    assert watched.failed == ["throttled"]
    assert len(watched.complete) == 2


@pytest.mark.asyncio
async def test_a_malformed_task_does_not_hide_the_others_but_is_no_complete_answer() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1), ecs.task(3), ecs.task(4))

    def spoil() -> None:
        del watched.api.tasks[ecs.task_arn(1)]
        watched.api.put({"taskArn": ecs.task_arn(2), "desiredStatus": "RUNNING"}, stopping(3))

    seen = await watched.run(spoil)

    assert seen[1] == ["1", "3 stopping", "4"]
    assert watched.failed == ["malformed"]
    assert len(watched.complete) == 1


# --- pace --------------------------------------------------------------------------------------------


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
    ask = watched.api.ask

    def slow(operation: str, about: object = None) -> None:
        watched.now_s += 2.9
        ask(operation, about)

    watched.api.ask = slow  # type: ignore[method-assign]

    await watched.run(nothing, nothing)

    assert all(0.1 * INTERVAL_S <= pause < 2.2 for pause in watched.slept)


@pytest.mark.asyncio
async def test_hurry_shortens_the_pause_but_no_back_off() -> None:
    """A storm of refused connections must not keep asking an API whose budget is spent."""
    watched = Watched()
    watched.api.errors = [("ListTasks", THROTTLED)] * 3

    await watched.run(watched.poller.hurry, watched.poller.hurry, watched.poller.hurry)

    assert watched.slept[0] <= 0.5 < watched.slept[1] <= 1.0 < watched.slept[2] <= 2.0


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
        watched.now_s += seconds

    watched.poller._sleep = sleep
    await watched.run()

    assert slept[1] <= 0.1 * INTERVAL_S < slept[0]


# --- while others tell of each change ------------------------------------------------------------------


@pytest.mark.asyncio
async def test_while_events_are_fresh_only_the_instances_are_counted() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1), ecs.task(2, instance=2))
    for number in (1, 2):
        watched.ledger.hear_instance(_instance(number))
    watched.eased = True
    await watched.run()
    before = len(watched.api.asked)

    await watched.run(nothing, nothing)

    once = ["DescribeContainerInstances", "ListContainerInstances", "ListTasks"]
    assert sorted(watched.since(before)) == sorted(once * 3)
    assert ("ListTasks", "FARGATE") in watched.api.asked[before:]
    assert watched.slept[-2:] == pytest.approx([60.0, 60.0])
    assert len(watched.complete) == 4


@pytest.mark.asyncio
async def test_audit_looks_at_an_instance_with_other_tasks_than_known() -> None:
    """Events may have been lost, such as of an end and a start, which leave the number as it was."""
    watched = Watched()
    watched.api.put(*(ecs.task(number, instance=1 + number % 2) for number in range(1, 9)))
    for number in (1, 2):
        watched.ledger.hear_instance(_instance(number))
    watched.eased = True

    def swap() -> None:
        del watched.api.tasks[ecs.task_arn(1)]
        watched.api.put(ecs.task(10, instance=2))
        watched.api.instances[ecs.instance_arn(2)] = ecs.instance(2, version=9)

    def start() -> None:
        watched.api.put(ecs.task(11, instance=1))

    watched.poller._pace.poll_calls = 50
    seen = await watched.run(nothing, swap, start)

    assert seen[1] == ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert seen[2] == ["10", "2", "3", "4", "5", "6", "7", "8"]
    assert seen[3] == ["10", "11", "2", "3", "4", "5", "6", "7", "8"]


@pytest.mark.asyncio
async def test_audit_sees_what_is_on_no_instance() -> None:
    watched = Watched()
    fargate = {"containerInstanceArn": None, "launchType": "FARGATE"}
    watched.api.instances.clear()
    watched.api.put(*(ecs.task(number, **fargate) for number in range(1, 5)))
    watched.eased = True

    def change() -> None:
        watched.api.put(stopping(1, **fargate), ecs.task(9, **fargate))

    assert (await watched.run(change))[-1] == ["1 stopping", "2", "3", "4", "9"]
    assert watched.api.asked[-1] == ("DescribeTasks", [ecs.task_arn(1), ecs.task_arn(9)])


@pytest.mark.asyncio
async def test_tasks_of_a_machine_that_is_gone_are_looked_at() -> None:
    watched = Watched()
    watched.api.put(*(ecs.task(number, instance=1 + number % 2) for number in range(1, 7)))
    for number in (1, 2):
        watched.ledger.hear_instance(_instance(number))
    watched.eased = True

    def lose() -> None:
        del watched.api.instances[ecs.instance_arn(2)]
        watched.api.put(*(stopping(number, instance=2, lastStatus="STOPPED") for number in (1, 3, 5)))

    assert (await watched.run(lose))[-1] == ["2", "4", "6"]


@pytest.mark.asyncio
async def test_audit_finds_an_end_that_nobody_has_told() -> None:
    """On its way out a task is not counted on its instance any more."""
    watched = Watched()
    watched.api.put(*(ecs.task(number) for number in range(1, 5)), stopping(5, lastStatus="STOPPING"))
    watched.ledger.hear_instance(_instance(1))
    watched.eased = True

    seen = await watched.run(lambda: watched.api.put(stopping(5, lastStatus="STOPPED") | {"version": 5}))

    assert seen == [["1", "2", "3", "4", "5 stopping"], ["1", "2", "3", "4"]]
    assert watched.api.asked[-1] == ("DescribeTasks", [ecs.task_arn(5)])


@pytest.mark.asyncio
async def test_a_task_stays_in_doubt_until_it_was_looked_at() -> None:
    watched = Watched()
    watched.api.put(*(ecs.task(number) for number in range(1, 5)))
    watched.eased = True
    await watched.run()
    watched.api.put(stopping(2, lastStatus="STOPPED"))
    watched.poller.doubt([ecs.task_arn(2)])
    watched.api.errors = [("DescribeTasks", THROTTLED)]

    assert (await watched.run(nothing, nothing))[-1] == ["1", "3", "4"]
    assert watched.failed == ["throttled"]


@pytest.mark.asyncio
async def test_a_poll_at_once_when_events_are_fresh_no_more() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1))
    watched.eased = True

    def stop_being_fresh() -> None:
        watched.eased = False
        watched.api.put(stopping())

    seen = await watched.run(stop_being_fresh, nothing)

    assert seen[1] == ["1 stopping"]


@pytest.mark.asyncio
async def test_a_task_in_doubt_is_looked_at_before_all_else() -> None:
    watched = Watched()
    watched.api.put(*(ecs.task(number) for number in range(1, 5)))
    watched.eased = True
    await watched.run()
    before = len(watched.api.asked)
    watched.api.put(stopping(2, lastStatus="STOPPED"))
    watched.poller.doubt([ecs.task_arn(2)])
    watched.poller.hurry()

    seen = await watched.run(nothing, nothing)

    assert watched.api.asked[before] == ("DescribeTasks", [ecs.task_arn(2)])
    assert watched.since(before)[1] == "ListContainerInstances", "and then for an answer about all"
    assert seen[-1] == ["1", "3", "4"]


@pytest.mark.asyncio
async def test_paused_it_asks_only_what_is_in_doubt() -> None:
    watched = Watched()
    watched.api.put(*(ecs.task(number) for number in range(1, 5)))
    await watched.run()
    before = len(watched.api.asked)
    watched.poller.pause()
    watched.poller.hurry()
    running = asyncio.create_task(watched.poller.run())
    for _ in range(20):
        await asyncio.sleep(0)
    assert watched.since(before) == []

    watched.now_s += 60.0
    watched.poller.doubt([ecs.task_arn(2)])
    for _ in range(20):
        await asyncio.sleep(0)
    assert watched.since(before) == ["DescribeTasks"]
    running.cancel()
    await asyncio.wait([running])

    watched.poller.resume()
    await watched.run(nothing)
    assert watched.since(before)[1:3] == ["ListTasks", "DescribeTasks"]
