"""The control process on the embedded ECS, through boto3: how fast it follows, and what it survives."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from discovery.simulator.simulator import Simulator
from proxy.control.compose import state
from proxy.link.snapshots import TableSnapshot
from tests.kit.control import RunningControl, control, until

SECRET = "hunter2-of-the-definition"
CONTAINER = {
    "name": "app",
    "image": "anyport/app",
    "memory": 64,
    "essential": True,
    "portMappings": [{"containerPort": 8080, "hostPort": 0}],
    "dockerLabels": {"anyport.health.path": "/"},
    "environment": [{"name": "PASSWORD", "value": SECRET}],
}


def config(simulator: Simulator, cluster: str = "prod") -> str:
    return f"""
[ecs]
clusters = ["{cluster}"]
endpoint_url = "{simulator.url}"
poll_interval_s = 0.5
domain = "test"
[health]
interval_s = 0.5
timeout_s = 0.4
"""


async def a_service(simulator: Simulator, tasks: int) -> None:
    await simulator.add_cluster("prod")
    await simulator.add_instance("prod")
    simulator.call(
        "RegisterTaskDefinition", family="web", networkMode="bridge", containerDefinitions=[CONTAINER]
    )
    simulator.call(
        "CreateService", cluster="prod", serviceName="web", taskDefinition="web", desiredCount=tasks
    )


async def waiting(running: RunningControl, holds: Callable[[TableSnapshot], bool]) -> TableSnapshot:
    # In a thread: the simulator needs this loop meanwhile.
    return await asyncio.to_thread(running.wait_for, holds)


def ready(table: TableSnapshot) -> set[str]:
    return {row.task_arn for row in table.backends if state(row) == "ready"}


async def readyz_when(running: RunningControl, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the first answer of /readyz for which *holds* is true."""
    host, port = running.metrics_address
    found: dict[str, Any] = {}

    def look() -> bool:
        nonlocal found
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/readyz", timeout=5) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                found = json.load(exc)
        return holds(found)

    await asyncio.to_thread(until, look, lambda: f"{found}\n{running.said()}")
    return found


@pytest.mark.asyncio
async def test_it_follows_the_cluster_and_outlives_the_api(tmp_path: Path) -> None:
    running_since_s: dict[str, float] = {}
    async with Simulator(speed=20.0) as simulator:

        def note(_: object) -> None:
            for task in simulator.state.clusters["prod"].tasks.values():
                if task.last_status == "RUNNING":
                    running_since_s.setdefault(task.arn, time.monotonic())

        simulator.subscribe(note)
        with control(tmp_path, config(simulator), environ=simulator.environment) as running:
            await a_service(simulator, tasks=2)
            first = await waiting(running, lambda table: len(ready(table)) == 2)
            assert [(row.name, row.hosts) for row in first.services] == [("web", ("web.test",))]

            simulator.call("UpdateService", cluster="prod", service="web", desiredCount=3)
            table = await waiting(running, lambda table: len(ready(table)) == 3)
            seen_s = time.monotonic()
            (new,) = ready(table) - ready(first)
            assert seen_s - running_since_s[new] < 1.0, "ready within a second of RUNNING"

            simulator.faults.throttle()
            before = running.table.revision
            found = await readyz_when(running, lambda found: bool(found["sources"][0]["error"]))
            error = found["sources"][0]["error"]
            assert "raise poll_interval_s" in error, "an error says what to do"
            assert ready(running.table) == ready(table), "no news is not bad news"
            assert running.table.revision == before
            # No worker beats in this test; the failing source is no reason to be unready.
            assert all(reason.startswith("worker") for reason in found["reasons"])

    said = running.said()
    assert f"web task {new.rpartition('/')[2][:8]} (app:8080) healthy" in said
    assert "Traceback" not in said
    assert SECRET not in said


@pytest.mark.asyncio
async def test_a_missing_cluster_is_said_with_what_there_is(tmp_path: Path) -> None:
    async with Simulator(speed=20.0) as simulator:
        await simulator.add_cluster("prod")
        with control(tmp_path, config(simulator, "prdo"), environ=simulator.environment) as running:
            await waiting(running, lambda table: table.revision > 0)
            found = await readyz_when(running, lambda found: bool(found["sources"][0]["error"]))
            assert not running.table.loaded

    assert not found["ready"]
    assert found["reasons"][0].startswith("table not loaded: ecs:prdo: there is no cluster 'prdo'")
    assert "prod" in found["reasons"][0]
    assert running.said().count("there is no cluster") == 1, "said once, not at every poll"
