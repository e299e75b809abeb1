"""What the agent tells a container about itself: the task metadata endpoint, version 4.

Documents only; `discovery.simulator.agent` serves them. Field names and what is left out are those of
amazon-ecs-agent (ecs-agent/tmds/handlers/v2 and v4): empty members are omitted, an EC2 task says
neither its container instance nor its group.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from discovery.simulator.state import Binding, Container, Task

IMAGE_ID = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_STARTING = ("PROVISIONING", "PENDING", "ACTIVATING")
_ENDED = ("DEPROVISIONING", "STOPPED", "DELETED")


def endpoint_id(task: Task, container: Container) -> str:
    """The secret-looking part of a container's metadata URL; the same for as long as the task exists."""
    return f"{short_id(task.arn)}-{zlib.crc32(container.name.encode()):010d}"


def metadata_url(task: Task, container: Container) -> str:
    """What ECS_CONTAINER_METADATA_URI_V4 says in the container; "" where no agent serves it."""
    if task.instance is None or not task.instance.agent_url:
        return ""
    return f"{task.instance.agent_url}/v4/{endpoint_id(task, container)}"


def short_id(arn: str) -> str:
    """The last part of an ARN."""
    return arn.rpartition("/")[2]


def rfc3339(at: float) -> str:
    """Unix seconds as the agent prints them: UTC, no trailing zeros."""
    text = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".") + "Z"


def known_status(status: str) -> str:
    """A status of the API as the agent knows it: it has no word for the steps of the control plane."""
    if status in _STARTING:
        return "PENDING"
    return "STOPPED" if status in _ENDED else "RUNNING"


def mapped_ports(definition: Mapping[str, Any]) -> Iterator[tuple[int, int, str]]:
    """(container port, host port or 0, protocol) of every port a container definition maps."""
    for mapping in definition.get("portMappings") or ():
        protocol = mapping.get("protocol") or "tcp"
        if "containerPortRange" in mapping:
            first, _, last = mapping["containerPortRange"].partition("-")
            for port in range(int(first), int(last or first) + 1):
                yield port, 0, protocol
        else:
            yield int(mapping["containerPort"]), int(mapping.get("hostPort") or 0), protocol


def bound_ports(bindings: list[Binding]) -> Iterator[tuple[int, int, str]]:
    """The same of bindings; the agent's own API shows a range port by port."""
    for binding in bindings:
        for offset in range(max(1, binding.range_size)):
            yield binding.container_port + offset, binding.host_port + offset, binding.protocol


def ports(task: Task, container: Container) -> list[dict[str, Any]]:
    """`Ports` as both agent APIs show them. HostPort is missing while the real one is not known yet."""
    mode = task.definition.network_mode
    if container.bindings:
        found = list(bound_ports(container.bindings))
    else:
        found = list(mapped_ports(container.definition))
    shown = []
    for container_port, host_port, protocol in found:
        port: dict[str, Any] = {"ContainerPort": container_port, "Protocol": protocol}
        if host_port or mode in ("awsvpc", "host"):
            port["HostPort"] = host_port or container_port
        shown.append(port)
    return shown


def container_document(task: Task, container: Container) -> dict[str, Any]:
    """The answer to `$ECS_CONTAINER_METADATA_URI_V4`."""
    definition, mode = container.definition, task.definition.network_mode
    known = known_status(container.last_status)
    document: dict[str, Any] = {
        "DockerId": container.runtime_id,
        "Name": container.name,
        "DockerName": docker_name(task, container),
        "Image": definition.get("image", ""),
        "ImageID": IMAGE_ID,
        "Ports": [
            port | ({"HostIp": "0.0.0.0"} if mode == "bridge" and "HostPort" in port else {})
            for port in ports(task, container)
        ],
        "Labels": {
            "com.amazonaws.ecs.cluster": short_id(task.cluster_arn),
            "com.amazonaws.ecs.container-name": container.name,
            "com.amazonaws.ecs.task-arn": task.arn,
            "com.amazonaws.ecs.task-definition-family": task.definition.family,
            "com.amazonaws.ecs.task-definition-version": str(task.definition.revision),
            **(definition.get("dockerLabels") or {}),
        },
        "DesiredStatus": task.desired_status,
        "KnownStatus": "CREATED" if known == "PENDING" else known,
        "ExitCode": container.exit_code,
        "Limits": {"CPU": int(definition.get("cpu") or 2), "Memory": int(definition.get("memory") or 0)},
        "CreatedAt": _time(container.created_at),
        "StartedAt": _time(container.started_at),
        "FinishedAt": _time(container.finished_at),
        "Type": "NORMAL",
        "ContainerARN": container.arn,
        "Networks": [{"NetworkMode": mode, "IPv4Addresses": _addresses(task, container)}],
    }
    if "healthCheck" in definition:
        document["Health"] = {"status": container.health_status}
    return {name: value for name, value in document.items() if value not in (None, "", [])}


def task_document(task: Task, *, tags: bool = False) -> dict[str, Any]:
    """The answer to `$ECS_CONTAINER_METADATA_URI_V4/task`, with *tags* to `/taskWithTags`."""
    known = known_status(task.last_status)
    service = task.group.removeprefix("service:") if task.group.startswith("service:") else ""
    document: dict[str, Any] = {
        "Cluster": short_id(task.cluster_arn),
        "TaskARN": task.arn,
        "Family": task.definition.family,
        "Revision": str(task.definition.revision),
        "ServiceName": service,
        "DesiredStatus": task.desired_status,
        "KnownStatus": "CREATED" if known == "PENDING" else known,
        "PullStartedAt": _time(task.created_at),
        "PullStoppedAt": _time(min((c.created_at for c in task.containers), default=0.0)),
        "ExecutionStoppedAt": _time(task.stopped_at),
        "AvailabilityZone": task.zone or (task.instance.zone if task.instance else ""),
        "LaunchType": task.launch_type,
        "Containers": [container_document(task, container) for container in task.containers],
    }
    if tags:
        document["TaskTags"] = _tags(task.tags)
        document["ContainerInstanceTags"] = _tags(task.instance.tags if task.instance else [])
    return {name: value for name, value in document.items() if value not in (None, "", {})}


def docker_name(task: Task, container: Container) -> str:
    """The name Docker shows: family, revision, container and something random."""
    return (
        f"ecs-{task.definition.family}-{task.definition.revision}-{container.name}-{short_id(task.arn)[:20]}"
    )


def protection_document(task: Task, now: float) -> dict[str, Any]:
    """The answer of `$ECS_AGENT_URI/task-protection/v1/state`."""
    protection: dict[str, Any] = {"ProtectionEnabled": task.protected_until > now, "TaskArn": task.arn}
    if task.protected_until > now:
        protection["ExpirationDate"] = rfc3339(float(int(task.protected_until)))
    return {"protection": protection}


def _time(at: float) -> str | None:
    return rfc3339(at) if at else None


def _tags(tags: list[dict[str, str]]) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in tags}


def _addresses(task: Task, container: Container) -> list[str]:
    if container.private_ip:
        return [container.private_ip]
    if task.definition.network_mode == "host":
        return []
    # A bridge address nobody outside Docker could reach anyway: one per container, made up.
    return [f"172.17.{zlib.crc32(container.arn.encode()) % 255}.{2 + zlib.crc32(task.arn.encode()) % 250}"]
