"""One cluster as a source: what it asks for by itself, when its table is complete, and what breaks it not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from discovery.ecs.aws.queries import Json
from discovery.ecs.cluster import EcsCluster
from discovery.ecs.feed import Feed
from discovery.ecs.ledger.words import Sighting
from discovery.ecs.shapes import container_instance, task_definition
from discovery.ecs.shapes import task as read_task
from discovery.ecs.translate.translator import Translator
from discovery.identity import Identity
from discovery.model import DiscoveryError, Snapshot
from discovery.whoami import Whoami
from tests.kit import ecs_json as ecs
from tests.kit.eventually import eventually
from tests.kit.fake_api import FakeApi

HOUR_S = 3600.0


class Quiet:
    """A feed that says nothing, and can be told that it hears of every change."""

    name = "quiet"

    def __init__(self, cluster: EcsCluster | None = None) -> None:
        self.fresh = self.deploying = False
        self.runs = self.hurries = 0

    async def run(self) -> None:
        self.runs += 1
        await asyncio.Event().wait()

    def hurry(self) -> None:
        self.hurries += 1


class Broken(Quiet):
    name = "broken"

    async def run(self) -> None:
        await super().run() if self.runs else None
        self.runs += 1
        raise RuntimeError("a bug")


class Watched:
    """A cluster on a fake API, with all that it has yielded."""

    def __init__(self, api: FakeApi | None = None, **more: Any) -> None:
        self.api = api or FakeApi()
        self.seen: list[Snapshot] = []
        informants: tuple[Callable[[EcsCluster], Feed], ...] = more.pop("informants", ())
        self.cluster = EcsCluster(
            self.api,
            name="ecs:prod",
            cluster="prod",
            translator=lambda: Translator(source="ecs:prod", domain="io"),
            informants=informants,
            **{"interval_s": HOUR_S, "sleep": hasty, **more},
        )

    async def watch(self) -> None:
        async for snapshot in self.cluster.watch():
            self.seen.append(snapshot)

    @contextmanager
    def watching(self) -> Iterator[None]:
        task = asyncio.create_task(self.watch())
        try:
            yield
        finally:
            task.cancel()

    async def until_complete(self) -> Snapshot:
        await eventually(lambda: bool(self.seen) and self.seen[-1].complete)
        return self.seen[-1]

    async def until(self, holds: Callable[[Snapshot], bool]) -> Snapshot:
        await eventually(lambda: bool(self.seen) and holds(self.seen[-1]))
        return self.seen[-1]


async def hasty(seconds: float) -> None:
    """Wait, but for minutes only milliseconds, and for the interval for ever."""
    if seconds > HOUR_S / 2:
        await asyncio.Event().wait()
    await asyncio.sleep(seconds / 1000)


def services(snapshot: Snapshot) -> set[str]:
    return {endpoint.service for endpoint in snapshot.endpoints}


class Gated(FakeApi):
    """An API that keeps its answers about task definitions back until it is told to let so many go."""

    def __init__(self, *services: str) -> None:
        super().__init__()
        self.gate = asyncio.Semaphore(0)
        for position, name in enumerate(services):
            self.definitions[ecs.definition_arn(f"{name}:1")] = ecs.definition(f"{name}:1")
            self.put(
                *(
                    ecs.task(100 * position + n, service=name, definition=f"{name}:1")
                    for n in range(len(services) - position)
                )
            )

    async def describe_task_definition(self, arn: str) -> Json:
        self.ask("DescribeTaskDefinition", arn)
        await self.gate.acquire()
        return self.definitions[arn]


@pytest.mark.asyncio
async def test_first_table_is_used_in_parts_and_complete_when_all_is_known() -> None:
    watched = Watched(Gated("a", "b", "c"))
    assert isinstance(watched.api, Gated)

    with watched.watching():
        await eventually(lambda: watched.api.calls["DescribeTaskDefinition"] == 3)
        watched.api.gate.release()
        part = await watched.until(lambda s: bool(s.endpoints))
        assert (services(part), part.complete) == ({"a"}, False)
        assert (watched.cluster.status.refreshes, watched.cluster.status.asked_s) == (0, None)
        watched.api.gate.release()
        watched.api.gate.release()
        whole = await watched.until_complete()

    assert services(whole) == {"a", "b", "c"}
    assert watched.cluster.status.refreshes == 1
    assert watched.cluster.status.asked_s is not None


@pytest.mark.asyncio
async def test_definitions_that_most_tasks_wait_for_come_first() -> None:
    names = [f"s{number:02}" for number in range(20)]
    watched = Watched(Gated(*names))
    assert isinstance(watched.api, Gated)

    with watched.watching():
        await eventually(lambda: watched.api.calls["DescribeTaskDefinition"] == 6)
        for _ in range(10):
            await asyncio.sleep(0)
        assert watched.api.calls["DescribeTaskDefinition"] == 6, "a few at once"
        for _ in names:
            watched.api.gate.release()
        await watched.until_complete()

    asked = [about for operation, about in watched.api.asked if operation == "DescribeTaskDefinition"]
    assert asked == [ecs.definition_arn(f"{name}:1") for name in names]


@pytest.mark.asyncio
async def test_running_needs_no_call_once_the_task_was_seen_to_start() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1))
    watched.api.definitions[ecs.definition_arn("new:1")] = ecs.definition("new:1")
    pending = ecs.task(
        2, service="new", definition="new:1", instance=2, lastStatus="PENDING", version=1,
        containers=[ecs.container(lastStatus="PENDING", bindings=[])],
    )  # fmt: skip

    with watched.watching():
        await watched.until_complete()
        cluster = watched.cluster
        cluster.ledger.hear_task(read_task(pending), by="events")
        cluster.heard()
        await eventually(
            lambda: ecs.ec2_id(2) in cluster.ledger.addresses and not any(cluster.ledger.wants())
        )
        before = watched.api.calls.total()

        running = ecs.task(2, service="new", definition="new:1", instance=2)
        cluster.ledger.hear_task(read_task(running), by="events")
        cluster.heard()
        found = await watched.until(lambda s: "new" in services(s))

    assert [e.address for e in found.by_service["new"]] == ["10.0.2.5:32771"]
    assert watched.api.calls.total() == before


@pytest.mark.asyncio
async def test_what_cannot_be_known_does_not_keep_the_rest_from_being_a_table() -> None:
    watched = Watched()
    api = watched.api
    api.put(ecs.task(1), ecs.task(2, instance=2), ecs.task(3, service="bad", definition="bad:1"))
    del api.instances[ecs.instance_arn(2)]
    api.definitions[ecs.definition_arn("bad:1")] = {"taskDefinitionArn": 7}

    with watched.watching():
        whole = await watched.until_complete()

    assert [endpoint.task_arn for endpoint in whole.endpoints] == [ecs.task_arn(1)]
    assert watched.cluster.status.errors["malformed"] >= 3


@pytest.mark.asyncio
async def test_without_the_right_to_read_definitions_there_is_no_table() -> None:
    denied = DiscoveryError("denied", "ecs:DescribeTaskDefinition is not allowed")
    watched = Watched()
    watched.api.put(ecs.task(1))
    watched.api.errors = [("DescribeTaskDefinition", denied)] * 10_000

    with watched.watching():
        await eventually(lambda: watched.cluster.status.errors["denied"] >= 5)
        assert watched.cluster.status.last_error == str(denied)
        assert not any(snapshot.complete for snapshot in watched.seen)
        watched.api.errors.clear()
        await watched.until_complete()

    assert watched.cluster.status.last_error == ""


@pytest.mark.asyncio
async def test_address_of_a_new_instance_is_asked_until_known() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1))
    address = watched.api.addresses.pop(ecs.ec2_id(1))

    with watched.watching():
        first = await watched.until_complete()
        assert first.endpoints == ()
        assert "no private address" in first.problems[0].what
        watched.api.addresses[ecs.ec2_id(1)] = address
        found = await watched.until(lambda s: bool(s.endpoints))

    assert [e.address for e in found.endpoints] == ["10.0.1.5:32771"]


@pytest.mark.asyncio
async def test_a_task_is_described_until_the_answer_is_as_new_as_the_event() -> None:
    """An event has no port ranges, and the API may still say what it said before the event."""
    watched = Watched()
    watched.api.put(ecs.task(1, lastStatus="PENDING", version=2, containers=[ecs.container(bindings=[])]))

    with watched.watching():
        await watched.until_complete()
        described = watched.api.calls["DescribeTasks"]
        cluster = watched.cluster
        cluster.ledger.hear_task(read_task(ecs.task(1, containers=[ecs.container(bindings=[])])), by="events")
        cluster.describe([ecs.task_arn(1)])
        await eventually(lambda: watched.api.calls["DescribeTasks"] >= described + 2)
        watched.api.put(ecs.task(1))
        await watched.until(lambda s: bool(s.endpoints))
        await eventually(lambda: not cluster._resolver._doubtful)


@pytest.mark.asyncio
async def test_a_broken_feed_does_not_disturb_the_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "anyport.discovery.ecs")
    feeds = [Broken(), Quiet()]
    watched = Watched(
        informants=tuple(lambda _, feed=feed: feed for feed in feeds),  # type: ignore[misc]
        interval_s=1.0,
    )
    watched.api.put(ecs.task(1))

    with watched.watching():
        await watched.until_complete()
        await eventually(lambda: feeds[0].runs == 2)
        watched.api.put(ecs.task(2, instance=2))
        watched.cluster.hurry()
        await watched.until(lambda s: len(s.endpoints) == 2)

    assert [record.message for record in caplog.records] == [
        "ecs:prod: broken failed; what it has told still stands"
    ]
    assert watched.cluster.status.errors == {"other": 1}
    assert [feed.hurries for feed in feeds] == [1, 1]


@pytest.mark.asyncio
async def test_watched_again_it_begins_with_nothing() -> None:
    feeds: list[Quiet] = []

    def make(cluster: EcsCluster) -> Quiet:
        feeds.append(Quiet(cluster))
        return feeds[-1]

    watched = Watched(informants=(make,))
    watched.api.put(ecs.task(1), ecs.task(2))
    with watched.watching():
        await watched.until_complete()
    first = watched.cluster.ledger
    watched.api.tasks.clear()
    watched.api.put(ecs.task(3))
    watched.seen.clear()

    with watched.watching():
        again = await watched.until_complete()

    assert [e.task_arn for e in again.endpoints] == [ecs.task_arn(3)]
    assert watched.cluster.ledger is not first
    assert feeds[-1].runs == 1


@pytest.mark.asyncio
async def test_nothing_changed_is_no_snapshot() -> None:
    watched = Watched(interval_s=0.05)
    watched.api.put(ecs.task(1))

    with watched.watching():
        await watched.until_complete()
        seen = len(watched.seen)
        await eventually(lambda: watched.cluster.status.refreshes > 5)

    assert len(watched.seen) == seen


@pytest.mark.asyncio
async def test_when_events_are_fresh_no_more_it_polls_at_once() -> None:
    feed = Quiet()
    feed.fresh = True
    watched = Watched(informants=(lambda _: feed,), interval_s=60.0, sleep=never)
    watched.api.put(ecs.task(1))

    with watched.watching():
        await watched.until_complete()
        watched.api.put(ecs.task(2, instance=2))
        watched.cluster.heard()
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(watched.seen[-1].endpoints) == 1
        feed.fresh = False
        pace = watched.cluster.poller._pace
        pace.polled_s = pace.ended_s = -HOUR_S  # as if an hour had passed
        watched.cluster.heard()
        await watched.until(lambda s: len(s.endpoints) == 2)


async def never(seconds: float) -> None:
    await asyncio.Event().wait()


@pytest.mark.asyncio
async def test_a_task_in_doubt_is_looked_at_though_a_poll_is_far() -> None:
    feed = Quiet()
    feed.fresh = True
    watched = Watched(informants=(lambda _: feed,), interval_s=1.0)
    watched.api.put(*(ecs.task(number) for number in range(1, 5)))

    with watched.watching():
        await watched.until_complete()
        del watched.api.tasks[ecs.task_arn(2)]
        watched.cluster.hurry(ecs.task_arn(2))
        await watched.until(lambda s: len(s.endpoints) == 3)


@pytest.mark.asyncio
async def test_led_by_another_proxy_it_asks_nothing_of_the_api() -> None:
    watched = Watched(led=True)
    watched.api.put(ecs.task(1))
    watched.api.definitions |= {ecs.definition_arn("web:43"): ecs.definition("web:43")}

    with watched.watching():
        for _ in range(50):
            await asyncio.sleep(0)
        assert watched.api.asked == []
        watched.cluster.lead()
        await watched.until_complete()
        watched.cluster.follow()
        before = watched.api.calls["ListTasks"]
        watched.cluster.hurry()
        watched.cluster.ledger.hear_task(
            read_task(ecs.task(2, definition="web:43", instance=2)), by="leader 4d590253"
        )
        watched.cluster.heard()
        await watched.until(lambda s: len(s.endpoints) == 2)  # what the leader does not tell is asked for

    assert watched.api.calls["ListTasks"] == before


@pytest.mark.asyncio
async def test_a_task_that_our_own_agent_sees_run_is_asked_for_though_another_proxy_leads() -> None:
    waits = asyncio.Event()  # what others may tell, they never do

    async def sleep(seconds: float) -> None:
        await waits.wait()

    watched = Watched(led=True, sleep=sleep)
    watched.api.put(ecs.task(1), ecs.task(2, definition="web:43"))
    watched.api.definitions |= {ecs.definition_arn("web:43"): ecs.definition("web:43")}

    with watched.watching():
        await eventually(lambda: watched.cluster.status.calls is watched.api.calls)
        for _ in range(20):
            await asyncio.sleep(0)
        cluster = watched.cluster
        cluster.follow()
        cluster.ledger.hear_task(read_task(ecs.task(1)), by="leader 4d590253")
        cluster.ledger.hear_instance(container_instance(ecs.instance(1)))
        cluster.ledger.hear_address(ecs.ec2_id(1), "10.0.0.1")
        cluster.ledger.hear_definition(task_definition(ecs.definition("web:42")))

        def sees(status: str) -> None:
            cluster.ledger.hear_agent(
                ecs.instance_arn(1),
                [
                    Sighting(arn=ecs.task_arn(1), definition="web:42", known_status="RUNNING"),
                    Sighting(arn=ecs.task_arn(2), definition="web:43", known_status=status),
                ],
            )
            cluster.heard()

        sees("PENDING")
        for _ in range(50):
            await asyncio.sleep(0)
        assert watched.api.asked == [], "who leads has the time to tell"
        sees("RUNNING")
        await watched.until(lambda s: len(s.endpoints) == 2)

    assert sorted(watched.api.calls.items()) == [("DescribeTaskDefinition", 1), ("DescribeTasks", 1)]


@pytest.mark.asyncio
async def test_what_a_leader_has_told_counts_with_its_age() -> None:
    watched = Watched(led=True, clock=lambda: 1000.0)
    watched.api.put(ecs.task(1))

    with watched.watching():
        await eventually(lambda: watched.cluster.status.calls is watched.api.calls)
        cluster = watched.cluster
        for _ in range(20):
            await asyncio.sleep(0)
        cluster.heard(complete=True, asked_s=990.0)
        await watched.until_complete()
        assert cluster.status.asked_s == 990.0
        cluster.heard(complete=True, asked_s=980.0)
        await eventually(lambda: cluster.status.refreshes == 2)

    assert cluster.status.asked_s == 990.0, "knowledge does not grow older by being told again"
    assert cluster.status.last_success_s == 990.0


@pytest.mark.asyncio
async def test_our_own_service_is_not_in_the_table() -> None:
    own = Identity(task_arn=ecs.task_arn(2), cluster="prod", service="anyport")
    watched = Watched(whoami=Whoami.told(own))
    watched.api.put(ecs.task(1), ecs.task(2, service="anyport"))

    with watched.watching():
        whole = await watched.until_complete()

    assert services(whole) == {"web"}


class Forgetful(Whoami):
    """Does not know who we are until it is told."""

    def __init__(self) -> None:
        super().__init__({})
        self.remembers = asyncio.Event()

    async def known(self) -> Identity:
        await self.remembers.wait()
        return self.identity


@pytest.mark.asyncio
async def test_nothing_is_said_before_it_is_known_who_we_are() -> None:
    """Or for a moment requests would go round through ourselves."""
    whoami = Forgetful()
    watched = Watched(whoami=whoami)
    watched.api.put(ecs.task(1), ecs.task(2, service="anyport"))

    with watched.watching():
        await eventually(lambda: watched.api.calls["DescribeTaskDefinition"] == 1)
        await eventually(lambda: watched.cluster._resolver.done)
        assert watched.seen == []
        whoami.identity = Identity(task_arn=ecs.task_arn(2), cluster="prod", service="anyport")
        whoami.remembers.set()
        await watched.until_complete()

    assert [services(snapshot) for snapshot in watched.seen] == [{"web"}]


@pytest.mark.asyncio
async def test_throttling_is_left_to_the_api_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyport.discovery.ecs")
    watched = Watched()
    slow, denied = DiscoveryError("throttled", "slow down"), DiscoveryError("denied", "not yours")
    watched.api.errors = [("ListTasks", error) for error in (slow, denied, slow, denied)]

    with watched.watching():
        await watched.until_complete()

    assert [record.getMessage() for record in caplog.records] == [
        "ecs:prod: not yours",
        "ecs:prod: not yours",
        "ecs:prod: answers completely again",
    ]
    assert watched.cluster.status.errors == {"throttled": 2, "denied": 2}


@pytest.mark.asyncio
async def test_who_said_what_of_a_task() -> None:
    watched = Watched(wall_clock=lambda: 1_800_000_000.0)
    watched.api.put(ecs.task(1))

    with watched.watching():
        await watched.until_complete()

    assert watched.cluster.told(ecs.task_arn(1)) == (("api", "RUNNING, version 3", 1_800_000_000.0),)
    assert watched.cluster.told(ecs.task_arn(9)) == ()


@pytest.mark.asyncio
async def test_who_stops_listening_stops_everything() -> None:
    feed = Quiet()
    watched = Watched(informants=(lambda _: feed,), interval_s=0.02)
    watched.api.put(ecs.task(1))
    watching = watched.cluster.watch()

    async for snapshot in watching:
        if snapshot.complete:
            break
    await watching.aclose()  # type: ignore[attr-defined]
    calls = watched.api.calls.total()

    assert {task.get_name() for task in asyncio.all_tasks() if "ecs:prod" in task.get_name()} == set()
    await asyncio.sleep(0.05)
    assert watched.api.calls.total() == calls


@pytest.mark.asyncio
async def test_a_bug_in_the_resolver_is_survived() -> None:
    watched = Watched()
    watched.api.put(ecs.task(1))
    definition = watched.api.definitions.pop(ecs.definition_arn("web:42"))  # a KeyError in the fake

    with watched.watching():
        await eventually(lambda: watched.cluster.status.errors["other"] >= 2)
        watched.api.definitions[ecs.definition_arn("web:42")] = definition
        await watched.until_complete()
