"""Events as EventBridge delivers them, shaped like recorded ones, for tests to vary."""

from __future__ import annotations

import json
from typing import Any

from tests.kit.ecs_json import ACCOUNT, CLUSTER, REGION, arn, container, ec2_id, instance_arn, task_arn

CLUSTER_ARN = arn("cluster", CLUSTER)


def envelope(kind: str, detail: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "3317b2af-7005-947d-b652-f55e762e571a",
        "detail-type": kind,
        "source": "aws.ecs",
        "account": ACCOUNT,
        "time": "2026-01-02T03:04:06Z",
        "region": REGION,
        "resources": [],
        "detail": detail,
        **more,
    }


def task_detail(number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "taskArn": task_arn(number),
        "clusterArn": CLUSTER_ARN,
        "containerInstanceArn": instance_arn(1),
        "taskDefinitionArn": arn("task-definition", "web:42"),
        "group": "service:web",
        "startedBy": "ecs-svc/4494157735923160523",
        "launchType": "EC2",
        "availabilityZone": "eu-west-1b",
        "lastStatus": "RUNNING",
        "desiredStatus": "RUNNING",
        "connectivity": "CONNECTED",
        "createdAt": "2026-01-02T03:03:50.100Z",
        "startedAt": "2026-01-02T03:04:05.000Z",
        "updatedAt": "2026-01-02T03:04:05.250Z",
        "version": 3,
        "cpu": "256",
        "memory": "512",
        "attachments": [],
        "overrides": {"containerOverrides": [{"name": "app"}]},
        "containers": [{k: v for k, v in container().items() if k != "healthStatus"}],
        **more,
    }


def task_event(number: int = 1, **more: Any) -> dict[str, Any]:
    return envelope("ECS Task State Change", task_detail(number, **more), resources=[task_arn(number)])


def instance_event(**more: Any) -> dict[str, Any]:
    detail = {
        "containerInstanceArn": instance_arn(1),
        "clusterArn": CLUSTER_ARN,
        "ec2InstanceId": ec2_id(1),
        "status": "ACTIVE",
        "agentConnected": True,
        "version": 7,
        "attributes": [{"name": "ecs.availability-zone", "value": "eu-west-1b"}],
        "updatedAt": "2026-01-02T03:04:05.250Z",
        **more,
    }
    return envelope("ECS Container Instance State Change", detail)


def deployment_event(
    state: str = "IN_PROGRESS", *, at: str = "2026-01-02T03:04:05Z", **more: Any
) -> dict[str, Any]:
    detail = {
        "eventType": "INFO",
        "eventName": f"SERVICE_DEPLOYMENT_{state}",
        "deploymentId": "ecs-svc/123",
        "updatedAt": at,
        "reason": "ECS deployment ecs-svc/123 in progress.",
    }
    service = arn("service", f"{CLUSTER}/web")
    return envelope("ECS Deployment State Change", detail, **{"resources": [service], **more})


def spot_event(number: int = 1, action: str = "terminate") -> dict[str, Any]:
    return envelope(
        "EC2 Spot Instance Interruption Warning",
        {"instance-id": ec2_id(number), "instance-action": action},
        source="aws.ec2",
    )


def body(event: dict[str, Any]) -> str:
    return json.dumps(event)
