"""A cluster as a source, through boto3, on the embedded ECS, while things change and fail."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from discovery.ecs.aws.api import EcsApi
from discovery.ecs.aws.sessions import Account
from discovery.ecs.cluster import EcsCluster
from discovery.ecs.translate.translator import Translator
from discovery.model import Endpoint, Snapshot
from discovery.simulator.events import Event
from discovery.simulator.faults import Fault
from discovery.simulator.simulator import Simulator
from tests.kit.eventually import eventually

CALL_TIMEOUT_S = 0.5
PAUSE_S = 0.05  # between polls, whatever the poller asks for: what counts here is their order
WITHIN_S = 20.0


class Scene:
    """A cluster of the simulator and a source that watches it; `snapshot` is the newest it yielded."""

    def __init__(self, simulator: Simulator, cluster: str, source: EcsCluster) -> None:
        self.simulator = simulator
        self.cluster = cluster
        self.source = source
        self.snapshot: Snapshot | None = None
        self.history: list[tuple[int, Snapshot]] = []  # with the number of complete polls before it

    async def watch(self) -> None:
        async for snapshot in self.source.watch():
            self.snapshot = snapshot
            self.history.append((self.source.status.refreshes, snapshot))

    def define(self, family: str, *, mode: str = "bridge", **container: Any) -> None:
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
            "CreateService",
            cluster=self.cluster,
            serviceName=name,
            taskDefinition=name,
            desiredCount=count,
            **more,
        )

    def ready(self) -> list[Endpoint]:
        return [] if self.snapshot is None else [e for e in self.snapshot.endpoints if not e.draining]

    async def ready_are(self, count: int) -> None:
        await eventually(lambda: len(self.ready()) == count, within_s=WITHIN_S)

    async def polls(self, count: int) -> None:
        """Let so many more polls end, well or badly."""
        status = self.source.status

        def ended() -> int:
            return status.refreshes + sum(status.errors.values())

        target = ended() + count
        await eventually(lambda: ended() >= target, within_s=WITHIN_S)


# One simulator for all, a cluster for each test: starting moto takes seconds.
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(speed=30, throttling=False) as simulator:
        yield simulator


@pytest_asyncio.fixture(loop_scope="module")
async def scene(
    simulator: Simulator, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    for name, value in simulator.environment.items():
        monkeypatch.setenv(name, value)
    cluster = request.node.originalname.replace("_", "-")
    await simulator.add_cluster(cluster)
    for _ in range(2):
        await simulator.add_instance(cluster)

    async def hasty(seconds: float) -> None:
        await asyncio.sleep(min(seconds, PAUSE_S))

    api = EcsApi(Account(endpoint_url=simulator.url), call_timeout_s=CALL_TIMEOUT_S, sleep=hasty)
    source = EcsCluster(
        api,
        name=f"ecs:{cluster}",
        cluster=cluster,
        translator=lambda: Translator(source=f"ecs:{cluster}", domain="example.com"),
        interval_s=2 * PAUSE_S,
        confirm_s=3600.0,
        sleep=hasty,
    )
    scene = Scene(simulator, cluster, source)
    watching = asyncio.create_task(scene.watch())
    yield scene
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    api.close()
    simulator.faults.clear()
    for service in simulator.state.clusters[cluster].services:
        simulator.call("DeleteService", cluster=cluster, service=service, force=True)


@pytest.mark.asyncio(loop_scope="module")
async def test_every_network_mode_answers_where_the_table_says(scene: Scene) -> None:
    scene.define("web")
    scene.define("api", mode="awsvpc")
    scene.define("edge", mode="host", portMappings=[{"containerPort": 19080}])
    scene.create("web", 2)
    network = {"awsvpcConfiguration": {"subnets": ["subnet-1"]}}
    scene.create("api", 1, networkConfiguration=network)
    scene.create("edge", 1)
    await scene.ready_are(4)

    for endpoint in scene.ready():
        answer = await asyncio.to_thread(_get, endpoint)
        assert f"x-service: {endpoint.service}" in answer
        assert endpoint.task_arn.lower() in answer
    assert scene.snapshot is not None
    assert set(scene.snapshot.services) == {"api", "edge", "web"}
    assert {e.zone for e in scene.ready()} <= {"eu-west-1a", "eu-west-1b"}


def _get(endpoint: Endpoint) -> str:
    with socket.create_connection((endpoint.host, endpoint.port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode().lower()


@pytest.mark.asyncio(loop_scope="module")
async def test_changes_are_seen_by_the_first_poll_that_starts_after_them(scene: Scene) -> None:
    """Polls start at most one interval apart, so RUNNING is routable, and a stop is draining, within one."""
    changes: dict[tuple[str, str], int] = {}  # (task, state) to the complete polls before it

    def hear(event: Event) -> None:
        if event.detail_type == "ECS Task State Change" and event.cluster == scene.cluster:
            detail = event.detail
            state = "STOPPING" if detail["desiredStatus"] == "STOPPED" else detail["lastStatus"]
            changes.setdefault((detail["taskArn"], state), scene.source.status.refreshes)

    def changed(state: str) -> int:
        return sum(seen == state for _, seen in changes)

    scene.simulator.subscribe(hear)
    scene.define("web")
    scene.create("web", 3)
    await scene.ready_are(3)
    await scene.polls(3)
    scene.simulator.call("UpdateService", cluster=scene.cluster, service="web", desiredCount=1)
    await scene.ready_are(1)
    await scene.simulator.kill_task(scene.ready()[0].task_arn)
    await eventually(lambda: changed("RUNNING") == 4, within_s=WITHIN_S)
    await scene.ready_are(1)
    await scene.polls(3)

    assert changed("STOPPING") == 3
    for (task, state), polls_before in changes.items():
        # One poll may have been under way; the next one began after the change and has to know.
        known = [snapshot for polls, snapshot in scene.history if polls <= polls_before + 2][-1]
        is_ready = task in {e.task_arn for e in known.endpoints if not e.draining}
        if state in ("RUNNING", "STOPPING"):
            assert is_ready == (state == "RUNNING"), f"{state} at poll {polls_before}"


FAULTS = [
    (Fault(kind="throttle"), "throttled"),
    (Fault(kind="error"), "other"),
    (Fault(kind="denied", operation="DescribeContainerInstances"), "denied"),
    (Fault(kind="expired"), "expired"),
    (Fault(kind="hang", operation="DescribeTasks"), "timeout"),
    (Fault(kind="empty", operation="ListTasks"), ""),
    (Fault(kind="empty", operation="DescribeTasks"), "partial"),
    (Fault(kind="empty", operation="DescribeContainerInstances"), "partial"),
    (Fault(kind="failures", operation="DescribeTasks", reason="AGENT"), "partial"),
    (Fault(kind="failures", operation="DescribeTasks", items=9), ""),
    (Fault(kind="failures", operation="DescribeContainerInstances", items=9), ""),
    (Fault(kind="missing_fields", operation="DescribeTasks", fields=("containers",)), "malformed"),
    (Fault(kind="missing_fields", operation="DescribeTasks", fields=("lastStatus",)), "malformed"),
    (Fault(kind="missing_fields", operation="DescribeTasks", fields=("networkBindings", "version")), ""),
    (Fault(kind="stale", seconds=1.0), ""),
]


@pytest.mark.asyncio(loop_scope="module")
async def test_no_fault_of_the_api_takes_a_task_away(scene: Scene) -> None:
    scene.define("web")
    scene.create("web", 2)
    await scene.ready_are(2)
    before, status = scene.snapshot, scene.source.status

    for fault, kind in FAULTS:
        status.errors.clear()
        scene.simulator.faults.add(fault)
        await scene.polls(2)

        assert scene.snapshot == before, fault
        assert set(status.errors) == ({kind} if kind else set()), fault

        scene.simulator.faults.clear()
        done = status.refreshes
        await eventually(lambda done=done: status.refreshes > done, within_s=WITHIN_S)  # type: ignore[misc]
        assert (scene.snapshot, status.last_error) == (before, ""), fault


@pytest.mark.asyncio(loop_scope="module")
async def test_wrong_cluster_is_named_with_the_right_ones(scene: Scene) -> None:
    scene.source.poller._cluster = scene.cluster.replace("wrong", "wrnog")

    await eventually(lambda: bool(scene.source.status.last_error), within_s=WITHIN_S)

    assert f"did you mean '{scene.cluster}'?" in scene.source.status.last_error
    assert scene.source.status.errors["missing_cluster"] >= 1
