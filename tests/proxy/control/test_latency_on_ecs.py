"""What /metrics says of starts and stops, against a clock that looks on from outside."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from discovery.simulator.simulator import Simulator
from proxy.control.compose import state
from proxy.link import scoreboard
from proxy.link.snapshots import TableSnapshot
from tests.kit.control import RunningControl, control, until
from tests.kit.eventually import eventually
from tests.proxy.control.test_control_on_ecs import a_service, config

# Both clocks look for the acknowledgement some milliseconds apart; the rest is for a busy machine.
MARGIN_S = 0.05 + 0.45
LATE_S = 1.5  # what ECS says is as old


def measured(running: RunningControl, name: str) -> tuple[float, float]:
    """Return count and sum of a histogram."""
    host, port = running.metrics_address
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=5) as answer:
        found = {family.name: family for family in parse(answer.read().decode())}
    samples = {sample.name: sample.value for sample in found[name].samples}
    return samples[f"{name}_count"], samples[f"{name}_sum"]


def all_have(running: RunningControl, holds: Callable[[TableSnapshot], bool]) -> float:
    """Return the time (Unix) at which all workers had the first table for which *holds* is true."""
    wanted = running.wait_for(holds).revision

    def taken() -> bool:
        running.receive(running.links[0])
        return all(head[scoreboard.REVISION] >= wanted for head in running.board.heads())

    until(taken)
    return time.time()


def counted(running: RunningControl, name: str, count: int) -> float:
    """Return the sum once *count* have been counted; workers go on taking tables meanwhile."""

    def look() -> bool:
        running.receive(running.links[0])
        return measured(running, name)[0] >= count

    until(look, lambda: f"{measured(running, name)}\n{running.said()}")
    return measured(running, name)[1]


def ready(table: TableSnapshot) -> int:
    return sum(state(row) == "ready" for row in table.backends)


@pytest.mark.asyncio
async def test_starts_and_stops_take_as_long_as_they_take(tmp_path: Path) -> None:
    starts, stops = "anyport_task_start_to_routable_seconds", "anyport_task_stop_to_quiet_seconds"
    async with Simulator(speed=20.0) as simulator:
        await a_service(simulator, tasks=1)
        tasks = simulator.state.clusters["prod"].tasks
        await eventually(lambda: any(task.last_status == "RUNNING" for task in tasks.values()))
        (old,) = tasks
        with control(tmp_path, config(simulator), environ=simulator.environment) as running:
            await asyncio.to_thread(all_have, running, lambda table: table.loaded and ready(table) == 1)

            simulator.faults.stale(LATE_S)  # so that there is something to measure
            simulator.call("UpdateService", cluster="prod", service="web", desiredCount=2)
            at_s = await asyncio.to_thread(all_have, running, lambda table: ready(table) == 2)
            (new,) = tasks.keys() - {old}
            took_s = at_s - tasks[new].started_at
            assert took_s > LATE_S
            said_s = await asyncio.to_thread(counted, running, starts, 1)
            assert said_s == pytest.approx(took_s, abs=MARGIN_S)
            assert (await asyncio.to_thread(measured, running, starts))[0] == 1, "not the old one"

            simulator.call("StopTask", cluster="prod", task=old)
            stopped_s = tasks[old].stopping_at
            at_s = await asyncio.to_thread(
                all_have,
                running,
                lambda table: all(state(row) != "ready" for row in table.backends if row.task_arn == old),
            )
            said_s = await asyncio.to_thread(counted, running, stops, 1)
            assert said_s == pytest.approx(at_s - stopped_s, abs=MARGIN_S)
