"""The servers of an instance: documents against the field lists of the agent's source, quirks included."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from discovery.simulator.agent import InstanceServers, introspect_task, parse_protection
from discovery.simulator.metadata import endpoint_id, metadata_url, rfc3339
from discovery.simulator.state import Binding, Container, Instance, Task, TaskDefinition

CLUSTER = "arn:aws:ecs:eu-west-1:111122223333:cluster/prod"
INSTANCE = "arn:aws:ecs:eu-west-1:111122223333:container-instance/prod/1f73d099b914411c9a9ff81633b7741d"
TASK = "arn:aws:ecs:eu-west-1:111122223333:task/prod/4d590253bb114126b7afa7b58eea9221"
DOCKER_ID = "9125a1b2c3d4" + "0" * 52
NOW = 1767323045.6
# Of this run alone: another run of the tests may have the agent's port on an address we share.
ADDRESS = f"127.{random.randrange(100, 200)}.{random.randrange(256)}.3"

INTROSPECTION_TASK = {"Arn", "DesiredStatus", "KnownStatus", "Family", "Version", "Containers"}
INTROSPECTION_CONTAINER = {
    *("DockerId", "DockerName", "Name", "Image", "ImageID", "CreatedAt", "StartedAt"),
    *("Ports", "Networks", "Volumes", "RestartCount"),
}
METADATA_TASK = {
    *("Cluster", "TaskARN", "Family", "Revision", "ServiceName", "DesiredStatus", "KnownStatus", "Limits"),
    *("PullStartedAt", "PullStoppedAt", "ExecutionStoppedAt", "AvailabilityZone", "AvailabilityZoneID"),
    *("LaunchType", "VPCID", "TaskTags", "ContainerInstanceTags", "Errors", "Containers"),
}
METADATA_CONTAINER = {
    *(
        "DockerId",
        "Name",
        "DockerName",
        "Image",
        "ImageID",
        "Ports",
        "Labels",
        "DesiredStatus",
        "KnownStatus",
    ),
    *("ExitCode", "Limits", "CreatedAt", "StartedAt", "FinishedAt", "Type", "Health", "Volumes", "LogDriver"),
    *("LogOptions", "ContainerARN", "Networks", "RestartCount", "Snapshotter"),
}


def make_task(instance: Instance, mode: str = "bridge", status: str = "RUNNING", **definition: Any) -> Task:
    definition = {
        "name": "app",
        "image": "anyport/app",
        "portMappings": [{"containerPort": 8080}],
    } | definition
    container = Container(
        arn="arn:aws:ecs:eu-west-1:111122223333:container/prod/4d59/c1",
        name="app",
        definition=definition,
        last_status=status,
        runtime_id=DOCKER_ID,
        created_at=NOW - 2,
        started_at=NOW,
    )
    return Task(
        arn=TASK,
        cluster_arn=CLUSTER,
        definition=TaskDefinition("arn:td/web:42", "web", 42, mode, [definition], NOW - 100),
        group="service:web",
        created_at=NOW - 3,
        instance=instance,
        last_status=status,
        containers=[container],
        tags=[{"key": "team", "value": "shop"}],
    )


class Site:
    """Servers of an instance, its tasks, and a client."""

    def __init__(self) -> None:
        self.instance = Instance(INSTANCE, "i-0a1b2c3d", CLUSTER, ADDRESS, "eu-west-1b", NOW - 1000)
        self.tasks: list[Task] = []
        self.now = NOW
        self.protected: list[tuple[str, float]] = []
        self.servers = InstanceServers(
            self.instance,
            lambda: self.tasks,
            "eu-west-1",
            protect=self._protect,
            clock=lambda: self.now,
        )
        self.client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))

    def _protect(self, task: Task, until: float) -> None:
        task.protected_until = until
        self.protected.append((task.arn, until))

    async def agent(self, path: str, status: int = 200) -> Any:
        async with self.client.get(self.instance.agent_url + path) as answer:
            assert answer.status == status
            return await answer.json()

    async def metadata(self, task: Task, path: str = "") -> Any:
        async with self.client.get(metadata_url(task, task.containers[0]) + path) as answer:
            assert answer.status == 200
            return await answer.json()


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    async with site.client:
        await site.servers.start()
        yield site
        await site.servers.stop()


@pytest.mark.asyncio
async def test_introspection_of_the_instance(site: Site) -> None:
    document = await site.agent("/v1/metadata")
    assert document["Cluster"] == "prod"
    assert document["ContainerInstanceArn"] == INSTANCE
    assert document["Version"].startswith("Amazon ECS Agent - v1.")
    assert "/v1/tasks" in (await site.agent("/"))["AvailableCommands"]


@pytest.mark.asyncio
async def test_introspection_of_a_running_task(site: Site) -> None:
    task = make_task(site.instance)
    task.containers[0].bindings = [Binding(8080, 32771)]
    site.tasks = [task]
    (document,) = (await site.agent("/v1/tasks"))["Tasks"]
    assert document.keys() <= INTROSPECTION_TASK
    assert (document["Family"], document["Version"]) == ("web", "42")
    assert (document["DesiredStatus"], document["KnownStatus"]) == ("RUNNING", "RUNNING")
    (container,) = document["Containers"]
    assert container.keys() <= INTROSPECTION_CONTAINER
    assert container["Ports"] == [{"ContainerPort": 8080, "Protocol": "tcp", "HostPort": 32771}]
    assert container["StartedAt"] == "2026-01-02T03:04:05.6Z"
    assert "Networks" not in container, "only awsvpc tasks show them here"


@pytest.mark.asyncio
async def test_one_task_by_arn_or_docker_id(site: Site) -> None:
    site.tasks = [make_task(site.instance)]
    for query in (f"taskarn={TASK}", f"dockerid={DOCKER_ID}", f"dockerid={DOCKER_ID[:12]}"):
        assert (await site.agent(f"/v1/tasks?{query}"))["Arn"] == TASK
    for query, status in (("taskarn=no", 404), ("dockerid=91", 404), (f"taskarn={TASK}&dockerid=x", 400)):
        assert (await site.agent(f"/v1/tasks?{query}", status))["Arn"] == ""


def test_a_port_of_a_task_that_is_not_up_has_no_host_port(site_instance: Instance) -> None:
    task = make_task(site_instance, status="PENDING")
    document = introspect_task(task)
    assert document["KnownStatus"] == "PENDING"
    assert document["Containers"][0]["Ports"] == [{"ContainerPort": 8080, "Protocol": "tcp"}]


def test_ranges_show_as_single_ports_and_ipv6_doubles_them(site_instance: Instance) -> None:
    task = make_task(site_instance, portMappings=[{"containerPortRange": "7000-7001"}])
    assert [p["ContainerPort"] for p in introspect_task(task)["Containers"][0]["Ports"]] == [7000, 7001]
    task.containers[0].bindings = [Binding(7000, 32800, range_size=2)]
    ports = introspect_task(task, ipv6=True)["Containers"][0]["Ports"]
    assert [(p["ContainerPort"], p["HostPort"]) for p in ports] == [
        (7000, 32800),
        (7000, 32800),
        (7001, 32801),
        (7001, 32801),
    ]


@pytest.mark.parametrize("mode", ["awsvpc", "host"])
def test_without_bridge_the_host_port_is_the_container_port(site_instance: Instance, mode: str) -> None:
    task = make_task(site_instance, mode)
    task.containers[0].private_ip = "127.0.2.9" if mode == "awsvpc" else ""
    container = introspect_task(task)["Containers"][0]
    assert container["Ports"][0]["HostPort"] == 8080
    assert ("Networks" in container) == (mode == "awsvpc")


@pytest.mark.parametrize(
    ("last", "desired", "known", "shown"),
    [
        ("ACTIVATING", "RUNNING", "PENDING", "RUNNING"),
        ("RUNNING", "STOPPED", "RUNNING", "STOPPED"),
        ("STOPPING", "STOPPED", "RUNNING", "STOPPED"),
        ("DEPROVISIONING", "STOPPED", "STOPPED", "STOPPED"),
        ("STOPPED", "STOPPED", "STOPPED", "STOPPED"),
        ("STOPPED", "RUNNING", "STOPPED", None),
    ],
)
def test_statuses_as_the_agent_knows_them(
    site_instance: Instance, last: str, desired: str, known: str, shown: str | None
) -> None:
    task = make_task(site_instance, status=last)
    task.desired_status = desired
    document = introspect_task(task)
    assert document["KnownStatus"] == known
    assert document.get("DesiredStatus") == shown


@pytest.mark.asyncio
async def test_stopped_tasks_stay_listed_and_tasks_not_handed_over_are_not(site: Site) -> None:
    site.tasks = [make_task(site.instance, status="STOPPED"), make_task(site.instance, status="PROVISIONING")]
    listed = (await site.agent("/v1/tasks"))["Tasks"]
    assert [task["KnownStatus"] for task in listed] == ["STOPPED"]


@pytest.mark.asyncio
async def test_task_metadata(site: Site) -> None:
    task = make_task(
        site.instance,
        dockerLabels={"anyport.host": "web.example"},
        environment=[{"name": "PASSWORD", "value": "x"}],
    )
    task.containers[0].bindings = [Binding(8080, 32771)]
    site.tasks = [task]
    document = await site.metadata(task, "/task")
    assert document.keys() <= METADATA_TASK
    assert (document["Cluster"], document["TaskARN"], document["ServiceName"]) == ("prod", TASK, "web")
    assert document["AvailabilityZone"] == "eu-west-1b"
    assert "TaskTags" not in document
    container = await site.metadata(task)
    assert document["Containers"] == [container]
    assert container.keys() <= METADATA_CONTAINER
    assert container["Labels"]["anyport.host"] == "web.example"
    assert container["Labels"]["com.amazonaws.ecs.task-arn"] == TASK
    assert container["Ports"] == [
        {"ContainerPort": 8080, "Protocol": "tcp", "HostPort": 32771, "HostIp": "0.0.0.0"}
    ]
    assert container["Networks"][0]["NetworkMode"] == "bridge"
    assert "PASSWORD" not in str(document)
    assert (await site.metadata(task, "/taskWithTags"))["TaskTags"] == {"team": "shop"}


@pytest.mark.asyncio
async def test_a_container_sees_nothing_without_its_own_endpoint_id(site: Site) -> None:
    task = make_task(site.instance)
    site.tasks = [task]
    for path in ("/v4/other/task", "/v4/", "/api/other/task-protection/v1/state"):
        async with site.client.get(site.instance.agent_url + path) as answer:
            assert answer.status == 404


@pytest.mark.asyncio
async def test_task_protection(site: Site) -> None:
    task = make_task(site.instance)
    site.tasks = [task]
    url = f"{site.instance.agent_url}/api/{endpoint_id(task, task.containers[0])}/task-protection/v1/state"

    async def put(body: Any, status: int = 200) -> Any:
        async with site.client.put(url, json=body) as answer:
            assert answer.status == status
            return await answer.json()

    on = await put({"ProtectionEnabled": True, "ExpiresInMinutes": 60})
    assert on["protection"]["ProtectionEnabled"] is True
    assert on["protection"]["ExpirationDate"] == rfc3339(float(int(NOW + 3600)))
    assert site.protected == [(TASK, NOW + 3600)]
    async with site.client.get(url) as answer:
        assert await answer.json() == on
    site.now = NOW + 3601
    async with site.client.get(url) as answer:
        assert await answer.json() == {"protection": {"ProtectionEnabled": False, "TaskArn": TASK}}
    assert (await put({"ExpiresInMinutes": 5}, 400))["error"]["Code"] == "InvalidParameterException"
    assert (await put({"ProtectionEnabled": False}))["protection"]["ProtectionEnabled"] is False
    task.group = "family:web"
    assert (await put({"ProtectionEnabled": True}))["failure"]["Reason"] == "TASK_NOT_VALID"
    assert len(site.protected) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"ProtectionEnabled": 1}',
        b'{"ProtectionEnabled": true, "ExpiresInMinutes": 0}',
        b'{"ProtectionEnabled": true, "ExpiresInMinutes": 2881}',
        b'{"ProtectionEnabled": true, "ExpiresInMinutes": true}',
    ],
)
def test_protection_that_makes_no_sense(body: bytes) -> None:
    with pytest.raises(ValueError, match="Invalid request"):
        parse_protection(body)


@pytest.mark.asyncio
async def test_a_restarting_agent_refuses_connections_and_comes_back_at_the_same_place(site: Site) -> None:
    url = site.instance.agent_url
    await site.servers.stop_agent()
    with pytest.raises(aiohttp.ClientConnectorError):
        await site.agent("/v1/metadata")
    await site.servers.start_agent()
    assert site.instance.agent_url == url
    await site.agent("/v1/metadata")


@pytest.mark.asyncio
async def test_the_usual_port_if_it_is_free(site: Site) -> None:
    assert site.instance.agent_url == f"http://{ADDRESS}:51678"
    second = InstanceServers(
        Instance(INSTANCE, "i-2", CLUSTER, ADDRESS, "eu-west-1b", NOW), lambda: (), "eu-west-1"
    )
    await second.start()
    assert second._instance.agent_url != site.instance.agent_url
    await second.stop()


@pytest.fixture
def site_instance() -> Instance:
    return Instance(INSTANCE, "i-0a1b2c3d", CLUSTER, ADDRESS, "eu-west-1b", NOW - 1000)
