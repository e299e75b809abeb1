"""A start while ECS does not answer: the table that was kept on disk serves at once."""

from __future__ import annotations

import http.client
import time
from pathlib import Path

import pytest

from discovery.simulator.faults import Fault
from discovery.simulator.simulator import Simulator
from tests.kit.anyport import Anyport
from tests.kit.eventually import eventually

pytestmark = pytest.mark.timeout(120)
TASKS = 3


def _ask(port: int) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/", headers={"Host": "web.test"})
        response = connection.getresponse()
        response.read()
        return response.status, response.getheader("X-Task") or ""
    except OSError:
        return 0, ""
    finally:
        connection.close()


async def _cluster(simulator: Simulator) -> None:
    await simulator.add_cluster("demo")
    for _ in range(2):
        await simulator.add_instance("demo")
    container = {
        "name": "app",
        "image": "anyport/app",
        "memory": 64,
        "essential": True,
        "portMappings": [{"containerPort": 8080}],
        "environment": [{"name": "PASSWORD", "value": "hunter2"}, {"name": "LINGER_S", "value": "0"}],
    }
    simulator.call("RegisterTaskDefinition", family="web", containerDefinitions=[container])
    simulator.call(
        "CreateService", cluster="demo", serviceName="web", taskDefinition="web", desiredCount=TASKS,
        launchType="EC2",
    )  # fmt: skip


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["hang", "error"])
async def test_a_restart_during_an_outage_of_ecs_serves_at_once(kind: str, tmp_path: Path) -> None:
    async with Simulator(speed=10, throttling=False) as simulator:
        await _cluster(simulator)
        state = tmp_path / "state"
        config = (
            f'[ecs]\nclusters = ["demo"]\ndomain = "test"\npoll_interval_s = 0.5\ncall_timeout_s = 2.0\n'
            f'endpoint_url = "{simulator.url}"\nagent = "off"\n[health]\ninterval_s = 1.0\n'
            f'timeout_s = 1.0\npath = "/health"\n[state]\npath = "{state}"\n'
        )
        anyport = Anyport(tmp_path, config, workers=1, environ=simulator.environment)
        with anyport:
            await eventually(lambda: len(anyport.table()) == TASKS if anyport.ready() else False, within_s=30)
            await eventually(lambda: {row["state"] for row in anyport.table()} == {"ready"}, within_s=20)
            await eventually(lambda: any(state.glob("*.kept")), within_s=20)
        kept = next(state.glob("*.kept"))
        assert kept.stat().st_mode & 0o777 == 0o600
        (gone, *_) = simulator.state.clusters["demo"].tasks.values()

        simulator.faults.add(Fault(kind=kind))
        began_s = time.monotonic()
        with anyport:
            await eventually(lambda: _ask(anyport.port)[0] == 200, within_s=30)
            assert time.monotonic() - began_s < 20, "a start takes two seconds or three"
            assert anyport.readyz()["ready"] is True
            assert len(anyport.table()) == TASKS
            told = {told["by"] for row in anyport.table() for told in row.get("told", ())}
            assert told <= {"disk"}

            simulator.faults.clear()
            simulator.call("StopTask", cluster="demo", task=gone.arn)
            await eventually(
                lambda: (
                    len({row["task_arn"] for row in anyport.table() if row["state"] == "ready"} - {gone.arn})
                    == TASKS
                ),
                within_s=60,
            )
            assert "hunter2" not in anyport.log
            assert "Traceback" not in anyport.log


@pytest.mark.asyncio
async def test_a_file_that_is_not_to_be_believed_is_set_aside_and_all_goes_on(tmp_path: Path) -> None:
    async with Simulator(speed=10, throttling=False) as simulator:
        await _cluster(simulator)
        state = tmp_path / "state"
        config = (
            f'[ecs]\nclusters = ["demo"]\ndomain = "test"\npoll_interval_s = 0.5\n'
            f'endpoint_url = "{simulator.url}"\nagent = "off"\n[state]\npath = "{state}"\n'
        )
        anyport = Anyport(tmp_path, config, workers=1, environ=simulator.environment)
        with anyport:
            await eventually(lambda: any(state.glob("*.kept")), within_s=30)
        kept = next(state.glob("*.kept"))
        kept.write_bytes(kept.read_bytes()[:-5])

        with anyport:
            await eventually(lambda: len(anyport.table()) == TASKS if anyport.ready() else False, within_s=30)
            assert "was not used: it has" in anyport.log
            assert "Traceback" not in anyport.log
        assert list(state.glob("*.kept.bad-*"))
