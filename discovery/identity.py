"""Who we are: the cluster, task, instance and zone this proxy itself runs in. Pure; `whoami` asks."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, fields, replace
from typing import Final, NamedTuple

_ARN: Final = re.compile(
    r"arn:([a-z0-9-]{1,32}):ecs:([a-z0-9-]{1,32}):([0-9]{12}):([a-z-]{1,32})/([!-~]{1,512})"
)
_WORD: Final = re.compile(r"[\x21-\x7e]{1,300}")


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
    network_mode: str = ""  # of our task: "bridge", "host", "awsvpc"
    launch_type: str = ""  # of our task: "EC2", "FARGATE", "EXTERNAL"


NOBODY: Final = Identity()


class Arn(NamedTuple):
    """The parts of an ARN of ECS."""

    partition: str
    region: str
    account: str
    kind: str  # "task", "cluster", "container-instance", "task-definition"
    rest: str  # "prod/4d59..." or, in the old format, "4d59..."; "web:42"

    @property
    def cluster(self) -> str:
        """The name of the cluster a task or an instance is in, "" where the old format does not say."""
        name, slash, _ = self.rest.rpartition("/")
        return name if slash else ""


def parse_arn(text: str) -> Arn | None:
    """Return the parts of an ECS ARN, None if *text* is none."""
    found = _ARN.fullmatch(text)
    return Arn(*found.groups()) if found else None


def of_task(document: object) -> Identity:
    """Read the answer of `$ECS_CONTAINER_METADATA_URI_V4/task`; what makes no sense there is left out."""
    if not isinstance(document, dict):
        return NOBODY
    arn = parse_arn(_word(document, "TaskARN"))
    if arn is None or arn.kind != "task":
        return NOBODY
    cluster = arn.cluster or _word(document, "Cluster").rpartition("/")[2]
    return Identity(
        task_arn=_word(document, "TaskARN"),
        cluster=cluster,
        cluster_arn=_cluster_arn(arn, cluster),
        region=arn.region,
        account=arn.account,
        service=_word(document, "ServiceName"),
        family=_word(document, "Family"),
        zone=_word(document, "AvailabilityZone"),
        network_mode=_network_mode(document.get("Containers")),
        launch_type=_word(document, "LaunchType"),
    )


def of_agent(document: object) -> Identity:
    """Read the agent's `/v1/metadata`; nothing while the instance is not registered yet."""
    if not isinstance(document, dict):
        return NOBODY
    arn = parse_arn(_word(document, "ContainerInstanceArn"))
    if arn is None or arn.kind != "container-instance":
        return NOBODY
    cluster = _word(document, "Cluster").rpartition("/")[2]
    if not cluster or arn.cluster not in ("", cluster):
        return NOBODY
    return Identity(
        instance_arn=_word(document, "ContainerInstanceArn"),
        cluster=cluster,
        cluster_arn=_cluster_arn(arn, cluster),
        region=arn.region,
        account=arn.account,
    )


def of_instance(document: object) -> Identity:
    """Read EC2's instance identity document."""
    if not isinstance(document, dict):
        return NOBODY
    return Identity(
        ec2_id=_word(document, "instanceId"),
        address=_address(document.get("privateIp")),
        zone=_word(document, "availabilityZone"),
        region=_word(document, "region"),
    )


def join(known: Identity, more: Identity) -> Identity:
    """Return *known* with what it lacks taken from *more*."""
    lacking = {
        field.name: getattr(more, field.name) for field in fields(Identity) if not getattr(known, field.name)
    }
    return replace(known, **lacking)


def _cluster_arn(arn: Arn, cluster: str) -> str:
    return f"arn:{arn.partition}:ecs:{arn.region}:{arn.account}:cluster/{cluster}" if cluster else ""


def _network_mode(containers: object) -> str:
    """All containers of a task share one mode."""
    for container in containers if isinstance(containers, list) else ():
        networks = container.get("Networks") if isinstance(container, dict) else None
        for network in networks if isinstance(networks, list) else ():
            if isinstance(network, dict) and (mode := _word(network, "NetworkMode")):
                return "bridge" if mode == "default" else mode
    return ""


def _word(document: dict[str, object], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) and _WORD.fullmatch(value) else ""


def _address(value: object) -> str:
    try:
        return str(ipaddress.ip_address(value)) if isinstance(value, str) else ""
    except ValueError:
        return ""
