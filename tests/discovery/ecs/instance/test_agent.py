"""The agent feed on the simulator's agent: what the ledger hears, and whom it does not believe."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from discovery.ecs.instance.agent import AgentFeed, candidates
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.shapes import Binding as SeenBinding
from discovery.ecs.shapes import Container as SeenContainer
from discovery.ecs.shapes import ContainerInstance
from discovery.ecs.shapes import Task as SeenTask
from discovery.identity import Identity
from discovery.simulator.agent import InstanceServers
from discovery.simulator.state import Binding, Container, Instance, Task, TaskDefinition
from discovery.whoami import Whoami
from tests.kit.eventually import eventually

CLUSTER = "arn:aws:ecs:eu-west-1:111122223333:cluster/prod"
INSTANCE = "arn:aws:ecs:eu-west-1:111122223333:container-instance/prod/1f73d099b914411c9a9ff81633b7741d"
OTHER_INSTANCE = INSTANCE[:-1] + "e"
DEFINITION = "arn:aws:ecs:eu-west-1:111122223333:task-definition/web:42"
SELF = "arn:aws:ecs:eu-west-1:111122223333:task/prod/00000000000000000000000000000000"
ME = Identity(ec2_id="i-0a1b2c3d", address="127.0.61.21", zone="eu-west-1b", task_arn=SELF)
INTERVAL_S = 0.01


def arn_of(number: int) -> str:
    return f"arn:aws:ecs:eu-west-1:111122223333:task/prod/{number:032x}"


class Place:
    """An instance with its agent, a ledger and the feed between them. Its clock is turned by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.tasks: list[Task] = []
        self.instance = Instance(INSTANCE, ME.ec2_id, CLUSTER, ME.address, "eu-west-1b", 1e9)
        self.servers = InstanceServers(self.instance, lambda: self.tasks, "eu-west-1")
        self.ledger = Ledger(clock=lambda: self.now_s)
        self.whoami = Whoami.told(ME)
        self.heard = 0
        self.turned: list[list[str]] = []  # seen to start or stop
        self._ports = itertools.count(32768)
        self._numbers = itertools.count(1)

    def feed(self, url: str = "", cluster: str = "prod") -> AgentFeed:
        return AgentFeed(
            self.ledger,
            self._hear,
            cluster=cluster,
            whoami=self.whoami,
            setting=url or self.instance.agent_url,
            tell=lambda arns: self.turned.append(sorted(arns)),
            interval_s=INTERVAL_S,
            clock=lambda: self.now_s,
        )

    def _hear(self, *, complete: bool = False, asked_s: float | None = None) -> None:
        assert not complete, "what one instance says is not the whole"
        self.heard += 1

    def run_task(self, status: str = "RUNNING") -> Task:
        """Put one more task on the instance, as the agent knows it."""
        container = Container(
            arn="c", name="app", definition={"name": "app", "portMappings": [{"containerPort": 8080}]},
            last_status=status, runtime_id="91", bindings=[Binding(8080, next(self._ports))],
        )  # fmt: skip
        task = Task(
            arn=arn_of(next(self._numbers)),
            cluster_arn=CLUSTER,
            definition=TaskDefinition(DEFINITION, "web", 42, "bridge", [], 0.0),
            group="service:web",
            created_at=1e9,
            instance=self.instance,
            last_status=status,
            containers=[container],
        )
        self.tasks.append(task)
        return task

    def describe(self, task: Task, **changes: Any) -> None:
        """Let the API describe a task, by default as it was when it was new."""
        described = SeenTask(
            arn=task.arn,
            definition_arn=DEFINITION,
            last_status="PENDING",
            desired_status="RUNNING",
            group="service:web",
            instance_arn=INSTANCE,
            version=1,
            containers=(SeenContainer(name="app", last_status="PENDING"),),
        )
        self.ledger.hear_task(replace(described, **changes), by="api")

    def status(self, task: Task) -> str:
        seen = self.ledger.task(task.arn)
        return "" if seen is None else f"{seen.last_status} {seen.desired_status}"

    def port(self, task: Task) -> int:
        seen = self.ledger.task(task.arn)
        return seen.containers[0].bindings[0].host_first if seen and seen.containers[0].bindings else 0


@pytest_asyncio.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr("discovery.ecs.instance.agent._BACK_OFF_S", 2 * INTERVAL_S)
    place = Place()
    await place.servers.start()
    yield place
    await place.servers.stop()


class Running:
    """A feed that runs as long as the block."""

    def __init__(self, feed: AgentFeed) -> None:
        self._feed = feed

    async def __aenter__(self) -> AgentFeed:
        self._task = asyncio.create_task(self._feed.run())
        return self._feed

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.mark.asyncio
async def test_starts_and_stops_are_heard_of(place: Place) -> None:
    task = place.run_task()
    place.describe(task)
    async with Running(place.feed()):
        await eventually(lambda: place.status(task) == "RUNNING RUNNING")
        assert place.port(task) == task.containers[0].bindings[0].host_port
        assert place.heard >= 1

        task.desired_status = "STOPPED"
        await eventually(lambda: place.status(task) == "RUNNING STOPPED")
        task.last_status = "STOPPED"
        await eventually(lambda: place.ledger.buried(task.arn))
        assert [told.by for told in place.ledger.told(arn_of(99))] == []


@pytest.mark.asyncio
async def test_each_start_and_stop_is_told_once(place: Place) -> None:
    known, starting, over = place.run_task(), place.run_task("PENDING"), place.run_task("STOPPED")
    place.describe(known, last_status="RUNNING")
    assert over.last_status == "STOPPED"
    async with Running(place.feed()):
        await eventually(lambda: starting.arn in place.ledger.wants().tasks)
        await _looks(place)
        assert place.turned == [], "what has been so for hours is no news"
        heard = place.heard
        starting.last_status = starting.containers[0].last_status = "RUNNING"
        await eventually(lambda: place.turned == [[starting.arn]])
        await eventually(lambda: place.heard > heard, within_s=1.0)  # it is to be asked for at once
        place.describe(starting, last_status="RUNNING")
        known.desired_status = "STOPPED"
        await eventually(lambda: len(place.turned) == 2)
        known.last_status = "STOPPED"
        await eventually(lambda: len(place.turned) == 3)
        await _looks(place)

    assert place.turned == [[starting.arn], [known.arn], [known.arn]]


@pytest.mark.asyncio
async def test_a_task_nobody_has_described_is_asked_for(place: Place) -> None:
    task = place.run_task("PENDING")
    async with Running(place.feed()):
        await eventually(lambda: task.arn in place.ledger.wants().tasks)
        assert place.status(task) == ""
        heard = place.heard
        assert heard >= 1, "somebody has to ask"
        other = place.run_task()
        await eventually(lambda: other.arn in place.ledger.wants().tasks)
        await eventually(lambda: place.heard == heard + 1)


@pytest.mark.asyncio
async def test_what_nobody_describes_is_of_the_service_all_of_its_revision_are_of(
    place: Place,
) -> None:
    known, new = place.run_task(), place.run_task()
    place.describe(known)
    async with Running(place.feed()):
        await eventually(lambda: new.arn in place.ledger.wants().tasks)
        place.now_s += 2.0
        await _looks(place)
        assert place.status(new) == "", "the API is given its time"
        place.now_s += 2.0
        await eventually(lambda: place.status(new) == "RUNNING RUNNING")
        seen = place.ledger.task(new.arn)
        assert seen is not None
        assert (seen.group, place.port(new)) == ("service:web", new.containers[0].bindings[0].host_port)
        assert new.arn in place.ledger.wants().tasks, "the API is still asked, and its word replaces this one"
        place.describe(new, group="service:other")
        seen = place.ledger.task(new.arn)
        assert seen is not None
        assert seen.group == "service:other"


@pytest.mark.asyncio
async def test_the_last_task_of_a_service_is_remembered_for_its_successor(place: Place) -> None:
    first = place.run_task()
    place.describe(first)
    async with Running(place.feed()):
        await eventually(lambda: place.status(first) == "RUNNING RUNNING")
        first.desired_status = first.last_status = "STOPPED"
        for _ in range(3):  # and for the one after that
            task = place.run_task()
            await eventually(lambda t=task: t.arn in place.ledger.wants().tasks)  # type: ignore[misc]
            await _looks(place)
            place.now_s += 4.0
            await eventually(lambda t=task: place.status(t) == "RUNNING RUNNING")  # type: ignore[misc]


@pytest.mark.asyncio
async def test_where_two_services_share_a_revision_nothing_is_presumed(place: Place) -> None:
    one, two, new = place.run_task(), place.run_task(), place.run_task()
    place.describe(one)
    place.describe(two, group="service:other")
    async with Running(place.feed()):
        await eventually(lambda: new.arn in place.ledger.wants().tasks)
        place.now_s += 60.0
        await _looks(place)
        assert place.status(new) == ""


async def _looks(place: Place, count: int = 3) -> None:
    """Let the feed look so many times more; each is a request that the agent serves."""
    target = place.servers.asked + count
    await eventually(lambda: place.servers.asked >= target)


@pytest.mark.asyncio
async def test_the_agent_overrules_the_api_about_its_own_instance(place: Place) -> None:
    """The port of a task that is gone has been given to another; the API still tells of the old one."""
    new = place.run_task()
    old_port = new.containers[0].bindings[0].host_port
    old = place.run_task()
    place.tasks.remove(old)
    bound = SeenContainer(
        name="app", last_status="RUNNING", runtime_id="90",
        bindings=(SeenBinding(first=8080, last=8080, host_first=old_port),),
    )  # fmt: skip
    place.describe(old, last_status="RUNNING", containers=(bound,), version=9)
    place.describe(new)
    async with Running(place.feed()):
        await eventually(lambda: place.status(new) == "RUNNING RUNNING")
        assert place.port(new) == old_port
        assert place.port(old) == 0


@pytest.mark.asyncio
async def test_it_contradicts_others_without_saying_anything_new(place: Place) -> None:
    here, never_here = place.run_task(), place.run_task()
    place.tasks.remove(never_here)
    place.describe(here)
    async with Running(place.feed()):
        await eventually(lambda: place.status(here) == "RUNNING RUNNING")
        place.describe(never_here, last_status="RUNNING")
        await _looks(place)
        assert place.status(never_here) == "RUNNING RUNNING", "it may not have got there yet"
        for _ in range(5):
            place.now_s += 4.0
            await _looks(place)
        assert place.status(never_here) == ""


@pytest.mark.asyncio
async def test_of_an_agent_long_silent_the_word_does_not_outweigh_newer_ones(place: Place) -> None:
    task = place.run_task()
    place.describe(task)
    async with Running(place.feed()) as feed:
        await eventually(lambda: place.status(task) == "RUNNING RUNNING")
        await place.servers.stop_agent()
        place.now_s += 11.0
        await eventually(lambda: feed._told)
        moved = SeenBinding(first=8080, last=8080, host_first=40000)
        restarted = SeenContainer(name="app", last_status="RUNNING", runtime_id="92", bindings=(moved,))
        place.describe(task, last_status="RUNNING", version=5, containers=(restarted,))
        assert place.port(task) == 40000


@pytest.mark.asyncio
async def test_one_connection_serves_and_an_unchanged_answer_changes_nothing(place: Place) -> None:
    place.describe(place.run_task())
    async with Running(place.feed()) as feed:
        await eventually(lambda: place.heard == 1)
        revision = place.ledger.revision
        await _looks(place, 20)
        assert (place.ledger.revision, place.heard) == (revision, 1)
        assert feed._connections == 1


@pytest.mark.asyncio
async def test_a_restart_of_the_agent_takes_nothing_away(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anyport.discovery")
    task = place.run_task()
    place.describe(task)
    async with Running(place.feed()):
        await eventually(lambda: place.status(task) == "RUNNING RUNNING")
        for silent_s in (3.0, 60.0, 600.0):
            await place.servers.stop_agent()
            place.now_s += silent_s
            await asyncio.sleep(5 * INTERVAL_S)
            assert place.status(task) == "RUNNING RUNNING"
            await place.servers.start_agent()
            await _looks(place)
        task.desired_status = "STOPPED"
        await eventually(lambda: place.status(task) == "RUNNING STOPPED")
    said = [record.getMessage() for record in caplog.records]
    assert sum("through the ECS API alone" in line for line in said) == 2, said
    assert sum("answers again" in line for line in said) == 2, said


@pytest.mark.asyncio
async def test_our_own_machine_needs_no_call_of_the_api(place: Place) -> None:
    async with Running(place.feed()):
        await eventually(lambda: place.ledger.addresses.get(ME.ec2_id) == ME.address)
        assert INSTANCE not in place.ledger.instances, "the API is given its time"
        place.now_s += 4.0
        await eventually(lambda: INSTANCE in place.ledger.instances)
        assert place.ledger.instances[INSTANCE].ec2_id == ME.ec2_id
        assert place.whoami.identity.instance_arn == INSTANCE
        assert place.whoami.identity.cluster_arn == CLUSTER


# --- whoever holds the port -----------------------------------------------------------------------

Answers = dict[str, Any]
METADATA: Answers = {"Cluster": "prod", "ContainerInstanceArn": INSTANCE, "Version": "x"}
STRANGE = arn_of(0xBAD)
TASKS: Answers = {
    "Tasks": [
        {
            "Arn": STRANGE, "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING", "Family": "web",
            "Version": "42", "Containers": [{"DockerId": "1", "Name": "app"}],
        }
    ]
}  # fmt: skip


class Stranger:
    """A server that answers as it is told, in the place of the agent."""

    def __init__(self, *, close: bool = False) -> None:
        self.answers: dict[str, Callable[[], bytes | Awaitable[bytes]]] = {}
        self.asked: list[str] = []
        self._close = close

    def say(self, path: str, answer: object) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.answers[path] = lambda: body

    async def __aenter__(self) -> str:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if request.path not in self.answers:
            raise web.HTTPNotFound
        found = self.answers[request.path]()
        body = found if isinstance(found, bytes) else await found
        response = web.Response(body=body, content_type="application/json")
        if self._close:
            response.force_close()
        return response


def _believed(place: Place) -> bool:
    return STRANGE in place.ledger.wants().tasks


@pytest.mark.asyncio
@pytest.mark.parametrize("close", [False, True])
async def test_the_agent_is_believed_even_if_it_keeps_no_connection(place: Place, close: bool) -> None:
    stranger = Stranger(close=close)
    stranger.say("/v1/metadata", METADATA)
    stranger.say("/v1/tasks", TASKS)
    async with stranger as url, Running(place.feed(url)):
        await eventually(lambda: _believed(place))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "metadata",
    [
        METADATA | {"Cluster": "staging", "ContainerInstanceArn": INSTANCE.replace("/prod/", "/staging/")},
        METADATA | {"ContainerInstanceArn": None},
        METADATA | {"ContainerInstanceArn": INSTANCE.replace("111122223333", "999999999999")},
        METADATA | {"ContainerInstanceArn": OTHER_INSTANCE},
        {"Tasks": []},
        [],
        b"hello",
        b"",
    ],
)
async def test_a_stranger_is_not_believed(place: Place, metadata: object) -> None:
    # The API knows where our own task runs.
    place.describe(Task(SELF, CLUSTER, TaskDefinition("", "", 1, "", [], 0.0), "service:edge", 0.0))
    stranger = Stranger()
    stranger.say("/v1/metadata", metadata)
    stranger.say("/v1/tasks", TASKS)
    place.ledger.hear_instance(ContainerInstance(arn=INSTANCE, ec2_id=ME.ec2_id, version=1))
    async with stranger as url, Running(place.feed(url)):
        await eventually(lambda: stranger.asked.count("/v1/metadata") >= 3)
        assert not _believed(place)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "known",
    [
        ContainerInstance(arn=INSTANCE, ec2_id="i-0ffffffff", version=1),
        # Our cluster has a namesake in another account, and that is the one we follow.
        ContainerInstance(arn=INSTANCE.replace("111122223333", "999999999999"), ec2_id="i-1", version=1),
    ],
)
async def test_what_the_api_knows_otherwise_is_not_believed(place: Place, known: ContainerInstance) -> None:
    stranger = Stranger()
    stranger.say("/v1/metadata", METADATA)
    stranger.say("/v1/tasks", TASKS)
    place.ledger.hear_instance(known)
    async with stranger as url, Running(place.feed(url)):
        await eventually(lambda: stranger.asked.count("/v1/metadata") >= 3)
        assert not _believed(place)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "tasks",
    [b"", b"{}", b"hello", b'{"Tasks": [7]}', {"Tasks": [TASKS["Tasks"][0] | {"Arn": "x"}]}, b"[" * 100_000],
)
async def test_garbage_is_not_believed(place: Place, tasks: object) -> None:
    task = place.run_task()
    place.describe(task, last_status="RUNNING")
    stranger = Stranger()
    stranger.say("/v1/metadata", METADATA)
    stranger.say("/v1/tasks", tasks)
    async with stranger as url, Running(place.feed(url)):
        await eventually(lambda: stranger.asked.count("/v1/tasks") >= 5)
        place.now_s += 60
        await eventually(lambda: stranger.asked.count("/v1/tasks") >= 10)
        assert place.status(task) == "RUNNING RUNNING"


@pytest.mark.asyncio
async def test_who_takes_the_port_over_has_to_say_who_it_is(place: Place) -> None:
    """The agent crashes and somebody else's container gets its port: at once, and it answers well."""
    task = place.run_task()
    place.describe(task)
    port = int(place.instance.agent_url.rpartition(":")[2])
    async with Running(place.feed()):
        await eventually(lambda: place.status(task) == "RUNNING RUNNING")
        await place.servers.stop_agent()
        stranger = Stranger()
        stranger.say("/v1/tasks", TASKS)
        stranger.say("/v1/metadata", METADATA | {"ContainerInstanceArn": OTHER_INSTANCE})
        runner = await _served_at(stranger, place.instance.address, port)
        await eventually(lambda: stranger.asked.count("/v1/metadata") >= 3)
        assert not _believed(place)
        assert place.status(task) == "RUNNING RUNNING"
        await runner.cleanup()
        await place.servers.start_agent()
        task.desired_status = "STOPPED"
        await eventually(lambda: place.status(task) == "RUNNING STOPPED")


async def _served_at(stranger: Stranger, host: str, port: int) -> web.AppRunner:
    app = web.Application()
    app.router.add_get("/{path:.*}", stranger._answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port, reuse_address=True).start()
    return runner


@pytest.mark.asyncio
async def test_an_answer_without_an_end_is_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discovery.ecs.instance.agent._MOST_BYTES", 1000)
    stranger = Stranger()
    stranger.say("/v1/metadata", METADATA)
    stranger.say("/v1/tasks", {**TASKS, "x": "y" * 2000})
    async with stranger as url, Running(place.feed(url)):
        await eventually(lambda: stranger.asked.count("/v1/tasks") >= 3)
        assert not _believed(place)


# --- where to ask ---------------------------------------------------------------------------------


def test_where_the_agent_may_be() -> None:
    assert candidates(Identity(), "172.17.0.1") == ["http://127.0.0.1:51678"]
    host = Identity(network_mode="host", address="10.0.1.5")
    assert candidates(host, "10.0.1.1") == ["http://127.0.0.1:51678", "http://10.0.1.5:51678"]
    bridge = Identity(network_mode="bridge", address="10.0.1.5")
    assert candidates(bridge, "172.17.0.1") == ["http://172.17.0.1:51678", "http://10.0.1.5:51678"]
    assert candidates(Identity(address="2001:db8::1"), "")[-1] == "http://[2001:db8::1]:51678"


@pytest.mark.asyncio
async def test_found_by_itself_at_the_address_of_the_instance(place: Place) -> None:
    if not place.instance.agent_url.endswith(":51678"):
        pytest.skip("another run of the tests has the agent's port")
    task = place.run_task()
    place.describe(task)
    place.whoami = Whoami.told(Identity(ec2_id=ME.ec2_id, address=ME.address, network_mode="bridge"))
    async with Running(place.feed("auto")):
        await eventually(lambda: place.status(task) == "RUNNING RUNNING")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("me", "cluster"),
    [
        (Identity(cluster="staging", cluster_arn=CLUSTER.replace("prod", "staging")), "prod"),
        (Identity(cluster="prod", cluster_arn=CLUSTER), CLUSTER.replace("eu-west-1", "us-east-1")),
        (Identity(cluster="prod", cluster_arn=CLUSTER, launch_type="FARGATE"), "prod"),
    ],
)
async def test_nobody_is_asked_where_the_agent_is_not_ours(place: Place, me: Identity, cluster: str) -> None:
    place.whoami = Whoami.told(me)
    await asyncio.wait_for(place.feed(cluster=cluster).run(), 5)
    assert place.servers.asked == 0


@pytest.mark.asyncio
async def test_nobody_is_asked_for_a_cluster_of_another_account(place: Place) -> None:
    place.whoami = Whoami.told(Identity(cluster="prod", cluster_arn=CLUSTER, account="111122223333"))
    feed = AgentFeed(
        place.ledger, place._hear, cluster="prod", whoami=place.whoami, account="999999999999",
        setting=place.instance.agent_url,
    )  # fmt: skip
    await asyncio.wait_for(feed.run(), 5)
    assert place.servers.asked == 0


@pytest.mark.asyncio
async def test_an_agent_that_hangs_is_waited_for_no_longer_than_a_second(place: Place) -> None:
    async def hang() -> bytes:
        await asyncio.sleep(3600)
        return b""

    stranger = Stranger()
    stranger.answers["/v1/tasks"] = hang
    async with stranger as url, Running(place.feed(url)):
        await eventually(lambda: len(stranger.asked) >= 2)
