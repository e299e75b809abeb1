"""An ECS account without processes: its tasks run as soon as they are launched, and end when stopped."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from discovery.simulator.account import Account
from discovery.simulator.arns import make, new_id
from discovery.simulator.events import Bulletin, Event
from discovery.simulator.operations import OPERATIONS
from discovery.simulator.state import Binding, Instance, State, Task


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class ObedientCrew:
    """Runs and stops tasks on paper. With `patient`, launched tasks stay PROVISIONING."""

    account: Account | None = None
    patient: bool = False
    next_port: int = 32768
    launched: list[Task] = field(default_factory=list)

    def launch(self, task: Task) -> None:
        self.launched.append(task)
        if not self.patient:
            self.run(task)

    def run(self, task: Task) -> None:
        assert self.account is not None
        task.last_status, task.started_at = "RUNNING", self.account.clock()
        for container in task.containers:
            container.last_status, container.runtime_id = "RUNNING", "9125"
            if task.definition.network_mode != "bridge":
                continue
            for mapping in container.definition["portMappings"]:
                first, _, last = str(mapping.get("containerPortRange", "")).partition("-")
                size = int(last) - int(first) + 1 if first else 0
                port = int(first) if first else mapping["containerPort"]
                container.bindings.append(Binding(port, self.next_port, range_size=size))
                self.next_port += max(1, size)
        self.account.task_changed(task)

    def stop(self, task: Task, *, code: str, reason: str) -> None:
        assert self.account is not None
        if task.desired_status == "STOPPED":
            return
        task.desired_status, task.stop_code, task.stopped_reason = "STOPPED", code, reason
        task.stopping_at = self.account.clock()
        self.account.task_changed(task)
        if not self.patient:
            self.end(task)

    def end(self, task: Task) -> None:
        assert self.account is not None
        task.last_status, task.stopped_at = "STOPPED", self.account.clock()
        for container in task.containers:
            container.last_status, container.exit_code = "STOPPED", 0
        self.account.task_changed(task)


@dataclass
class Cloud:
    """The account, with a shorter way to call it."""

    clock: Clock = field(default_factory=Clock)
    crew: ObedientCrew = field(default_factory=ObedientCrew)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.account = Account(
            State("123456789012", "eu-west-1"), self.clock, random.Random(7), self.crew, Bulletin()
        )
        self.crew.account = self.account
        self.account.bulletin.subscribe(self.events.append)

    def call(self, operation: str, **request: Any) -> dict[str, Any]:
        return OPERATIONS[operation](self.account, request)

    def cluster(self, name: str = "prod", instances: int = 3) -> Any:
        self.call("CreateCluster", clusterName=name)
        cluster = self.account.state.clusters[name]
        for number in range(instances):
            arn = make(self.account.state, f"container-instance/{name}/{new_id(self.account.rng)}")
            cluster.instances[arn] = Instance(
                arn=arn,
                ec2_instance_id=f"i-{number:017x}",
                cluster_arn=cluster.arn,
                address=f"127.0.1.{number + 1}",
                zone=f"eu-west-1{'abc'[number % 3]}",
                registered_at=self.clock(),
            )
        return cluster

    def define(self, family: str = "web", **more: Any) -> str:
        container = {"name": "app", "image": "anyport/app", "memory": 64, "essential": True}
        container["portMappings"] = more.pop("portMappings", [{"containerPort": 8080}])
        container.update(more.pop("container", {}))
        answer = self.call("RegisterTaskDefinition", family=family, containerDefinitions=[container], **more)
        return str(answer["taskDefinition"]["taskDefinitionArn"])
