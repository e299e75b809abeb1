"""Three real anyports as a daemon service of the embedded cluster: one asks the API, and may be killed."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from discovery.simulator.simulator import Simulator
from discovery.simulator.state import Task
from tests.kit.eventually import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
log = logging.getLogger(__name__)  # --log-cli-level=info shows what was measured

POLL_S = 2.0
FRESH_WITHIN_S = 5.0
KEY = "0123456789abcdef0123456789abcdef"


class _User(threading.Thread):
    """Asks one proxy without a pause."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.tasks: set[str] = set()
        self.answered = 0
        self.failures: list[object] = []
        self._address = address
        self._over = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=20)
        while not self._over.wait(0.005):
            try:
                connection.request("GET", "/", headers={"Host": "web.test"})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as exc:
                connection.close()
                self.failures.append(exc)
                continue
            if response.status != 200:
                self.failures.append((response.status, response.getheader("X-Anyport-Error")))
            self.answered += 1
            self.tasks.add(response.getheader("X-Task") or "")
        connection.close()

    def stop(self) -> None:
        self._over.set()
        if self.ident is not None:
            self.join(30)


class _Proxy:
    """One anyport that is a task."""

    def __init__(self, task: Task) -> None:
        self.arn = task.arn
        assert task.instance is not None
        ports = {binding.container_port: binding.host_port for binding in task.containers[0].bindings}
        self.web = (task.instance.address, ports[8080])
        self.metrics = (task.instance.address, ports[9180])

    def readyz(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(
                f"http://{self.metrics[0]}:{self.metrics[1]}/readyz", timeout=5
            ) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as answer:
            with answer:
                return dict(json.load(answer))
        except OSError:
            return {}

    def source(self) -> dict[str, Any]:
        sources = self.readyz().get("sources") or [{}]
        return dict(sources[0])

    def drained(self, task_arn: str) -> dict[str, Any]:
        url = f"http://{self.metrics[0]}:{self.metrics[1]}/drained?task={task_arn}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return dict(json.load(answer))

    @property
    def role(self) -> str:
        return str(self.source().get("fleet", {}).get("role", ""))

    def ready(self, tasks: int) -> bool:
        found = self.readyz()
        return bool(found.get("ready")) and found["table"]["backends"].get("ready") == tasks


def _serve_web(simulator: Simulator) -> None:
    container = {
        "name": "app",
        "image": "anyport/app",
        "memory": 64,
        "essential": True,
        "portMappings": [{"containerPort": 8080}],
        "environment": [{"name": "LINGER_S", "value": "1"}],
    }
    simulator.call("RegisterTaskDefinition", family="web", containerDefinitions=[container])
    simulator.call(
        "CreateService", cluster="demo", serviceName="web", taskDefinition="web", desiredCount=3,
        launchType="EC2",
    )  # fmt: skip


def _serve_anyport(simulator: Simulator) -> None:
    environment = {
        **simulator.environment,
        "ANYPORT_WORKERS": "1",
        "ANYPORT_ADMIN__ADDRESS": "127.0.0.1:0",
        "ANYPORT_TIMEOUTS__LB_DRAIN_S": "0",
        "ANYPORT_ECS__CLUSTERS": "demo",
        "ANYPORT_ECS__DOMAIN": "test",
        "ANYPORT_ECS__ENDPOINT_URL": simulator.url,
        "ANYPORT_ECS__POLL_INTERVAL_S": str(POLL_S),
        "ANYPORT_ECS__AGENT": "off",
        "ANYPORT_HEALTH__PATH": "/health",
        "ANYPORT_HEALTH__INTERVAL_S": "1.0",
        "ANYPORT_HEALTH__TIMEOUT_S": "1.0",
        "ANYPORT_FLEET__KEY": KEY,
        "ANYPORT_FLEET__PORT": "9180",  # in the container; the process itself is given another port here
    }
    # Two container ports stand for what docker would lead to the two listeners.
    line = (
        "ANYPORT_LISTENER__0__ADDRESS=127.0.0.1:$PORT_8080 ANYPORT_METRICS__ADDRESS=0.0.0.0:$PORT_9180 "
        f"exec {sys.executable} -m proxy run"
    )
    container = {
        "name": "anyport",
        "image": "anyport",
        "memory": 64,
        "essential": True,
        "command": [line],
        "portMappings": [{"containerPort": 8080}, {"containerPort": 9180}],
        "environment": [{"name": name, "value": value} for name, value in environment.items()],
    }
    simulator.call("RegisterTaskDefinition", family="anyport", containerDefinitions=[container])
    simulator.call(
        "CreateService", cluster="demo", serviceName="anyport", taskDefinition="anyport",
        schedulingStrategy="DAEMON", launchType="EC2",
    )  # fmt: skip


def _proxies(simulator: Simulator) -> list[_Proxy]:
    tasks = simulator.state.clusters["demo"].tasks.values()
    return [
        _Proxy(task)
        for task in tasks
        if task.group == "service:anyport" and task.last_status == task.desired_status == "RUNNING"
    ]


@pytest.mark.asyncio
async def test_the_leader_is_killed_under_load() -> None:
    async with Simulator(speed=10, throttling=False) as simulator:
        await simulator.add_cluster("demo")
        for _ in range(3):
            await simulator.add_instance("demo")
        _serve_web(simulator)
        _serve_anyport(simulator)
        await eventually(lambda: len(_proxies(simulator)) == 3, within_s=60)
        proxies = _proxies(simulator)

        async def settled() -> bool:
            found = await asyncio.gather(
                *(asyncio.to_thread(proxy.ready, 3) for proxy in proxies),
                *(asyncio.to_thread(lambda p=proxy: p.role) for proxy in proxies),
            )
            return all(found[:3]) and sorted(found[3:]) == ["follows", "follows", "leads"]

        await eventually(settled, within_s=60)
        (leader,) = [proxy for proxy in proxies if proxy.role == "leads"]
        others = [proxy for proxy in proxies if proxy is not leader]
        users = [_User(proxy.web) for proxy in others for _ in range(2)]
        try:
            for user in users:
                user.start()
            await eventually(lambda: all(len(user.tasks) == 3 for user in users), within_s=20)

            await simulator.kill_task(leader.arn)
            killed_s = time.monotonic()
            fresh_s: dict[str, float] = {}

            async def fresh() -> bool:
                for proxy in others:
                    source = await asyncio.to_thread(proxy.source)
                    since_s = time.monotonic() - killed_s
                    if source.get("age_s", since_s) < since_s:
                        fresh_s.setdefault(proxy.arn, since_s)
                return len(fresh_s) == 2

            await eventually(fresh, within_s=30)
            log.info("fresh again after %s s", sorted(round(taken, 2) for taken in fresh_s.values()))
            simulator.call("UpdateService", cluster="demo", service="web", desiredCount=4)
            await eventually(lambda: all(len(user.tasks) == 4 for user in users), within_s=30)
            assert sorted(proxy.role for proxy in others) == ["follows", "leads"]

            # ECS starts another one in its place, the youngest: it follows.
            await eventually(lambda: len(_proxies(simulator)) == 3, within_s=60)
            (new,) = [p for p in _proxies(simulator) if p.arn not in {proxy.arn for proxy in proxies}]
            await eventually(lambda: new.ready(4) and new.role == "follows", within_s=60)

            # Each of them knows of the others, and what they say: nobody sends this task anything new.
            web = next(t for t in simulator.state.clusters["demo"].tasks.values() if t.group == "service:web")
            assert new.drained(web.arn)["drained"] is False
            simulator.call("StopTask", cluster="demo", task=web.arn)
            await eventually(lambda: new.drained(web.arn)["drained"], within_s=30)
            answer = new.drained(web.arn)
            assert (answer["proxies"], answer["acknowledged"]) == (3, 3)
        finally:
            for user in users:
                user.stop()

    assert [failure for user in users for failure in user.failures] == []
    assert all(user.answered > 50 for user in users)
    assert max(fresh_s.values()) < FRESH_WITHIN_S
