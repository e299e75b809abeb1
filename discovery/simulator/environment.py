"""Environment variables: what a client of the simulator needs, and what a container is given."""

from __future__ import annotations

from collections.abc import Mapping

from discovery.simulator.arns import service_of, short
from discovery.simulator.state import Container, Task


def client_environment(url: str, region: str) -> dict[str, str]:
    """What to export so that boto3 and the AWS CLI speak to the simulator and to nothing else."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "simulator",
        "AWS_SECRET_ACCESS_KEY": "simulator",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def task_environment(task: Task, container: Container, region: str) -> Mapping[str, str]:
    """What the agent sets in a container, what its definition says, and what RunTask overrides.

    SERVICE, TASK_ARN and RELEASE are the simulator's own: the built-in app shows them. The definition
    may set RELEASE to something that means more to people.
    """
    url = container.metadata_url
    given = {
        "SERVICE": service_of(task.group) or task.definition.family,
        "TASK_ARN": task.arn,
        "RELEASE": short(task.definition.arn),
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_EXECUTION_ENV": f"AWS_ECS_{task.launch_type}",
    }
    if url:
        given["ECS_CONTAINER_METADATA_URI_V4"] = url
        given["ECS_AGENT_URI"] = url.replace("/v4/", "/api/")
    if task.instance is not None and task.instance.imds_url:
        # At 169.254.169.254 there is at most that of the machine the simulator runs on.
        given["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = task.instance.imds_url
        given["AWS_EC2_METADATA_DISABLED"] = "false"
    overrides = [
        item for item in task.overrides.get("containerOverrides", ()) if item.get("name") == container.name
    ]
    for source in (container.definition, *overrides):
        given.update({pair["name"]: pair.get("value", "") for pair in source.get("environment") or ()})
    return given
