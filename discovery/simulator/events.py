"""What changed, as it is told to listeners and, in the shape of "Amazon ECS events", to EventBridge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from discovery.simulator.arns import service_of, short
from discovery.simulator.state import Cluster, Deployment, Instance, Service, Task
from discovery.simulator.wire import Json, instance_json, task_json

TIMES = ("createdAt", "startedAt", "stoppingAt", "stoppedAt", "connectivityAt", "registeredAt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change. `detail_type`, `resources` and `detail` are what EventBridge gets."""

    at: float  # Unix seconds
    kind: Literal["task", "instance", "deployment", "service", "spot"]
    cluster: str  # name
    service: str  # name; "" where none is meant
    arn: str  # of the task, instance or service
    text: str  # for people: "task 4d590253 of web is RUNNING"
    detail_type: str  # "" for a change that ECS sends no event about
    detail: Json
    source: str = "aws.ecs"

    def envelope(self, account: str, region: str, event_id: str) -> Json:
        """The whole event as a rule's target gets it."""
        return {
            "version": "0",
            "id": event_id,
            "detail-type": self.detail_type,
            "source": self.source,
            "account": account,
            "time": iso(self.at),
            "region": region,
            "resources": [self.arn],
            "detail": self.detail,
        }


Listener = Callable[[Event], None]


class Bulletin:
    """Passes every event to every listener, in order, at once."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def task_event(task: Task, at: float) -> Event:
    """ "ECS Task State Change": the task as the API shows it, but without tags, health and port ranges."""
    detail = _with_iso_times(task_json(task))
    for name in ("tags", "healthStatus"):
        detail.pop(name, None)
    detail["attachments"] = [{**item, "type": "eni"} for item in task.attachments]
    for container in detail["containers"]:
        container.pop("healthStatus", None)
        container["networkBindings"] = [b for b in container["networkBindings"] if "hostPort" in b]
    detail["updatedAt"] = iso(at)
    service = service_of(task.group)
    leaving = task.desired_status == "STOPPED" and task.last_status == "RUNNING"
    what = "is told to stop" if leaving else f"is {task.last_status}"
    return Event(
        at=at,
        kind="task",
        cluster=short(task.cluster_arn),
        service=service,
        arn=task.arn,
        text=f"task {short(task.arn)[:8]} of {service or task.group} {what}",
        detail_type="ECS Task State Change",
        detail=detail,
    )


def instance_event(instance: Instance, cluster: Cluster, at: float) -> Event:
    """ "ECS Container Instance State Change"."""
    detail = _with_iso_times(instance_json(instance, cluster))
    detail.pop("tags", None)
    connected = "" if instance.agent_connected else ", its agent disconnected"
    return Event(
        at=at,
        kind="instance",
        cluster=cluster.name,
        service="",
        arn=instance.arn,
        text=f"instance {instance.ec2_instance_id} in {instance.zone} is {instance.status}{connected}",
        detail_type="ECS Container Instance State Change",
        detail={**detail, "clusterArn": cluster.arn, "updatedAt": iso(at)},
    )


def spot_event(instance: Instance, action: str, region: str, account: str, at: float) -> Event:
    """ "EC2 Spot Instance Interruption Warning", which EC2 sends two minutes ahead."""
    ec2_id = instance.ec2_instance_id
    return Event(
        at=at,
        kind="spot",
        cluster=short(instance.cluster_arn),
        service="",
        arn=f"arn:aws:ec2:{region}:{account}:instance/{ec2_id}",
        text=f"instance {ec2_id} in {instance.zone} is taken away in two minutes ({action})",
        detail_type="EC2 Spot Instance Interruption Warning",
        detail={"instance-id": ec2_id, "instance-action": action},
        source="aws.ec2",
    )


def deployment_event(service: Service, deployment: Deployment, at: float) -> Event:
    """ "ECS Deployment State Change"."""
    state = deployment.rollout_state
    return Event(
        at=at,
        kind="deployment",
        cluster=short(service.cluster_arn),
        service=service.name,
        arn=service.arn,
        text=f"deployment of {service.name} to {short(deployment.definition.arn)} is {state}",
        detail_type="ECS Deployment State Change",
        detail={
            "eventType": "ERROR" if state == "FAILED" else "INFO",
            "eventName": f"SERVICE_DEPLOYMENT_{state}",
            "deploymentId": deployment.id,
            "updatedAt": iso(at),
            "reason": deployment.rollout_reason or f"ECS deployment {deployment.id} in progress.",
        },
    )


def service_event(service: Service, text: str, at: float, name: str = "") -> Event:
    """A change of a service; with a *name* such as SERVICE_STEADY_STATE also an "ECS Service Action"."""
    return Event(
        at=at,
        kind="service",
        cluster=short(service.cluster_arn),
        service=service.name,
        arn=service.arn,
        text=text,
        detail_type="ECS Service Action" if name else "",
        detail={
            "eventType": "WARN" if name.endswith("FAILURE") else "INFO",
            "eventName": name,
            "clusterArn": service.cluster_arn,
            "createdAt": iso(at),
        },
    )


def _with_iso_times(shown: Json) -> Json:
    return {key: iso(value) if key in TIMES else value for key, value in shown.items()}
