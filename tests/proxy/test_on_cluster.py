"""How soon what the ECS API says becomes what users get: the real anyport on the embedded cluster."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from discovery.simulator.events import Event
from discovery.simulator.operations import OPERATIONS
from discovery.simulator.simulator import Simulator
from discovery.simulator.wire import Json
from tests.kit.anyport import Anyport
from tests.kit.eventually import eventually

TASKS = 4
ROUNDS = 6
POLL_S = 0.5
ROUTABLE_WITHIN_S = 1.0
TAKES_EFFECT_WITHIN_S = 0.25  # from the answer of the API to the workers, on a machine that is busy


class _Api:
    """When a task first was RUNNING for whoever asks, and when the API first told that it is to stop."""

    def __init__(self, describe: Callable[..., Json]) -> None:
        self.running: dict[str, float] = {}
        self.stopped: dict[str, float] = {}
        self._describe = describe

    def describe(self, account: Any, request: Json) -> Json:
        answer = self._describe(account, request)
        now = time.monotonic()
        for task in answer["tasks"]:
            if task["desiredStatus"] == "STOPPED":
                self.stopped.setdefault(task["taskArn"], now)
        return answer

    def hear(self, event: Event) -> None:
        if event.kind == "task" and event.detail["lastStatus"] == "RUNNING":
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
        while not self._over.wait(0.005):
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


async def _start_service(simulator: Simulator) -> None:
    await simulator.add_cluster("demo")
    for _ in range(2):
        await simulator.add_instance("demo")
    simulator.call(
        "RegisterTaskDefinition",
        family="web",
        containerDefinitions=[
            {
                "name": "app",
                "image": "anyport/app",
                "memory": 64,
                "essential": True,
                "portMappings": [{"containerPort": 8080}],
                # After SIGTERM it serves for so long that only the table keeps requests away.
                "environment": [{"name": "LINGER_S", "value": "1.5"}],
            }
        ],
    )
    simulator.call(
        "CreateService",
        cluster="demo",
        serviceName="web",
        taskDefinition="web",
        desiredCount=TASKS,
        launchType="EC2",
    )


async def _replace_one(simulator: Simulator, api: _Api, users: list[_User]) -> None:
    """Stop a task, and return when its successor has had a request and it has ended."""
    tasks = simulator.state.clusters["demo"].tasks
    before = set(api.running)
    victim = next(task for task in tasks.values() if task.desired_status == "RUNNING")
    simulator.call("StopTask", cluster="demo", task=victim.arn)
    await eventually(lambda: len(api.running) > len(before), within_s=20)
    (successor,) = set(api.running) - before
    await eventually(lambda: any(successor in user.first for user in users), within_s=20)
    await eventually(lambda: victim.last_status == "STOPPED", within_s=20)


@pytest.mark.asyncio
@pytest.mark.timeout(120)
async def test_a_started_task_is_routable_in_a_second_and_a_stopped_one_out_with_the_poll_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = _Api(OPERATIONS["DescribeTasks"])
    monkeypatch.setitem(OPERATIONS, "DescribeTasks", api.describe)
    async with Simulator(speed=10, throttling=False) as simulator:
        simulator.subscribe(api.hear)
        await _start_service(simulator)
        config = (
            f'[ecs]\nclusters = ["demo"]\ndomain = "test"\npoll_interval_s = {POLL_S}\n'
            f'endpoint_url = "{simulator.url}"\n[health]\npath = "/health"\n'
        )
        with Anyport(tmp_path, config, workers=2, environ=simulator.environment) as anyport:
            await eventually(lambda: len(api.running) == TASKS, within_s=20)
            await eventually(anyport.ready, within_s=20)
            at_first = set(api.running)
            users = [_User(anyport.port) for _ in range(4)]
            try:
                await eventually(lambda: {row["state"] for row in anyport.table()} == {"ready"}, within_s=20)
                for user in users:
                    user.start()
                for _ in range(ROUNDS):
                    await _replace_one(simulator, api, users)
            finally:
                for user in users:
                    user.stop()

    started = set(api.running) - at_first
    routable_s = [min(user.first[t] for user in users if t in user.first) - api.running[t] for t in started]
    lingered_s = [
        max(user.last[t] for user in users if t in user.last) - api.stopped[t] for t in api.stopped
    ]  # negative: the last request was sent before the answer
    assert len(started) == len(api.stopped) == ROUNDS
    assert max(routable_s) < ROUTABLE_WITHIN_S
    assert max(lingered_s) < TAKES_EFFECT_WITHIN_S
    assert not [failure for user in users for failure in user.failures]
