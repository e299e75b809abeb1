"""Who we are: the cluster, task, instance and zone this proxy itself runs in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What is known of the task and the instance we run as; "" for what is not (yet)."""

    task_arn: str = ""
    cluster: str = ""  # its name, never the ARN
    cluster_arn: str = ""
    region: str = ""
    account: str = ""
    service: str = ""  # the ECS service our task belongs to
    family: str = ""  # of our task definition
    instance_arn: str = ""  # of the container instance; "" on Fargate
    ec2_id: str = ""
    address: str = ""  # private IP of the instance
    zone: str = ""


NOBODY = Identity()
