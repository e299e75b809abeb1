"""Rolling deploys under load of a server that exits at once on SIGTERM: with `anyport linger`, without it."""

from __future__ import annotations

import http.client
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from discovery.simulator.simulator import Simulator
from tests.kit.anyport import Anyport
from tests.kit.eventually import eventually

TASKS = 3
DEPLOYS = 2
LINGER = ("-m", "proxy", "linger", "--deadline", "8s", "--settle", "500ms")


class _User(threading.Thread):
    """Posts without a pause: a request that may have reached a task is not repeated by anybody."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.releases: set[str] = set()
        self.answered = 0
        self.failures: list[object] = []
        self._port = port
        self._over = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        while not self._over.wait(0.001):
            try:
                connection.request("POST", "/echo", body=b"hello", headers={"Host": "web.test"})
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as exc:
                connection.close()
                self.failures.append(exc)
                continue
            if response.status != 200 or body != b"hello":
                self.failures.append((response.status, response.getheader("X-Anyport-Error")))
                continue
            self.answered += 1
            self.releases.add(response.getheader("X-Release", ""))
        connection.close()

    def stop(self) -> None:
        self._over.set()
        if self.ident is not None:
            self.join(30)


def _define(simulator: Simulator, release: int, how: str, proxy_url: str) -> None:
    environment = {"STOP": "instant", "RELEASE": str(release)}
    app: dict[str, Any] = {
        "name": "app",
        "image": "anyport/app",
        "memory": 64,
        "essential": True,
        "portMappings": [{"containerPort": 8080}],
        "stopTimeout": 120,
    }
    containers = [app]
    if how == "sidecar":
        containers.append(
            {
                "name": "linger",
                "image": "anyport",
                "memory": 32,
                "essential": False,
                "command": [sys.executable, *LINGER],
                "environment": [{"name": "ANYPORT_URL", "value": proxy_url}],
                "dependsOn": [{"containerName": "app", "condition": "START"}],
                "stopTimeout": 120,
            }
        )
    elif how == "wrapper":
        # Docker signals process 1 alone, the simulator a whole process group: hence a session of its own.
        app["command"] = [
            sys.executable, *LINGER, "--", "setsid", sys.executable, "-m", "discovery.simulator.app",
        ]  # fmt: skip
        environment |= {"ANYPORT_URL": proxy_url, "HOST": "127.0.0.1"}
    app["environment"] = [{"name": name, "value": value} for name, value in environment.items()]
    simulator.call("RegisterTaskDefinition", family="web", containerDefinitions=containers)


async def _deploys(tmp_path: Path, how: str) -> list[_User]:
    """Roll the service over a few times; return the users and what they met."""
    ready = 0  # a task that is stopped while its linger starts is not held

    def output(_name: str, line: str) -> None:
        nonlocal ready
        ready += "anyport linger: ready" in line

    async with Simulator(speed=10, throttling=False, on_output=output) as simulator:
        await simulator.add_cluster("demo")
        for _ in range(2):
            await simulator.add_instance("demo")
        config = (
            f'[ecs]\nclusters = ["demo"]\ndomain = "test"\npoll_interval_s = 0.5\n'
            f'endpoint_url = "{simulator.url}"\n[health]\npath = "/health"\ninterval_s = 0.5\n'
            "timeout_s = 0.5\n[fleet]\nalone = true\n"
        )
        anyport = Anyport(tmp_path, config, workers=2, environ=simulator.environment)
        proxy_url = f"http://127.0.0.1:{anyport.metrics_port}"
        _define(simulator, 0, how, proxy_url)
        simulator.call(
            "CreateService", cluster="demo", serviceName="web", taskDefinition="web", desiredCount=TASKS,
            launchType="EC2",
        )  # fmt: skip
        service = simulator.state.clusters["demo"].services["web"]

        def settled() -> bool:
            tasks = [
                task
                for task in simulator.state.clusters["demo"].tasks.values()
                if task.last_status != "STOPPED"
            ]
            return (
                len(tasks) == TASKS
                and all(task.last_status == "RUNNING" for task in tasks)
                and len(service.deployments) == 1
            )

        users = [_User(anyport.port) for _ in range(4)]
        with anyport:
            try:
                await eventually(settled, within_s=30)
                await eventually(anyport.ready, within_s=30)
                await eventually(
                    lambda: [row["state"] for row in anyport.table()] == ["ready"] * TASKS, within_s=30
                )
                for user in users:
                    user.start()
                for release in range(1, DEPLOYS + 1):
                    if how != "nothing":
                        await eventually(lambda r=release: ready == r * TASKS, within_s=30)
                    _define(simulator, release, how, proxy_url)
                    simulator.call("UpdateService", cluster="demo", service="web", taskDefinition="web")
                    await eventually(
                        lambda r=str(release): all(r in user.releases for user in users), within_s=60
                    )
                    await eventually(settled, within_s=60)
            finally:
                for user in users:
                    user.stop()
    return users


@pytest.mark.asyncio
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["sidecar", "wrapper"])
async def test_with_linger_no_request_fails_in_a_rolling_deploy(tmp_path: Path, how: str) -> None:
    users = await _deploys(tmp_path, how)
    assert [failure for user in users for failure in user.failures] == []
    assert sum(user.answered for user in users) > 100


@pytest.mark.asyncio
@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_without_linger_requests_fail_in_a_rolling_deploy(tmp_path: Path) -> None:
    """What makes the tests above mean something."""
    users = await _deploys(tmp_path, "nothing")
    assert [failure for user in users for failure in user.failures]
