"""A port moves to another service while nobody can say so: the connection itself has to tell."""

from __future__ import annotations

import asyncio
import http.client
from pathlib import Path

import pytest

from discovery.simulator.faults import Fault
from discovery.simulator.ports import PortRange
from discovery.simulator.simulator import Simulator
from tests.kit.anyport import Anyport, free_port
from tests.kit.eventually import eventually


def _define(simulator: Simulator, name: str) -> None:
    """Define a service whose tasks are checked so seldom that a check cannot be what notices."""
    labels = {
        "anyport.host": f"{name}.test",
        "anyport.health.path": "/health",
        "anyport.health.interval": "1m",
        "anyport.health.identity-header": "X-Service",
    }
    simulator.call(
        "RegisterTaskDefinition",
        family=name,
        containerDefinitions=[
            {
                "name": "app", "image": "anyport/app", "memory": 64, "essential": True,
                "portMappings": [{"containerPort": 8080}], "dockerLabels": labels,
                "environment": [{"name": "LINGER_S", "value": "0.05"}],
            }
        ],
    )  # fmt: skip
    simulator.call(
        "CreateService", cluster="demo", serviceName=name, taskDefinition=name,
        desiredCount=0, launchType="EC2",
    )  # fmt: skip


def _answer(port: int, service: str) -> tuple[int, str, str]:
    """Return (status, who answered, error) of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/", headers={"Host": f"{service}.test"})
        response = connection.getresponse()
        response.read()
        return response.status, response.getheader("X-Service", ""), response.getheader("X-Anyport-Error", "")
    finally:
        connection.close()


@pytest.mark.asyncio
@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_while_the_api_hangs_no_request_reaches_the_next_owner_of_a_port(tmp_path: Path) -> None:
    port = free_port()
    async with Simulator(speed=10, throttling=False, ports=PortRange(port, port)) as simulator:
        await simulator.add_cluster("demo")
        await simulator.add_instance("demo")
        for name in ("a", "b"):
            _define(simulator, name)
        config = (
            f'[ecs]\nclusters = ["demo"]\npoll_interval_s = 0.5\nendpoint_url = "{simulator.url}"\n'
            "[timeouts]\nupstream_idle_s = 0.1\n"
        )

        def running(name: str) -> int:
            tasks = simulator.state.clusters["demo"].tasks.values()
            return sum(t.group == f"service:{name}" and t.last_status == "RUNNING" for t in tasks)

        with Anyport(tmp_path, config, workers=1, environ=simulator.environment) as anyport:

            async def answers(service: str) -> bool:
                try:
                    return (await asyncio.to_thread(_answer, anyport.port, service))[1] == service
                except OSError:
                    return False

            simulator.call("UpdateService", cluster="demo", service="a", desiredCount=1)
            await eventually(lambda: answers("a"), within_s=30)

            simulator.faults.add(Fault(kind="hang"))
            simulator.call("UpdateService", cluster="demo", service="a", desiredCount=0)
            await eventually(lambda: running("a") == 0, within_s=20)
            simulator.call("UpdateService", cluster="demo", service="b", desiredCount=1)
            await eventually(lambda: running("b") == 1, within_s=20)
            await eventually(lambda: _age_s(anyport) > 6.0, within_s=30)

            found = {await asyncio.to_thread(_answer, anyport.port, "a") for _ in range(20)}
            assert {status for status, _, _ in found} == {503}
            assert {who for _, who, _ in found} == {""}
            assert any("identity_mismatch" in error for _, _, error in found)
            (row,) = await asyncio.to_thread(anyport.table)
            assert (row["service"], row["state"]) == ("a", "down")
            assert row["reason"] == 'identity mismatch: answered as "b"'

            simulator.faults.clear()
            await eventually(lambda: answers("b"), within_s=30)
    assert anyport.log.count('identity mismatch: answered as "b"') >= 1


def _age_s(anyport: Anyport) -> float:
    """Return how old the knowledge of the cluster is."""
    name = 'anyport_discovery_age_seconds{source="ecs:demo"} '
    lines = anyport.metrics().splitlines()
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0.0)
