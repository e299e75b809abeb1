"""ECS gives a dead task's host port to the next one within seconds, often of another service."""

from __future__ import annotations

import http.client
import threading
from pathlib import Path
from typing import Any

import pytest

from discovery.simulator.ports import PortRange
from discovery.simulator.simulator import Simulator
from tests.kit.anyport import Anyport, free_port
from tests.kit.eventually import eventually

ROUNDS = 100


class _User(threading.Thread):
    """Asks for one service without a pause and keeps who answered: its own service, another one, nobody."""

    def __init__(self, port: int, service: str) -> None:
        super().__init__(daemon=True)
        self.service = service
        self.own = 0
        self.strangers: list[str] = []
        self.without_identity: list[int] = []
        self._port = port
        self._over = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        while not self._over.wait(0.002):
            try:
                connection.request("GET", "/", headers={"Host": f"{self.service}.test"})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                continue
            owner = response.getheader("X-Service")
            if owner == self.service:
                self.own += 1
            elif owner is not None:
                self.strangers.append(owner)
            elif response.status < 500:
                self.without_identity.append(response.status)
        connection.close()

    def stop(self) -> None:
        self._over.set()
        self.join(30)


def _define(simulator: Simulator, name: str) -> None:
    simulator.call(
        "RegisterTaskDefinition",
        family=name,
        containerDefinitions=[
            {
                "name": "app",
                "image": "anyport/app",
                "memory": 64,
                "essential": True,
                "portMappings": [{"containerPort": 8080}],
                "dockerLabels": {
                    "anyport.host": f"{name}.test",
                    "anyport.health.path": "/health",
                    "anyport.health.interval": "0.5s",
                    "anyport.health.timeout": "0.4s",
                },
                "environment": [{"name": "LINGER_S", "value": "0.05"}],
            }
        ],
    )
    simulator.call(
        "CreateService",
        cluster="demo",
        serviceName=name,
        taskDefinition=name,
        desiredCount=0,
        launchType="EC2",
    )


def _running(simulator: Simulator, name: str) -> list[Any]:
    tasks = simulator.state.clusters["demo"].tasks.values()
    return [t for t in tasks if t.group == f"service:{name}" and t.last_status != "STOPPED"]


@pytest.mark.asyncio
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("end", "poll_s"), [("stopped", 0.5), ("killed", 1.0)])
async def test_no_request_for_one_service_reaches_the_next_owner_of_its_port(
    tmp_path: Path, end: str, poll_s: float
) -> None:
    """100 times in all a task ends and the very next one on its host port belongs to the other service.

    The next one listens after a fifth of a second, so the poll alone is too slow: the refused connection
    in between has to take the dead task out.
    """
    port = free_port()
    async with Simulator(speed=10, throttling=False, ports=PortRange(port, port)) as simulator:
        await simulator.add_cluster("demo")
        await simulator.add_instance("demo")
        for name in ("a", "b"):
            _define(simulator, name)
        config = f'[ecs]\nclusters = ["demo"]\npoll_interval_s = {poll_s}\nendpoint_url = "{simulator.url}"\n'
        with Anyport(tmp_path, config, workers=1, environ=simulator.environment) as anyport:
            users = {name: _User(anyport.port, name) for name in ("a", "b")}
            for user in users.values():
                user.start()
            try:
                for turn in range(ROUNDS // 2):
                    name = "ab"[turn % 2]
                    simulator.call("UpdateService", cluster="demo", service=name, desiredCount=1)
                    before = users[name].own
                    await eventually(lambda n=name, b=before: users[n].own > b, within_s=20)
                    (task,) = _running(simulator, name)
                    assert task.containers[0].bindings[0].host_port == port
                    simulator.call("UpdateService", cluster="demo", service=name, desiredCount=0)
                    if end == "killed":
                        await simulator.kill_task(task.arn)
                    await eventually(lambda n=name: not _running(simulator, n), within_s=20)
            finally:
                for user in users.values():
                    user.stop()

    assert not users["a"].strangers
    assert not users["b"].strangers
    assert not users["a"].without_identity
    assert min(users["a"].own, users["b"].own) >= ROUNDS // 4
