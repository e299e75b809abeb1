"""The whole embedded cluster: boto3 in front, real processes behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import boto3
import pytest
import pytest_asyncio
from botocore.config import Config

from discovery.simulator.events import Event
from discovery.simulator.network import Loopback, NoAddressError
from discovery.simulator.ports import PortRange
from discovery.simulator.simulator import Simulator, SimulatorError
from discovery.simulator.state import Task

DEADLINE_S = 20.0
NETWORK = {"awsvpcConfiguration": {"subnets": ["subnet-1"]}}


class Cluster:
    """A simulator with one cluster of three instances, and short ways to use it."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.events: list[Event] = []
        self._news = asyncio.Event()
        simulator.subscribe(self._hear)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def ask(self, service: str, operation: str, **request: Any) -> dict[str, Any]:
        def run() -> dict[str, Any]:
            client = boto3.client(
                service,
                endpoint_url=self.simulator.url,
                region_name="eu-west-1",
                aws_access_key_id="x",
                aws_secret_access_key="y",
                config=Config(retries={"total_max_attempts": 1}),
            )
            try:
                answer: dict[str, Any] = getattr(client, operation)(**request)
                return answer
            finally:
                client.close()

        return await asyncio.to_thread(run)

    async def ecs(self, operation: str, **request: Any) -> dict[str, Any]:
        return await self.ask("ecs", operation, cluster="prod", **request)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def define(self, family: str, mode: str = "bridge", **container: Any) -> None:
        definition = {
            "name": "app",
            "image": "anyport/app",
            "essential": True,
            "memory": 64,
            "environment": [{"name": "LINGER_S", "value": "0"}],
            "portMappings": [{"containerPort": 8080}],
            **container,
        }
        self.simulator.call(
            "RegisterTaskDefinition", family=family, networkMode=mode, containerDefinitions=[definition]
        )

    def create(self, name: str, count: int, **more: Any) -> None:
        self.simulator.call(
            "CreateService", cluster="prod", serviceName=name, taskDefinition=name, desiredCount=count, **more
        )

    def tasks(self, service: str) -> list[Task]:
        tasks = self.simulator.state.clusters["prod"].tasks.values()
        group = f"service:{service}"
        return [t for t in tasks if t.group == group and t.last_status != "STOPPED"]

    async def steady(self, service: str, count: int) -> list[Task]:
        """Wait until exactly so many tasks run, and nothing else of the service is left."""

        def is_steady() -> bool:
            there = self.tasks(service)
            return len(there) == count and all(
                t.last_status == "RUNNING" and t.desired_status == "RUNNING" for t in there
            )

        await self.until(is_steady)
        return self.tasks(service)

    async def remove(self, service: str) -> None:
        self.simulator.call("DeleteService", cluster="prod", service=service, force=True)
        await self.until(lambda: not self.tasks(service))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with Simulator(speed=20) as simulator:
        cluster = Cluster(simulator)
        await simulator.add_cluster("prod")
        await asyncio.gather(*(simulator.add_instance("prod") for _ in range(3)))
        yield cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    # A connection per request: what answers at an address changes under these tests.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        yield session


async def identity(http: aiohttp.ClientSession, address: str, port: int) -> dict[str, Any]:
    """What the app at that address says it is; waits until it listens."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                async with http.get(f"http://{address}:{port}/") as answer:
                    said: dict[str, Any] = await answer.json()
                    return said
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)


@pytest.mark.asyncio(loop_scope="module")
async def test_bridge_tasks_answer_at_their_host_ports(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    cluster.define("web")
    await cluster.ecs("create_service", serviceName="web", taskDefinition="web", desiredCount=3)
    await cluster.steady("web", 3)
    arns = (await cluster.ecs("list_tasks", serviceName="web"))["taskArns"]
    tasks = (await cluster.ecs("describe_tasks", tasks=arns))["tasks"]
    held = (
        await cluster.ecs(
            "describe_container_instances", containerInstances=[t["containerInstanceArn"] for t in tasks]
        )
    )["containerInstances"]
    machines = await cluster.ask("ec2", "describe_instances", InstanceIds=[i["ec2InstanceId"] for i in held])
    address_of = {
        machine["InstanceId"]: (machine["PrivateIpAddress"], machine["Placement"]["AvailabilityZone"])
        for reservation in machines["Reservations"]
        for machine in reservation["Instances"]
    }
    ec2_of = {instance["containerInstanceArn"]: instance["ec2InstanceId"] for instance in held}
    assert len({task["availabilityZone"] for task in tasks}) == 3
    for task in tasks:
        address, zone = address_of[ec2_of[task["containerInstanceArn"]]]
        assert zone == task["availabilityZone"]
        binding = task["containers"][0]["networkBindings"][0]
        assert binding["containerPort"] == 8080
        said = await identity(http, address, binding["hostPort"])
        assert (said["service"], said["task"], said["release"]) == ("web", task["taskArn"], "web:1")
    await cluster.remove("web")


@pytest.mark.asyncio(loop_scope="module")
async def test_awsvpc_tasks_have_addresses_of_their_own(
    cluster: Cluster, http: aiohttp.ClientSession
) -> None:
    cluster.define("api", "awsvpc")
    cluster.create("api", 2, networkConfiguration=NETWORK)
    tasks = await cluster.steady("api", 2)
    assert len({task.containers[0].private_ip for task in tasks}) == 2
    for task in tasks:
        assert (await identity(http, task.containers[0].private_ip, 8080))["task"] == task.arn
    await cluster.remove("api")


@pytest.mark.asyncio(loop_scope="module")
async def test_host_mode_tasks_answer_at_their_container_port(
    cluster: Cluster, http: aiohttp.ClientSession
) -> None:
    cluster.define("chat", "host", portMappings=[{"containerPort": 17070}])
    cluster.create("chat", 3)
    for task in await cluster.steady("chat", 3):
        assert task.instance is not None
        assert (await identity(http, task.instance.address, 17070))["task"] == task.arn
    await cluster.remove("chat")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_killed_task_is_replaced(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    cluster.define("victim")
    cluster.create("victim", 1)
    task = (await cluster.steady("victim", 1))[0]
    pid = task.containers[0].pid
    async with http.post(f"{cluster.simulator.url}/_simulator/kill", json={"task": task.arn}) as answer:
        assert answer.status == 200
    await cluster.until(lambda: task.last_status == "STOPPED")
    assert (task.stop_code, task.containers[0].exit_code) == ("EssentialContainerExited", 137)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    replacement = (await cluster.steady("victim", 1))[0]
    assert replacement.arn != task.arn
    await cluster.remove("victim")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_host_port_goes_to_another_service_once_the_agent_has_restarted(
    cluster: Cluster, http: aiohttp.ClientSession
) -> None:
    instance = next(iter(cluster.simulator.state.clusters["prod"].instances.values()))

    async def start(family: str) -> tuple[Task, int]:
        cluster.define(family)
        answer = await cluster.ecs("start_task", taskDefinition=family, containerInstances=[instance.arn])
        task = cluster.simulator.state.clusters["prod"].tasks[answer["tasks"][0]["taskArn"]]
        await cluster.until(lambda: task.last_status == "RUNNING")
        return task, task.containers[0].bindings[0].host_port

    async def stop(task: Task) -> None:
        await cluster.ecs("stop_task", task=task.arn)
        await cluster.until(lambda: task.last_status == "STOPPED")

    await cluster.simulator.restart_agent(instance)
    first, port = await start("first")
    assert (await identity(http, instance.address, port))["service"] == "first"
    await stop(first)
    second, other_port = await start("second")
    assert other_port == port + 1  # the cursor goes on
    await stop(second)
    await cluster.simulator.restart_agent(instance)
    third, same_port = await start("third")
    assert same_port == port
    assert (await identity(http, instance.address, port))["service"] == "third"
    await stop(third)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_task_asks_its_agent_for_protection(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    cluster.define("shy")
    cluster.create("shy", 1)
    task = (await cluster.steady("shy", 1))[0]
    url = task.containers[0].metadata_url
    async with http.get(f"{url}/task") as answer:
        assert (await answer.json())["TaskARN"] == task.arn
    body = {"ProtectionEnabled": True, "ExpiresInMinutes": 5}
    async with http.put(url.replace("/v4/", "/api/") + "/task-protection/v1/state", json=body) as answer:
        assert (await answer.json())["protection"]["ProtectionEnabled"] is True
    shown = await cluster.ecs("get_task_protection", tasks=[task.arn])
    assert shown["protectedTasks"][0]["protectionEnabled"] is True
    await cluster.remove("shy")


@pytest.mark.asyncio(loop_scope="module")
async def test_changes_reach_a_queue_through_eventbridge(cluster: Cluster) -> None:
    queue = (await cluster.ask("sqs", "create_queue", QueueName="changes"))["QueueUrl"]
    arn = "arn:aws:sqs:eu-west-1:123456789012:changes"
    pattern = {"source": ["aws.ecs"], "detail-type": ["ECS Task State Change"]}
    await cluster.ask("events", "put_rule", Name="changes", EventPattern=json.dumps(pattern))
    await cluster.ask("events", "put_targets", Rule="changes", Targets=[{"Id": "1", "Arn": arn}])
    cluster.define("told")
    task = (await cluster.ecs("run_task", taskDefinition="told"))["tasks"][0]["taskArn"]
    seen: list[tuple[int, str]] = []
    async with asyncio.timeout(DEADLINE_S):
        while "RUNNING" not in [status for _, status in seen]:
            got = await cluster.ask(
                "sqs", "receive_message", QueueUrl=queue, WaitTimeSeconds=2, MaxNumberOfMessages=10
            )
            for message in got.get("Messages", ()):
                body = json.loads(message["Body"])
                assert (body["source"], body["resources"]) == ("aws.ecs", [body["detail"]["taskArn"]])
                if body["detail"]["taskArn"] == task:
                    seen.append((body["detail"]["version"], body["detail"]["lastStatus"]))
    assert (3, "RUNNING") in seen
    await cluster.ecs("stop_task", task=task)
    await cluster.until(lambda: cluster.simulator.state.clusters["prod"].tasks[task].last_status == "STOPPED")


async def taken(cluster: Cluster, queue: str) -> list[dict[str, Any]]:
    """Return what comes by a queue next, and delete it."""
    got = await cluster.ask("sqs", "receive_message", QueueUrl=queue, WaitTimeSeconds=10)
    for message in got.get("Messages", ()):
        await cluster.ask("sqs", "delete_message", QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return [json.loads(message["Body"]) for message in got.get("Messages", ())]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_spot_instance_is_taken_away_with_a_warning_in_its_metadata_and_as_an_event(
    cluster: Cluster, http: aiohttp.ClientSession
) -> None:
    queue = (await cluster.ask("sqs", "create_queue", QueueName="spot"))["QueueUrl"]
    arn = "arn:aws:sqs:eu-west-1:123456789012:spot"
    pattern = json.dumps({"source": ["aws.ec2"]})
    await cluster.ask("events", "put_rule", Name="spot", EventPattern=pattern)
    await cluster.ask("events", "put_targets", Rule="spot", Targets=[{"Id": "1", "Arn": arn}])
    instance = next(iter(cluster.simulator.state.clusters["prod"].instances.values()))
    faults = cluster.simulator.faults
    faults.events_twice(count=1)
    url = f"{cluster.simulator.url}/_simulator/spot"
    body = {"instance": instance.ec2_instance_id, "action": "stop"}
    async with http.post(url, json=body) as answer:
        assert answer.status == 200
    bodies: list[dict[str, Any]] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(bodies) < 2:
            bodies += await taken(cluster, queue)
    first, again = bodies
    assert {**first, "id": ""} == {**again, "id": ""}
    assert first["source"] == "aws.ec2"
    assert first["detail"] == {"instance-id": instance.ec2_instance_id, "instance-action": "stop"}
    base = f"{instance.imds_url}/latest"
    async with http.put(
        f"{base}/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    ) as answer:
        token = await answer.text()
    headers = {"X-aws-ec2-metadata-token": token}
    async with http.get(f"{base}/meta-data/spot/instance-action", headers=headers) as answer:
        assert json.loads(await answer.text())["action"] == "stop"
    # What is lost, and what comes late, behind those that happened after it.
    faults.events_lost(count=1)
    await cluster.simulator.interrupt_spot(instance, "hibernate")
    faults.events_late(0.2, count=1)
    await cluster.simulator.interrupt_spot(instance, "stop")
    await cluster.simulator.interrupt_spot(instance, "terminate")
    actions: list[str] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(actions) < 2:
            actions += [body["detail"]["instance-action"] for body in await taken(cluster, queue)]
    assert actions == ["terminate", "stop"]


@pytest.mark.asyncio(loop_scope="module")
async def test_the_control_api(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    base = f"{cluster.simulator.url}/_simulator"
    async with http.get(f"{base}/health") as answer:
        assert (await answer.json())["clusters"]["prod"]["instances"] == 3
    async with http.put(f"{base}/faults", json={"kind": "throttle", "operation": "ListTasks"}) as answer:
        number = (await answer.json())["id"]
    async with http.get(f"{base}/faults") as answer:
        assert [f["kind"] for f in (await answer.json())["faults"]] == ["throttle"]
    with pytest.raises(Exception, match="Rate exceeded"):
        await cluster.ecs("list_tasks")
    async with http.delete(f"{base}/faults", params={"id": number}) as answer:
        assert answer.status == 200
    await cluster.ecs("list_tasks")
    some = next(iter(cluster.simulator.state.clusters["prod"].instances.values()))
    for method, path, body, said in [
        ("PUT", "faults", {"kind": "sabotage"}, "kind must be"),
        ("PUT", "faults", ["throttle"], "JSON object"),
        ("PUT", "speed", {"speed": 0}, "above 0"),
        ("POST", "kill", {"task": "none"}, "no task"),
        ("POST", "restart-agent", {}, "no instance"),
        ("POST", "spot", {}, "no instance"),
        ("POST", "spot", {"instance": some.ec2_instance_id, "action": "sell"}, "terminate, stop or"),
    ]:
        async with http.request(method, f"{base}/{path}", json=body) as answer:
            assert answer.status == 400
            assert said in (await answer.json(content_type=None))["error"]
    before = cluster.simulator.speed
    async with http.put(f"{base}/speed", json={"speed": 30}) as answer:
        assert cluster.simulator.speed == 30
    cluster.simulator.speed = before


@pytest.mark.asyncio
async def test_two_simulators_at_once_and_neither_leaves_a_process() -> None:
    pids: list[int] = []
    async with Simulator(speed=50) as one, Simulator(speed=50) as two:
        for simulator in (one, two):
            cluster = Cluster(simulator)
            await simulator.add_cluster("prod")
            await simulator.add_instance("prod", external=True)  # no wait for EC2
            cluster.define("web")
            cluster.create("web", 2, launchType="EXTERNAL")
            pids += [task.containers[0].pid for task in await cluster.steady("web", 2)]
        addresses = [
            instance.address
            for simulator in (one, two)
            for instance in simulator.state.clusters["prod"].instances.values()
        ]
        assert len(set(addresses)) == 2
        assert one.url != two.url
    assert len(set(pids)) == 4
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.asyncio
async def test_a_port_in_use_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            SimulatorError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"
        ):
            async with Simulator(port=port):
                raise AssertionError("it must not start")


@pytest.mark.asyncio
async def test_a_range_of_one_port_gives_it_to_each_task_in_turn() -> None:
    async with Simulator(speed=50, ports=PortRange(41000, 41000)) as simulator:
        cluster = Cluster(simulator)
        await simulator.add_cluster("prod")
        await simulator.add_instance("prod", external=True)  # no wait for EC2
        for family in ("a", "b", "a"):
            cluster.define(family)
            request = {"cluster": "prod", "launchType": "EXTERNAL"}
            arn = simulator.call("RunTask", **request, taskDefinition=family)["tasks"][0]["taskArn"]
            task = simulator.state.clusters["prod"].tasks[arn]
            await cluster.until(lambda task=task: task.last_status == "RUNNING")  # type: ignore[misc]
            assert task.containers[0].bindings[0].host_port == 41000
            simulator.call("StopTask", cluster="prod", task=arn)
            await cluster.until(lambda task=task: task.last_status == "STOPPED")  # type: ignore[misc]


def test_a_loopback_range_belongs_to_one() -> None:
    one = Loopback()
    two = Loopback()
    try:
        assert one.prefix != two.prefix
        with pytest.raises(NoAddressError, match=one.prefix):
            Loopback(one.prefix)
    finally:
        one.close()
        two.close()
    assert one.task_address(0).endswith(".2.1")
    assert one.task_address(254).endswith(".3.1")
    with pytest.raises(NoAddressError):
        one.instance_address(255)
