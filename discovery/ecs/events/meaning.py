"""What an event of EventBridge says about a cluster. Pure; a message that means nothing is a value, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

import orjson

from discovery.ecs import shapes
from discovery.ecs.shapes import Binding, ContainerInstance, Task, TaskDefinition
from discovery.model import DiscoveryError

Json = Mapping[str, Any]

Kind = Literal[
    "task",  # ECS Task State Change
    "instance",  # ECS Container Instance State Change
    "deployment",  # ECS Deployment State Change
    "service",  # ECS Service Action: nothing that the others do not say
    "spot",  # EC2 Spot Instance Interruption Warning
    "rebalance",  # EC2 Instance Rebalance Recommendation: an advice to the owner, no end in sight
    "foreign",  # of a cluster that nobody here asks about
    "unknown",  # not understood
]


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """One event, as far as it matters to a ledger."""

    kind: Kind
    cluster: str = ""  # ARN; "" where the event names none
    at_s: float = 0.0  # Unix time at which it happened; 0.0: not told
    reason: str = ""  # of "unknown": why
    task: Task | None = None
    instance: ContainerInstance | None = None
    deployment: str = ""  # its id
    deploying: bool = False  # whether that deployment goes on
    ec2_id: str = ""
    notice: str = ""  # of "spot": what will become of the instance, in words


def read(body: str | bytes) -> News:
    """Return what a message says. Whatever it is, nothing is raised."""
    try:
        event = _object(orjson.loads(body))
        if event.get("Type") == "Notification":  # wrapped by a topic without raw delivery
            event = _object(orjson.loads(str(event.get("Message"))))
        kind = str(event.get("detail-type"))
        reader = _READERS.get((str(event.get("source")), kind))
        if reader is None:
            # Not its text: whoever may write to the queue would write to the log.
            return News(kind="unknown", reason="of no type that is known here")
        detail = _object(event.get("detail"))
        news = reader(event, detail)
        return replace(news, at_s=_when(detail, event))
    except orjson.JSONDecodeError:
        return News(kind="unknown", reason="not JSON")
    except DiscoveryError as error:
        return News(kind="unknown", reason=str(error))
    except (ValueError, TypeError, ArithmeticError) as error:
        return News(kind="unknown", reason=f"senseless: {type(error).__name__}")


def same_cluster(event_arn: str, asked: str, *, region: str = "", account: str = "") -> bool:
    """Say whether an event's cluster is the one that is *asked* about, by name or ARN.

    Clusters in other Regions and accounts may have the same name; "" for what is not known of ours.
    """
    if asked.startswith("arn:"):
        return event_arn == asked
    if shapes.short_name(event_arn) != asked:
        return False
    _, _, _, event_region, event_account, *_ = [*event_arn.split(":"), "", "", "", "", ""]
    return region in ("", event_region) and account in ("", event_account)


def must_describe(task: Task, definition: TaskDefinition | None) -> bool:
    """Say whether only DescribeTasks can tell where a task, as the ledger has it, is to be reached."""
    if task.last_status != "RUNNING" or task.desired_status != "RUNNING":
        return False
    if definition is None:
        return True  # it may have port ranges, which events leave out
    for container in task.containers:
        described = definition.container(container.name)
        if container.last_status != "RUNNING" or described is None:
            continue
        if definition.network_mode == "bridge" and not all(
            _is_bound(container.bindings, mapping.first, mapping.last) for mapping in described.ports
        ):
            return True
    return False


def _is_bound(bindings: tuple[Binding, ...], first: int, last: int) -> bool:
    return any(binding.first <= first and last <= binding.last for binding in bindings) or all(
        any(binding.first <= port <= binding.last for binding in bindings) for port in range(first, last + 1)
    )


# --- one reader for each type ---------------------------------------------------------------------


def _task(_event: Json, detail: Json) -> News:
    return News(kind="task", cluster=_cluster(detail), task=shapes.task(detail))


def _instance(_event: Json, detail: Json) -> News:
    return News(kind="instance", cluster=_cluster(detail), instance=shapes.container_instance(detail))


def _deployment(event: Json, detail: Json) -> News:
    resources = event.get("resources")
    service = str(resources[0]) if isinstance(resources, list) and resources else ""
    # arn:aws:ecs:eu-west-1:111122223333:service/prod/web; the oldest ones lack the cluster
    head, _, rest = service.partition(":service/")
    cluster, slash, _ = rest.partition("/")
    return News(
        kind="deployment",
        cluster=f"{head}:cluster/{cluster}" if slash else "",
        deployment=_text(detail, "deploymentId"),
        deploying=_text(detail, "eventName") == "SERVICE_DEPLOYMENT_IN_PROGRESS",
    )


def _service(_event: Json, detail: Json) -> News:
    return News(kind="service", cluster=_cluster(detail))


def _spot(_event: Json, detail: Json) -> News:
    action = detail.get("instance-action")
    known = action if action in ("terminate", "stop", "hibernate") else "interruption"
    return News(kind="spot", ec2_id=_text(detail, "instance-id"), notice=f"Spot interruption: {known}")


def _rebalance(_event: Json, detail: Json) -> News:
    return News(kind="rebalance", ec2_id=_text(detail, "instance-id"))


_READERS: Final[Mapping[tuple[str, str], Callable[[Json, Json], News]]] = {
    ("aws.ecs", "ECS Task State Change"): _task,
    ("aws.ecs", "ECS Container Instance State Change"): _instance,
    ("aws.ecs", "ECS Deployment State Change"): _deployment,
    ("aws.ecs", "ECS Service Action"): _service,
    ("aws.ec2", "EC2 Spot Instance Interruption Warning"): _spot,
    ("aws.ec2", "EC2 Instance Rebalance Recommendation"): _rebalance,
}


# --- reading one field ----------------------------------------------------------------------------


def _object(value: object) -> Json:
    if not isinstance(value, dict):
        raise DiscoveryError("malformed", "not an event")
    return value


def _text(detail: Json, name: str) -> str:
    value = detail.get(name)
    if not isinstance(value, str) or not value:
        raise DiscoveryError("malformed", f"field {name} is missing or senseless")
    return value


def _cluster(detail: Json) -> str:
    return _text(detail, "clusterArn")


def _when(detail: Json, event: Json) -> float:
    """Return when it happened: `updatedAt` has milliseconds, `time` only seconds."""
    for value in (detail.get("updatedAt"), event.get("time")):
        try:
            return datetime.fromisoformat(str(value)).timestamp()
        except (ValueError, OverflowError):
            continue
    return 0.0
