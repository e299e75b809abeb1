"""The least policy: what is in it, that it suffices, and that each action in it is needed."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import discovery.ecs
from discovery.ecs.aws.api import EcsApi
from discovery.ecs.aws.budget import Budget
from discovery.ecs.aws.sessions import Account, Clients
from discovery.ecs.cluster import EcsCluster
from discovery.ecs.events.apply import EventsAccount
from discovery.ecs.events.feed import EventsFeed
from discovery.ecs.events.queue import EventQueue
from discovery.ecs.events.queue_api import QueueApi
from discovery.ecs.events.queue_place import GivenQueue, OwnQueue, own_queues
from discovery.ecs.events.setup import Setup
from discovery.ecs.policy import Cluster, Events, policies
from discovery.ecs.translate.translator import Translator
from discovery.model import DiscoveryError, Snapshot
from discovery.simulator.iam import Policy
from discovery.simulator.simulator import Simulator
from tests.kit.eventually import eventually

NUMBER, REGION = "123456789012", "eu-west-1"
PROD = Cluster(name="prod", region=REGION, account=NUMBER)
OWN = Events(queue="auto", region=REGION, account=NUMBER)
GIVEN = Events(queue=f"arn:aws:sqs:{REGION}:{NUMBER}:events", region=REGION, account=NUMBER)
FASTER = 30.0  # an audit a minute is one in two seconds


def _actions(document: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    for statement in document["Statement"]:
        action = statement["Action"]
        found |= {action} if isinstance(action, str) else set(action)
    return found


def _without(document: dict[str, Any], action: str) -> dict[str, Any]:
    made = copy.deepcopy(document)
    for statement in made["Statement"]:
        actions = statement["Action"]
        actions = [actions] if isinstance(actions, str) else actions
        statement["Action"] = [one for one in actions if one != action]
    made["Statement"] = [statement for statement in made["Statement"] if statement["Action"]]
    return made


# -- what is in it ---------------------------------------------------------------------------------


def test_without_events_it_only_reads_tasks() -> None:
    found = policies([PROD])
    assert _actions(found[""]) == {
        "ecs:ListTasks", "ecs:DescribeTasks", "ecs:DescribeContainerInstances", "ecs:DescribeServices",
        "ecs:DescribeTaskDefinition", "ec2:DescribeInstances",
    }  # fmt: skip
    assert found[""]["Statement"][0]["Condition"] == {
        "ArnEquals": {"ecs:cluster": f"arn:aws:ecs:{REGION}:{NUMBER}:cluster/prod"}
    }


def test_what_is_not_known_has_a_placeholder() -> None:
    text = str(policies([Cluster(name="prod")], Events(queue="auto")))
    assert "arn:aws:ecs:REGION:ACCOUNT:cluster/prod" in text
    assert "arn:aws:sqs:REGION:ACCOUNT:anyport-prod-*" in text
    assert "arn:aws:sns:REGION:ACCOUNT:anyport-events" in text


def test_each_role_may_do_what_is_done_as_it() -> None:
    role = "arn:aws:iam::210987654321:role/anyport"
    other = Cluster(name="dev", region="cn-north-1", account="210987654321", role_arn=role)
    found = policies([PROD, other], OWN)
    assert set(found) == {"", role}
    assert "arn:aws-cn:ecs:cn-north-1:210987654321:cluster/dev" in str(found[role])
    assert "cluster/dev" not in str(found[""])
    assert {"sqs", "sns", "sts"} & {action.partition(":")[0] for action in _actions(found[role])} == set()
    assumed = [one for one in found[""]["Statement"] if one["Action"] == "sts:AssumeRole"]
    assert [one["Resource"] for one in assumed] == [role]


def test_a_given_queue_is_only_read() -> None:
    found = policies([PROD], GIVEN)
    queues = {action for action in _actions(found[""]) if action.startswith(("sqs:", "sns:"))}
    assert queues == {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:GetQueueUrl"}
    url = Events(queue=f"https://sqs.{REGION}.amazonaws.com/{NUMBER}/events", region=REGION, account=NUMBER)
    assert "sqs:GetQueueUrl" not in _actions(policies([PROD], url)[""])
    assert f"arn:aws:sqs:{REGION}:{NUMBER}:events" in str(policies([PROD], url)[""])


def test_every_call_of_discovery_is_in_it() -> None:
    """Whoever adds a call to the API must say so in the policy."""
    folder = Path(discovery.ecs.__file__).parent
    code = (folder / "aws" / "api.py").read_text() + (folder / "events" / "queue_api.py").read_text()
    called = set(
        re.findall(
            r'"((?:List|Describe|Get|Create|Set|Tag|Delete|Receive)[A-Z]\w+|Subscribe|Unsubscribe)"', code
        )
    )
    called -= {"DeleteMessageBatch"}  # needs DeleteMessage
    called -= {"ListClusters"}  # only for a better message
    allowed = _actions(policies([PROD], OWN)[""]) | _actions(policies([PROD], GIVEN)[""])
    assert called == {action.partition(":")[2] for action in allowed} - {"DeleteMessage"}


# -- that it suffices, and no action is in vain --------------------------------------------------------


def _clock() -> float:
    return time.monotonic() * FASTER


async def _sleep(duration_s: float) -> None:
    await asyncio.sleep(duration_s / FASTER)


class Stage:
    """A cluster whose events reach a topic and a queue, and a source that follows it."""

    def __init__(self, simulator: Simulator, events: Events) -> None:
        self.simulator = simulator
        self.events = events
        self.given = events.queue != "auto"
        self.snapshot = Snapshot(source="")
        account = Account(region=REGION, endpoint_url=simulator.url)
        api = QueueApi(account)
        self.place: GivenQueue | OwnQueue = GivenQueue(api, events.queue)
        if not self.given:
            self.place = OwnQueue(
                api, topic="", cluster="prod", owner=self._owner, process="1",
                unique=lambda: f"{time.monotonic_ns()}", wall_clock=lambda: time.time() + 3600,
            )  # fmt: skip
        queue = EventQueue(api, self.place, wait_s=1, clock=_clock, sleep=_sleep)
        self.source = EcsCluster(
            EcsApi(account, budget=Budget(clock=_clock), sleep=_sleep),
            name="ecs:prod",
            cluster="prod",
            translator=lambda: Translator(source="ecs:prod", domain="test"),
            informants=(
                lambda cluster: EventsFeed(
                    cluster.ledger, cluster.heard, queue=queue, cluster="prod", status=cluster.status,
                    describe=cluster.describe, poll=cluster.poller.hurry, clock=_clock, sleep=_sleep,
                ),
            ),
            interval_s=20.0,
            clock=_clock,
            sleep=_sleep,
        )  # fmt: skip

    async def _owner(self) -> str:
        return f"arn:aws:ecs:{REGION}:{NUMBER}:task/prod/{'0' * 32}"

    async def follow(self) -> None:
        async with aclosing(self.source.watch()) as snapshots:  # type: ignore[type-var]
            async for snapshot in snapshots:
                self.snapshot = snapshot

    # What a proxy lives through.

    async def starts(self) -> None:
        await eventually(lambda: self.snapshot.complete and len(self.snapshot.endpoints) == 2, within_s=20)

    async def hears(self) -> None:
        """An event comes; from then on the API is only audited."""
        feed = next(feed for feed in self.source.feeds if isinstance(feed, EventsFeed))

        def fresh() -> bool:
            if feed.status.last_s is None or not feed.fresh:
                self._stir()
            return feed.fresh

        await eventually(fresh, within_s=30)
        before = self.source.status.calls["ListContainerInstances"]
        await eventually(lambda: self.source.status.calls["ListContainerInstances"] > before, within_s=30)

    def _stir(self) -> None:
        """Have something to tell of."""
        if time.monotonic() - self._stirred_s > 0.5:
            self._stirred_s = time.monotonic()
            tasks = self.simulator.call("ListTasks", cluster="prod")["taskArns"]
            self.simulator.call("UpdateTaskProtection", cluster="prod", tasks=tasks, protectionEnabled=True)

    _stirred_s = 0.0

    async def loses(self) -> None:
        """All tasks are missing at once: DescribeServices must agree before they are let go."""
        lost = [
            self.simulator.faults.empty("ListTasks"),
            self.simulator.faults.failures("DescribeTasks", items=100),
        ]
        try:
            self.source.poller._pace.polled_s = None  # as after five minutes
            self.source.poller.wake()
            calls, before = self.source.status.calls, self.source.status.calls["DescribeServices"]
            await eventually(lambda: calls["DescribeServices"] > before, within_s=30)
            refreshes = self.source.status.refreshes
            await eventually(lambda: self.source.status.refreshes > refreshes, within_s=30)
        finally:
            for number in lost:
                self.simulator.faults.clear(number)

    async def tidies(self) -> None:
        try:
            await self.place.tidy(lambda arn: True)
        except DiscoveryError as error:
            logging.getLogger("anyport.discovery.ecs").warning("%s", error)


@asynccontextmanager
async def _following(stage: Stage) -> AsyncIterator[None]:
    following = asyncio.create_task(stage.follow())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _live(stage: Stage) -> None:
    """Go through all of it."""
    async with _following(stage):
        await stage.starts()
        await stage.tidies()
        await stage.hears()
        await stage.loses()


async def _leave_a_queue(simulator: Simulator, account: Clients) -> None:
    """What a proxy has left that was killed."""
    name = f"{own_queues('prod')}left{time.monotonic_ns()}"
    await asyncio.to_thread(
        lambda: account.get("sqs").create_queue(
            QueueName=name,
            tags={
                "anyport:task": f"arn:aws:ecs:{REGION}:{NUMBER}:task/prod/{'f' * 32}",
                "anyport:subscription": f"arn:aws:sns:{REGION}:{NUMBER}:anyport-events:1",
            },
        )
    )


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@asynccontextmanager
async def _account(events: Events) -> AsyncIterator[tuple[Simulator, Clients]]:
    async with Simulator(speed=50, throttling=False) as simulator:
        await simulator.add_cluster("prod")
        await simulator.add_instance("prod")
        simulator.call(
            "RegisterTaskDefinition", family="web",
            containerDefinitions=[
                {"name": "app", "image": "anyport/app", "memory": 64, "portMappings": [{"containerPort": 80}]}
            ],
        )  # fmt: skip
        simulator.call(
            "CreateService", cluster="prod", serviceName="web", taskDefinition="web", desiredCount=2,
            launchType="EC2",
        )  # fmt: skip
        account = Clients(Account(region=REGION, endpoint_url=simulator.url), read_timeout_s=20)
        if events.queue != "auto":
            await asyncio.to_thread(lambda: account.get("sqs").create_queue(QueueName="events"))
        setup = Setup(
            clusters=("prod",), region=REGION, account=NUMBER,
            queue="" if events.queue == "auto" else events.queue,
        )  # fmt: skip
        await asyncio.to_thread(lambda: list(EventsAccount(account).apply(setup)))
        tasks = simulator.state.clusters["prod"].tasks
        await eventually(
            lambda: [task.last_status for task in tasks.values()] == ["RUNNING"] * 2, within_s=30
        )
        yield simulator, account
        account.close()


@pytest.mark.asyncio
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("events", [OWN, GIVEN], ids=["own", "given"])
async def test_the_policy_suffices_and_each_action_in_it_is_needed(
    events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    document = policies([PROD], events)[""]
    async with _account(events) as (simulator, account):
        await _leave_a_queue(simulator, account)
        simulator.guard.policy = Policy(document)
        await _live(Stage(simulator, events))
        assert simulator.guard.denied == []

        in_vain, unheard = set(), set()
        # What a queue of the operator's takes is new in the second case, no more.
        actions = {one for one in _actions(document) if events is OWN or one.startswith("sqs:")}
        for action in sorted(actions):
            simulator.guard.policy = None
            await _leave_a_queue(simulator, account)
            simulator.guard.policy = Policy(_without(document, action))
            simulator.guard.denied.clear()
            caplog.clear()
            with caplog.at_level(logging.INFO):
                stage = Stage(simulator, events)
                living = asyncio.create_task(_live(stage))
                with suppress(AssertionError):
                    await eventually(
                        lambda a=action, task=living: _is_denied(simulator, a) or task.done(), within_s=40
                    )
                    # Said once the call has returned.
                    await eventually(lambda a=action: f"{a} is not allowed" in caplog.text, within_s=2)
                living.cancel()
                await asyncio.gather(living, return_exceptions=True)
            if not _is_denied(simulator, action):
                in_vain.add(action)
            if f"{action} is not allowed" not in caplog.text:
                unheard.add(action)
        assert in_vain == set()
        # Without it the queue is taken to forget after a minute, which costs a look at the API now and then.
        assert unheard == ({"sqs:GetQueueAttributes"} if events is GIVEN else set())


def _is_denied(simulator: Simulator, action: str) -> bool:
    return any(denied == action for denied, _ in simulator.guard.denied)
