"""How soon a change in ECS is what users get, when events tell of it: the real anyport, by SNS and SQS."""

from __future__ import annotations

import asyncio
import http.client
import statistics
import threading
import time
from pathlib import Path

import pytest

from discovery.simulator.events import Event
from discovery.simulator.simulator import Simulator
from tests.kit.anyport import Anyport
from tests.kit.aws import Operator
from tests.kit.eventually import eventually

ROUNDS = 24
ROUTABLE_WITHIN_S = (
    0.6  # on a machine that is busy; docs/discovery.md has what was measured on one that is not
)
OUT_WITHIN_S = 0.6


class _Changes:
    """When the cluster first said that a task is RUNNING, and that it is to stop."""

    def __init__(self) -> None:
        self.running: dict[str, float] = {}
        self.stopping: dict[str, float] = {}

    def hear(self, event: Event) -> None:
        if event.kind != "task":
            return
        if event.detail["desiredStatus"] == "STOPPED":
            self.stopping.setdefault(event.arn, time.monotonic())
        elif event.detail["lastStatus"] == "RUNNING":
            self.running.setdefault(event.arn, time.monotonic())


class _User(threading.Thread):
    """Asks without a pause; keeps when each task got its first and its last request, and what failed."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.failures: list[object] = []
        self._port = port
        self._over = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        while not self._over.wait(0.002):
            sent_at = time.monotonic()
            try:
                connection.request("GET", "/", headers={"Host": "web.test"})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as exc:
                connection.close()
                self.failures.append(exc)
                continue
            task = response.getheader("X-Task")
            if task is None:
                self.failures.append(response.status)
                continue
            self.first.setdefault(task, sent_at)
            self.last[task] = sent_at
        connection.close()

    def stop(self) -> None:
        self._over.set()
        self.join(30)


async def _start_service(simulator: Simulator, tasks: int) -> None:
    await simulator.add_cluster("demo")
    for _ in range(2):
        await simulator.add_instance("demo")
    container = {
        "name": "app",
        "image": "anyport/app",
        "memory": 64,
        "essential": True,
        "portMappings": [{"containerPort": 8080}],
        # After SIGTERM it serves for so long that only the table keeps requests away.
        "environment": [{"name": "LINGER_S", "value": "1.5"}],
    }
    simulator.call("RegisterTaskDefinition", family="web", containerDefinitions=[container])
    simulator.call(
        "CreateService",
        cluster="demo",
        serviceName="web",
        taskDefinition="web",
        desiredCount=tasks,
        launchType="EC2",
    )


def _config(simulator: Simulator, queue: str = "auto") -> str:
    """Only events can tell: there is no agent, and the API is asked once in ten minutes."""
    return (
        f'[ecs]\nclusters = ["demo"]\ndomain = "test"\npoll_interval_s = 600\nagent = "off"\n'
        f'region = "eu-west-1"\nendpoint_url = "{simulator.url}"\n[ecs.events]\nqueue = "{queue}"\n'
        '[health]\npath = "/health"\n'
    )


def _ready(anyport: Anyport, tasks: int) -> bool:
    rows = anyport.table()
    return len(rows) == tasks and {row["state"] for row in rows} == {"ready"}


async def _subscribed(operator: Operator) -> bool:
    return len(await operator.subscriptions()) == 1


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.timeout(180)
async def test_a_task_is_routable_and_out_with_its_event(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    changes = _Changes()
    async with Simulator(speed=10, throttling=False) as simulator:
        simulator.subscribe(changes.hear)
        operator = Operator(simulator)
        await operator.rule(await operator.topic())
        await _start_service(simulator, 4)
        with Anyport(tmp_path, _config(simulator), workers=2, environ=simulator.environment) as anyport:
            await eventually(lambda: len(changes.running) == 4, within_s=20)
            await eventually(anyport.ready, within_s=20)
            await eventually(lambda: _ready(anyport, 4), within_s=20)
            await eventually(lambda: _subscribed(operator), within_s=20)
            user = _User(anyport.port)
            user.start()
            try:
                for _ in range(ROUNDS):
                    before = set(changes.running)
                    tasks = simulator.state.clusters["demo"].tasks
                    victim = next(t for t in tasks.values() if t.desired_status == "RUNNING")
                    simulator.call("StopTask", cluster="demo", task=victim.arn)
                    await eventually(lambda before=before: len(changes.running) > len(before), within_s=20)
                    (successor,) = set(changes.running) - before
                    await eventually(lambda one=successor: one in user.first, within_s=20)
                    await eventually(lambda one=victim: one.last_status == "STOPPED", within_s=20)
            finally:
                user.stop()
            anyport.process.terminate()  # not at the end of the block, which would keep AWS from answering
            await asyncio.to_thread(anyport.process.wait, 30)
        queues = await operator.queues()
        operator.close()
    routable = sorted(user.first[task] - changes.running[task] for task in list(changes.running)[4:])
    out = sorted(user.last[task] - stopped for task, stopped in changes.stopping.items() if task in user.last)
    for name, times in (("routable", routable), ("out", out)):
        record_property(name, times)
        print(f"{name}: p50 {1000 * statistics.median(times):.1f} ms, max {1000 * times[-1]:.1f} ms")  # noqa: T201
    assert len(routable) == ROUNDS
    assert routable[-1] < ROUTABLE_WITHIN_S
    assert out[-1] < OUT_WITHIN_S
    assert user.failures == []
    assert queues == []  # it was removed at the end
