"""A task's life, with processes on paper and time a thousand times as fast."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from discovery.simulator.account import Account
from discovery.simulator.environment import task_environment
from discovery.simulator.events import Bulletin, Event
from discovery.simulator.lifecycle import Lifecycle, Pace, command_of
from discovery.simulator.network import Loopback, Network
from discovery.simulator.ports import PortRange
from discovery.simulator.runtime import ProcessSpec, RuntimeFailure
from discovery.simulator.state import State, Task
from tests.kit.cloud import Cloud
from tests.kit.eventually import eventually

DEADLINE_S = 5.0


class PaperRunner:
    """Processes that note their signals; those in `deaf` ignore SIGTERM."""

    def __init__(self) -> None:
        self.specs: dict[int, ProcessSpec] = {}
        self.signals: list[tuple[str, int]] = []
        self.on_exit: Callable[[int, int], None] = lambda pid, code: None
        self.deaf: set[str] = set()
        self.refuse = ""

    async def start(self, spec: ProcessSpec) -> int:
        if self.refuse:
            raise RuntimeFailure(self.refuse)
        pid = 1000 + len(self.specs)
        self.specs[pid] = spec
        return pid

    def signal(self, pid: int, number: int) -> None:
        name = self.specs[pid].name.split("/")[1]
        self.signals.append((name, number))
        if number == signal.SIGKILL or name not in self.deaf:
            asyncio.get_running_loop().call_soon(self.on_exit, pid, 137 if number == signal.SIGKILL else 0)


class Stage:
    """A cluster whose tasks live through the real life cycle."""

    def __init__(self, group: asyncio.TaskGroup, network: Network, speed: float) -> None:
        self.cloud = Cloud()
        self.runner = PaperRunner()
        self.lifecycle = Lifecycle(
            runner=self.runner,
            network=network,
            group=group,
            changed=self._changed,
            environment=lambda task, container: task_environment(task, container, "eu-west-1"),
            pace=Pace(speed),
            clock=self.cloud.clock,
            rng=random.Random(1),
        )
        self.runner.on_exit = self.lifecycle.process_exited
        self.cloud.account.crew = self.lifecycle
        self.cluster = self.cloud.cluster(instances=1)
        self.seen: list[tuple[str, str, int, bool]] = []
        self._news = asyncio.Event()

    def _changed(self, task: Task) -> None:
        self.cloud.account.task_changed(task)
        bound = any(container.bindings for container in task.containers)
        self.seen.append((task.last_status, task.desired_status, task.version, bound))
        self._news.set()

    def run(self, family: str = "web") -> Task:
        answer = self.cloud.call("RunTask", cluster="prod", taskDefinition=family)
        task: Task = self.cluster.tasks[answer["tasks"][0]["taskArn"]]
        return task

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def until_signalled(self, count: int) -> None:
        await eventually(lambda: len(self.runner.signals) >= count, within_s=DEADLINE_S)

    async def until_started(self, count: int) -> None:
        await eventually(lambda: len(self.runner.specs) >= count, within_s=DEADLINE_S)

    async def running(self, task: Task) -> None:
        await self.until(lambda: task.last_status == "RUNNING")

    async def stopped(self, task: Task) -> None:
        await self.until(lambda: task.last_status == "STOPPED")


@asynccontextmanager
async def stage(speed: float = 1000.0, ports: PortRange | None = None) -> AsyncIterator[Stage]:
    loopback = Loopback()
    try:
        async with asyncio.TaskGroup() as group:
            stage = Stage(group, Network(loopback, ports or PortRange()), speed)
            for instance in stage.cluster.instances.values():
                instance.address = loopback.instance_address(1)
            yield stage
            stage.lifecycle.abandon()
    finally:
        loopback.close()


@pytest.mark.asyncio
async def test_from_provisioning_to_stopped_in_the_order_of_ecs() -> None:
    async with stage() as s:
        s.cloud.define()
        task = s.run()
        assert (task.last_status, task.version) == ("PROVISIONING", 1)
        await s.running(task)
        assert task.containers[0].bindings[0].host_port == 32768
        s.cloud.call("StopTask", cluster="prod", task=task.arn)
        assert s.runner.signals == []  # desiredStatus flips first
        await s.stopped(task)
        assert s.runner.signals == [("app", signal.SIGTERM)]
        assert s.seen == [
            ("PENDING", "RUNNING", 2, False),
            ("RUNNING", "RUNNING", 3, True),
            ("RUNNING", "STOPPED", 4, True),
            ("DEPROVISIONING", "STOPPED", 5, True),
            ("STOPPED", "STOPPED", 6, True),
        ]
        assert (task.stop_code, task.containers[0].exit_code) == ("UserInitiated", 0)
        assert task.instance is not None
        assert task.instance.ports_in_use == set()


@pytest.mark.asyncio
async def test_who_ignores_the_stop_signal_is_killed_after_stop_timeout() -> None:
    async with stage(speed=100) as s:
        s.cloud.define(container={"stopTimeout": 10})
        s.runner.deaf.add("app")
        task = s.run()
        await s.running(task)
        s.cloud.call("StopTask", cluster="prod", task=task.arn)
        before = asyncio.get_running_loop().time()
        await s.stopped(task)
        assert asyncio.get_running_loop().time() - before >= 0.1
        assert s.runner.signals == [("app", signal.SIGTERM), ("app", signal.SIGKILL)]
        assert task.containers[0].exit_code == 137


@pytest.mark.asyncio
async def test_an_essential_container_takes_the_task_with_it() -> None:
    containers = [
        {"name": "app", "image": "anyport/app", "essential": True, "portMappings": [{"containerPort": 80}]},
        {"name": "log", "image": "x", "command": ["./log"], "essential": False},
    ]
    async with stage() as s:
        s.cloud.call("RegisterTaskDefinition", family="two", containerDefinitions=containers)
        task = s.run("two")
        await s.running(task)
        app, log = task.containers
        s.lifecycle.process_exited(log.pid, 0)  # not essential: the task goes on
        assert (task.desired_status, log.last_status) == ("RUNNING", "STOPPED")
        s.lifecycle.process_exited(app.pid, 1)
        await s.stopped(task)
        assert task.stop_code == "EssentialContainerExited"
        assert app.exit_code == 1


def _sidecar(condition: str, **more: object) -> dict[str, object]:
    """A container that is not essential and depends on "app"."""
    depends_on = [{"containerName": "app", "condition": condition}]
    return {
        "name": "sidecar",
        "image": "x",
        "command": ["./x"],
        "essential": False,
        "dependsOn": depends_on,
        **more,
    }


@pytest.mark.asyncio
async def test_no_stop_signal_while_a_container_that_depends_on_it_still_runs() -> None:
    async with stage(speed=10) as s:
        s.cloud.call(
            "RegisterTaskDefinition",
            family="two",
            containerDefinitions=[
                {"name": "app", "image": "anyport/app"},
                _sidecar("START", stopTimeout=100),
            ],
        )
        s.runner.deaf.add("sidecar")
        task = s.run("two")
        await s.running(task)
        app, sidecar = task.containers
        s.cloud.call("StopTask", cluster="prod", task=task.arn)
        await s.until_signalled(1)
        assert s.runner.signals == [("sidecar", signal.SIGTERM)]
        assert app.pid
        s.lifecycle.process_exited(sidecar.pid, 0)
        await s.stopped(task)
        assert s.runner.signals == [("sidecar", signal.SIGTERM), ("app", signal.SIGTERM)]


@pytest.mark.asyncio
async def test_stop_timeout_counts_from_the_containers_own_stop_signal() -> None:
    async with stage(speed=100) as s:
        s.cloud.call(
            "RegisterTaskDefinition",
            family="two",
            containerDefinitions=[
                {"name": "app", "image": "anyport/app", "stopTimeout": 10},
                _sidecar("START", stopTimeout=20),
            ],
        )
        s.runner.deaf |= {"app", "sidecar"}
        task = s.run("two")
        await s.running(task)
        loop = asyncio.get_running_loop()
        before = loop.time()
        s.cloud.call("StopTask", cluster="prod", task=task.arn)
        await s.stopped(task)
        assert loop.time() - before >= 0.3  # 20 s for the one, then 10 s for the other
        assert s.runner.signals == [
            ("sidecar", signal.SIGTERM), ("sidecar", signal.SIGKILL),
            ("app", signal.SIGTERM), ("app", signal.SIGKILL),
        ]  # fmt: skip


@pytest.mark.asyncio
async def test_who_waits_for_healthy_starts_after_the_health_check_has_passed() -> None:
    health_check = {"command": ["CMD", "true"], "interval": 300}
    async with stage(speed=100) as s:
        s.cloud.call(
            "RegisterTaskDefinition",
            family="two",
            containerDefinitions=[
                _sidecar("HEALTHY"),
                {"name": "app", "image": "anyport/app", "healthCheck": health_check},
            ],
        )
        task = s.run("two")
        await s.until_started(1)
        assert [spec.name.split("/")[1] for spec in s.runner.specs.values()] == ["app"]
        assert task.last_status == "PENDING"
        s.lifecycle.set_health(task, "HEALTHY")
        await s.running(task)
        assert [spec.name.split("/")[1] for spec in s.runner.specs.values()] == ["app", "sidecar"]


@pytest.mark.asyncio
async def test_what_never_can_start_fails_the_task() -> None:
    init = {"name": "app", "image": "x", "command": ["./migrate"], "essential": False}
    main = {**_sidecar("SUCCESS"), "essential": True}
    async with stage() as s:
        s.cloud.call("RegisterTaskDefinition", family="two", containerDefinitions=[init, main])
        task = s.run("two")
        await s.until_started(1)
        s.lifecycle.process_exited(task.containers[0].pid, 1)
        await s.stopped(task)
        assert task.stop_code == "TaskFailedToStart"
        assert "container ordering dependency of [sidecar]" in task.stopped_reason


@pytest.mark.asyncio
async def test_stopped_while_one_container_waits_for_another() -> None:
    init = {"name": "app", "image": "x", "command": ["./migrate"], "essential": False}
    async with stage() as s:
        s.cloud.call(
            "RegisterTaskDefinition", family="two", containerDefinitions=[init, _sidecar("COMPLETE")]
        )
        task = s.run("two")
        await s.until_started(1)
        s.cloud.call("StopTask", cluster="prod", task=task.arn)
        await s.stopped(task)
        assert len(s.runner.specs) == 1
        assert s.runner.signals == [("app", signal.SIGTERM)]


@pytest.mark.asyncio
async def test_kill_takes_every_process() -> None:
    async with stage() as s:
        s.cloud.define()
        task = s.run()
        await s.running(task)
        s.lifecycle.kill(task)
        await s.stopped(task)
        assert s.runner.signals == [("app", signal.SIGKILL)]
        assert (task.stop_code, task.containers[0].exit_code) == ("EssentialContainerExited", 137)


@pytest.mark.asyncio
async def test_stopped_before_it_ran_it_never_starts() -> None:
    async with stage(speed=1.0) as s:
        s.cloud.define()
        task = s.run()
        s.cloud.call("StopTask", cluster="prod", task=task.arn)
        await s.stopped(task)
        assert s.runner.specs == {}


@pytest.mark.asyncio
async def test_what_cannot_start_says_why() -> None:
    async with stage() as s:
        s.cloud.define()
        s.runner.refuse = "no memory left"
        task = s.run()
        await s.stopped(task)
        assert task.stop_code == "TaskFailedToStart"
        assert "no memory left" in task.stopped_reason


@pytest.mark.asyncio
async def test_without_a_free_port_it_cannot_start() -> None:
    async with stage(ports=PortRange(40000, 40000)) as s:
        s.cloud.define()
        first = s.run()
        await s.running(first)
        second = s.run()
        await s.stopped(second)
        assert second.stop_code == "TaskFailedToStart"
        s.cloud.call("StopTask", cluster="prod", task=first.arn)
        await s.stopped(first)
        third = s.run()
        await s.running(third)
        assert third.containers[0].bindings[0].host_port == 40000


@pytest.mark.asyncio
async def test_an_awsvpc_task_has_an_address_of_its_own() -> None:
    async with stage() as s:
        s.cloud.define("flat", networkMode="awsvpc")
        tasks = [s.run("flat") for _ in range(2)]
        for task in tasks:
            await s.running(task)
        addresses = [task.containers[0].private_ip for task in tasks]
        assert len(set(addresses)) == 2
        spec = s.runner.specs[tasks[0].containers[0].pid]
        assert [(port.host, port.port) for port in spec.listen] == [(addresses[0], 8080)]
        shown = s.cloud.call("DescribeTasks", cluster="prod", tasks=[tasks[0].arn])["tasks"][0]
        details = {item["name"]: item["value"] for item in shown["attachments"][0]["details"]}
        assert details["privateIPv4Address"] == addresses[0]
        interface = shown["containers"][0]["networkInterfaces"][0]
        assert interface == {
            "attachmentId": shown["attachments"][0]["id"],
            "privateIpv4Address": addresses[0],
        }
        assert shown["containers"][0]["networkBindings"] == []


@pytest.mark.asyncio
async def test_a_host_mode_task_has_no_bindings() -> None:
    async with stage() as s:
        s.cloud.define("flat", networkMode="host")
        task = s.run("flat")
        await s.running(task)
        assert task.containers[0].bindings == []
        assert task.instance is not None
        listen = s.runner.specs[task.containers[0].pid].listen
        assert [(port.host, port.port) for port in listen] == [(task.instance.address, 8080)]
        assert task.instance.ports_in_use == {8080}


@pytest.mark.asyncio
async def test_a_port_range_is_consecutive() -> None:
    async with stage() as s:
        s.cloud.define("ranged", portMappings=[{"containerPort": 80}, {"containerPortRange": "7000-7002"}])
        task = s.run("ranged")
        await s.running(task)
        listen = s.runner.specs[task.containers[0].pid].listen
        assert [(p.port, p.container_port) for p in listen] == [
            (32768, 80), (32769, 7000), (32770, 7001), (32771, 7002),
        ]  # fmt: skip


@pytest.mark.asyncio
async def test_a_health_check_passes_some_time_after_the_start_or_says_what_it_is_told() -> None:
    async with stage(speed=100) as s:
        s.cloud.define(container={"healthCheck": {"command": ["CMD", "true"], "interval": 5}})
        task = s.run()
        await s.running(task)
        assert task.health_status == "UNKNOWN"
        await s.until(lambda: task.health_status == "HEALTHY")
        s.lifecycle.set_health(task, "UNHEALTHY")
        assert task.containers[0].health_status == task.health_status == "UNHEALTHY"


@pytest.mark.asyncio
async def test_without_a_health_check_health_is_unknown_for_ever() -> None:
    async with stage() as s:
        s.cloud.define()
        task = s.run()
        await s.running(task)
        s.lifecycle.set_health(task, "UNHEALTHY")
        assert task.health_status == "UNKNOWN"


@pytest.mark.asyncio
async def test_commands_and_environment_can_be_overridden() -> None:
    async with stage() as s:
        environment = [{"name": "RELEASE", "value": "blue"}, {"name": "COLOUR", "value": "red"}]
        s.cloud.define(container={"command": ["./a"], "environment": environment})
        override = {
            "name": "app",
            "command": ["./b", "-v"],
            "environment": [{"name": "COLOUR", "value": "green"}],
        }
        arn = s.cloud.call(
            "RunTask", cluster="prod", taskDefinition="web", overrides={"containerOverrides": [override]}
        )["tasks"][0]["taskArn"]
        task = s.cluster.tasks[arn]
        await s.running(task)
        spec = s.runner.specs[task.containers[0].pid]
        assert spec.command == command_of(task, task.containers[0]) == ("./b", "-v")
        assert (spec.environment["RELEASE"], spec.environment["COLOUR"]) == ("blue", "green")
        assert spec.environment["TASK_ARN"] == arn


@pytest.mark.asyncio
async def test_the_pace_can_change_while_it_goes() -> None:
    pace = Pace(2.0)
    assert pace.real_s(3.0) == 1.5
    pace.speed = 30.0
    assert pace.real_s(3.0) == 0.1


def test_events_have_the_shape_eventbridge_sends() -> None:
    cloud = Cloud()
    cloud.cluster()
    cloud.define(portMappings=[{"containerPort": 80}, {"containerPortRange": "7000-7002"}])
    cloud.call("RunTask", cluster="prod", taskDefinition="web", tags=[{"key": "a", "value": "b"}])
    event = next(event for event in cloud.events if event.kind == "task")
    envelope = event.envelope("123456789012", "eu-west-1", "3317")
    assert envelope["detail-type"] == "ECS Task State Change"
    assert (envelope["source"], envelope["resources"]) == ("aws.ecs", [event.arn])
    detail = envelope["detail"]
    assert detail["createdAt"] == "2027-01-15T08:00:00.000Z"
    assert {"tags", "healthStatus"} & set(detail) == set()
    # Port ranges are not in events: who needs them has to ask the API.
    assert [b.get("containerPort") for b in detail["containers"][0]["networkBindings"]] == [80]
    assert detail["updatedAt"].endswith("Z")


def test_listeners_hear_in_order() -> None:
    heard: list[tuple[int, Event]] = []
    account = Account(State("1", "r"), lambda: 0.0, random.Random(), None, Bulletin())  # type: ignore[arg-type]
    account.bulletin.subscribe(lambda event: heard.append((1, event)))
    account.bulletin.subscribe(lambda event: heard.append((2, event)))
    event = Event(at=0.0, kind="task", cluster="", service="", arn="", text="", detail_type="", detail={})
    account.bulletin.publish(event)
    assert [number for number, _ in heard] == [1, 2]
