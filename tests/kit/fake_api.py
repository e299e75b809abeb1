"""An ECS API in memory, which a test changes between two questions; answers are the API's own JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from discovery.ecs.aws.queries import Described, Json
from discovery.model import DiscoveryError
from tests.kit import ecs_json as ecs


class FakeApi:
    """One cluster. `errors` are raised one by one, each by the next call of that name."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.asked: list[tuple[str, object]] = []
        self.tasks: dict[str, Json] = {}
        self.listed: list[str] | None = None  # None: those that are meant to run
        self.instances = {ecs.instance_arn(n): ecs.instance(n) for n in (1, 2)}
        self.counted: dict[str, int] = {}  # tasks of an instance (ARN), if others than there are
        self.addresses = {ecs.ec2_id(1): "10.0.1.5", ecs.ec2_id(2): "10.0.2.5"}
        self.definitions: dict[str, Json] = {ecs.definition_arn("web:42"): ecs.definition()}
        self.services: dict[str, int] = {}  # tasks of an ECS service, if others than there are
        self.errors: list[tuple[str, DiscoveryError]] = []

    def close(self) -> None:
        """There are no connections."""

    def put(self, *tasks: dict[str, Any]) -> None:
        """Have these tasks, in the place of others of the same ARN."""
        self.tasks |= {task["taskArn"]: task for task in tasks}

    def ask(self, operation: str, about: object = None) -> None:
        """Count a call, or fail."""
        self.calls[operation] += 1
        self.asked.append((operation, about))
        if self.errors and self.errors[0][0] == operation:
            raise self.errors.pop(0)[1]

    async def task_pages(
        self,
        cluster: str,
        *,
        desired_status: str = "RUNNING",
        instance: str = "",
        service: str = "",
        launch_type: str = "",
    ) -> AsyncGenerator[list[str], None]:
        self.ask("ListTasks", instance or service or launch_type or desired_status)
        if self.listed is not None:
            yield list(self.listed) if desired_status == "RUNNING" else []
            return
        found = [
            arn
            for arn, task in self.tasks.items()
            if task["desiredStatus"] == desired_status
            and (not instance or task.get("containerInstanceArn") == instance)
            and (not service or task["group"] == f"service:{service}")
            and (not launch_type or task["launchType"] == launch_type)
        ]
        for start in range(0, max(1, len(found)), 100):
            yield found[start : start + 100]
            if start + 100 < len(found):
                self.ask("ListTasks")

    async def list_tasks(self, cluster: str, *, desired_status: str = "RUNNING") -> list[str]:
        pages = [page async for page in self.task_pages(cluster, desired_status=desired_status)]
        return [arn for page in pages for arn in page]

    async def describe_tasks(self, cluster: str, arns: Sequence[str]) -> Described:
        if arns:
            self.ask("DescribeTasks", sorted(arns))
        return _described(self.tasks, arns)

    async def list_container_instances(self, cluster: str) -> list[str]:
        self.ask("ListContainerInstances")
        return list(self.instances)

    async def describe_container_instances(self, cluster: str, arns: Sequence[str]) -> Described:
        self.ask("DescribeContainerInstances", sorted(arns))
        return _described({arn: self._counted(arn) for arn in self.instances}, arns)

    def _counted(self, arn: str) -> Json:
        here = [task for task in self.tasks.values() if task.get("containerInstanceArn") == arn]
        running = sum(task["lastStatus"] == "RUNNING" for task in here)
        pending = sum(task["lastStatus"] == "PENDING" for task in here)
        return {
            "runningTasksCount": self.counted.get(arn, running),
            "pendingTasksCount": pending,
            **self.instances[arn],
        }

    async def describe_services(self, cluster: str, names: Sequence[str]) -> Described:
        self.ask("DescribeServices", sorted(names))
        running = Counter(
            task["group"].removeprefix("service:")
            for task in self.tasks.values()
            if task["lastStatus"] == "RUNNING"
        )
        known = {
            name: {
                "serviceName": name,
                "runningCount": self.services.get(name, running[name]),
                "pendingCount": 0,
            }
            for name in names
        }
        return _described(known, names)

    async def describe_task_definition(self, arn: str) -> Json:
        self.ask("DescribeTaskDefinition", arn)
        return self.definitions[arn]

    async def instance_addresses(self, ec2_ids: Sequence[str]) -> dict[str, str]:
        self.ask("DescribeInstances", sorted(ec2_ids))
        return {one: self.addresses[one] for one in ec2_ids if one in self.addresses}


def _described(known: dict[str, Any], arns: Sequence[str]) -> Described:
    unique = list(dict.fromkeys(arns))
    return Described([known[a] for a in unique if a in known], [a for a in unique if a not in known])
