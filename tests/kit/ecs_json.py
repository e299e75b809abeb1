"""ECS API answers as boto3 returns them: dicts shaped like recorded ones, for tests to vary."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

ACCOUNT = "111122223333"
REGION = "eu-west-1"
CLUSTER = "prod"
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def arn(kind: str, rest: str) -> str:
    return f"arn:aws:ecs:{REGION}:{ACCOUNT}:{kind}/{rest}"


def task_arn(number: int) -> str:
    return arn("task", f"{CLUSTER}/{number:032x}")


def definition_arn(short: str) -> str:
    return arn("task-definition", short)


def instance_arn(number: int) -> str:
    return arn("container-instance", f"{CLUSTER}/{number:032x}")


def ec2_id(number: int) -> str:
    return f"i-{number:017x}"


def binding(container_port: int, host_port: int, **more: Any) -> dict[str, Any]:
    return {
        "bindIP": "0.0.0.0",
        "containerPort": container_port,
        "hostPort": host_port,
        "protocol": "tcp",
        **more,
    }


def container(
    name: str = "app", *, bindings: list[dict[str, Any]] | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "containerArn": arn("container", f"{CLUSTER}/{name}"),
        "name": name,
        "image": f"registry/{name}",
        "lastStatus": "RUNNING",
        "healthStatus": "UNKNOWN",
        "runtimeId": f"runtime-{name}",
        "networkBindings": [binding(8080, 32771)] if bindings is None else bindings,
        "networkInterfaces": [],
        **more,
    }


def task(
    number: int = 1, *, service: str = "web", definition: str = "web:42", instance: int = 1, **more: Any
) -> dict[str, Any]:
    """Return a RUNNING bridge task on EC2, with whatever fields `more` says instead (None: without it)."""
    raw: dict[str, Any] = {
        "taskArn": task_arn(number),
        "clusterArn": arn("cluster", CLUSTER),
        "containerInstanceArn": instance_arn(instance),
        "taskDefinitionArn": definition_arn(definition),
        "group": f"service:{service}",
        "startedBy": "ecs-svc/4494157735923160523",
        "launchType": "EC2",
        "availabilityZone": "eu-west-1b",
        "lastStatus": "RUNNING",
        "desiredStatus": "RUNNING",
        "healthStatus": "UNKNOWN",
        "connectivity": "CONNECTED",
        "version": 3,
        "startedAt": STARTED,
        "attachments": [],
        "containers": [container()],
        **more,
    }
    return {key: value for key, value in raw.items() if value is not None}


def eni(**details: str) -> dict[str, Any]:
    return {
        "id": "d9e7",
        "type": "ElasticNetworkInterface",
        "status": "ATTACHED",
        "details": [{"name": name, "value": value} for name, value in details.items()],
    }


def awsvpc_container(name: str = "app", **interface: str) -> dict[str, Any]:
    return container(name, bindings=[], networkInterfaces=[{"attachmentId": "d9e7", **interface}])


def container_definition(name: str = "app", *ports: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": f"registry/{name}",
        "essential": True,
        "portMappings": list(ports) or [{"containerPort": 8080, "hostPort": 0, "protocol": "tcp"}],
        "environment": [{"name": "DATABASE_PASSWORD", "value": "hunter2"}],
        "secrets": [{"name": "API_KEY", "valueFrom": "arn:aws:ssm:eu-west-1:111122223333:parameter/key"}],
        **more,
    }


def definition(short: str = "web:42", *containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    family, _, revision = short.partition(":")
    raw: dict[str, Any] = {
        "taskDefinitionArn": definition_arn(short),
        "family": family,
        "revision": int(revision),
        "networkMode": "bridge",
        "status": "ACTIVE",
        "containerDefinitions": list(containers) or [container_definition()],
        **more,
    }
    return {key: value for key, value in raw.items() if value is not None}


def instance(number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "containerInstanceArn": instance_arn(number),
        "ec2InstanceId": ec2_id(number),
        "status": "ACTIVE",
        "agentConnected": True,
        "version": 7,
        "attributes": [{"name": "ecs.availability-zone", "value": "eu-west-1b"}],
        **more,
    }
