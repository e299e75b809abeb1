"""The demo's cluster: done to through boto3, as an operator would, and seen through the simulator's state."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import boto3
from botocore.client import BaseClient
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError

from discovery.simulator.simulator import Simulator
from discovery.simulator.state import Instance, Task
from proxy.demo import specs
from proxy.demo.checks import Address
from proxy.demo.story import StepError
from proxy.demo.table import Row, ready
from proxy.demo.tally import Kill

NAME: Final = "demo"
INSTANCES: Final = 3
_GONE_AFTER_S: Final = 0.25  # a signal sent is a process dead, even on a busy machine


class DemoCluster:
    """Three container instances in three zones, and the services of *wanted*."""

    def __init__(
        self,
        simulator: Simulator,
        wanted: Sequence[specs.Spec],
        *,
        table: Callable[[], Sequence[Row]],
        on_kill: Callable[[Kill], None],
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._simulator = simulator
        self._specs = {spec.name: spec for spec in wanted}
        self._releases = dict.fromkeys(self._specs, 0)
        self._instances: list[Instance] = []
        self._table, self._on_kill, self._rng, self._clock = table, on_kill, rng, clock
        self._ecs: Any = None

    @property
    def base(self) -> Mapping[str, int]:
        return {name: spec.tasks for name, spec in self._specs.items()}

    async def create(self) -> None:
        """Make the cluster, its instances and its services; tasks start right after."""
        await self._simulator.add_cluster(NAME)
        region = self._simulator.environment["AWS_REGION"]
        for letter in "abc"[:INSTANCES]:
            self._instances.append(await self._simulator.add_instance(NAME, zone=region + letter))
        self._ecs = await asyncio.to_thread(_client, self._simulator)
        for spec in self._specs.values():
            arn = await self._register(spec)
            await self._call("create_service", cluster=NAME, **specs.service(spec, arn))

    async def scale(self, service: str, count: int) -> None:
        await self._call("update_service", cluster=NAME, service=service, desiredCount=count)

    async def deploy(self, service: str) -> int:
        arn = await self._register(self._specs[service])
        await self._call("update_service", cluster=NAME, service=service, taskDefinition=arn)
        return self._releases[service]

    async def kill(self, service: str) -> str:
        victims = sorted(ready(self._table(), service) & self.tasks(service))
        if len(victims) < 2:
            return ""
        arn = self._rng.choice(victims)
        kill = Kill(service=service, task_arn=arn, started_s=self._clock())
        self._on_kill(kill)
        await self._simulator.kill_task(arn)
        kill.ended_s = self._clock() + _GONE_AFTER_S
        return arn.rsplit("/", 1)[-1][:8]

    async def drain(self, instance: int) -> str:
        await self._set_state(instance, "DRAINING")
        return self._instances[instance].ec2_instance_id

    async def activate(self, instance: int) -> None:
        await self._set_state(instance, "ACTIVE")

    def tasks(self, service: str) -> frozenset[str]:
        return frozenset(task.arn for task in self._wanted_tasks(service))

    def settled(self, service: str) -> bool:
        record = self._simulator.state.clusters[NAME].services[service]
        newest = next(d.definition.arn for d in record.deployments if d.status == "PRIMARY")
        tasks = self._wanted_tasks(service)
        return (
            len(tasks) == record.desired_count
            and all(task.last_status == "RUNNING" and task.definition.arn == newest for task in tasks)
            and ready(self._table(), service) == {task.arn for task in tasks}
        )

    def unchecked(self) -> list[Address]:
        """Return the running tasks whose container health check has not yet succeeded."""
        return [
            Address(task.arn, task.instance.address, binding.host_port)
            for name in self._specs
            for task in self._wanted_tasks(name)
            if task.last_status == "RUNNING" and task.instance is not None
            for container in task.containers
            if "healthCheck" in container.definition and container.health_status == "UNKNOWN"
            for binding in container.bindings
        ]

    def say_healthy(self, task_arn: str) -> None:
        self._simulator.set_health(task_arn, "HEALTHY")

    def is_empty(self, instance: int) -> bool:
        here = self._instances[instance].arn
        return not any(
            task.instance is not None and task.instance.arn == here
            for name in self._specs
            for task in self._wanted_tasks(name)
        )

    def release_of(self, task_arn: str) -> str:
        """Return the release of a task as a person would say it, "web:3"; "" if it is unknown."""
        task = self._simulator.state.clusters[NAME].tasks.get(task_arn)
        return f"{task.definition.family}:{task.definition.revision}" if task is not None else ""

    def troubles(self) -> list[str]:
        """Return a line for each task that stopped, with ECS's reason, for when the start fails."""
        tasks = self._simulator.state.clusters[NAME].tasks.values()
        return [
            f"  {t.group} task {t.arn.rsplit('/', 1)[-1][:8]}: {t.last_status} {t.stopped_reason}".rstrip()
            for t in tasks
            if t.last_status != "RUNNING"
        ]

    def _wanted_tasks(self, service: str) -> list[Task]:
        tasks = self._simulator.state.clusters[NAME].tasks.values()
        return [t for t in tasks if t.group == f"service:{service}" and t.desired_status == "RUNNING"]

    async def _register(self, spec: specs.Spec) -> str:
        self._releases[spec.name] += 1
        wanted = specs.task_definition(spec, self._releases[spec.name])
        answer = await self._call("register_task_definition", **wanted)
        return str(answer["taskDefinition"]["taskDefinitionArn"])

    async def _set_state(self, instance: int, status: str) -> None:
        arn = self._instances[instance].arn
        await self._call(
            "update_container_instances_state", cluster=NAME, containerInstances=[arn], status=status
        )

    async def _call(self, operation: str, **wanted: object) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await asyncio.to_thread(getattr(self._ecs, operation), **wanted)
        except (BotoCoreError, ClientError) as exc:
            raise StepError(f"{operation}: {exc}") from exc
        return answer


def _client(simulator: Simulator) -> BaseClient:
    keys = simulator.environment
    return boto3.client(
        "ecs",
        endpoint_url=simulator.url,
        region_name=keys["AWS_REGION"],
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        config=BotoConfig(retries={"mode": "standard", "max_attempts": 5}),
    )
