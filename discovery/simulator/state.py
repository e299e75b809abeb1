"""What the embedded cluster remembers: plain mutable records, no behaviour, no I/O.

The API, the scheduler, the agents and the runtime all work on these. Times are Unix seconds of the
simulator's own clock. Names follow the ECS API, in snake case.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Instance:
    """A container instance: an agent, a loopback address of its own, and host ports to give out."""

    arn: str
    ec2_instance_id: str
    cluster_arn: str
    address: str  # 127.0.1.1, 127.0.1.2, ...: its "private IP", where its host ports really answer
    zone: str
    registered_at: float
    status: str = "ACTIVE"  # or DRAINING, DEREGISTERING, INACTIVE
    agent_connected: bool = True
    version: int = 1
    next_host_port: int = 0  # the agent's cursor through the dynamic range; lost when the agent restarts
    ports_in_use: set[int] = field(default_factory=set)
    agent_url: str = ""  # introspection API, "http://127.0.1.1:51678" where that port is free
    imds_url: str = ""  # instance metadata service of this instance
    launch_type: str = "EC2"  # or EXTERNAL: ECS Anywhere, whose ec2_instance_id is an SSM id, "mi-..."
    tags: list[dict[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class TaskDefinition:
    """One immutable revision. `containers` is the registered JSON, kept verbatim."""

    arn: str
    family: str
    revision: int
    network_mode: str  # "bridge", "host" or "awsvpc"
    containers: list[dict[str, Any]]
    registered_at: float
    raw: dict[str, Any] = field(default_factory=dict)  # the rest of what was registered
    status: str = "ACTIVE"  # or INACTIVE, once deregistered
    deregistered_at: float = 0.0
    tags: list[dict[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Binding:
    """One port of one container as the agent reports it, or one range of consecutive ports."""

    container_port: int  # of a range: the first
    host_port: int  # of a range: the first
    protocol: str = "tcp"
    bind_ip: str = "0.0.0.0"
    range_size: int = 0  # 0: a single port; else a containerPortRange of so many ports


@dataclass(slots=True)
class Container:
    """A container of a task. `pid` is the real process behind it while it runs."""

    arn: str
    name: str
    definition: dict[str, Any]  # the container definition it was made from
    last_status: str = "PENDING"
    health_status: str = "UNKNOWN"
    runtime_id: str = ""
    bindings: list[Binding] = field(default_factory=list)
    private_ip: str = ""  # awsvpc only
    exit_code: int | None = None
    reason: str = ""
    pid: int = 0
    metadata_url: str = ""  # its ECS_CONTAINER_METADATA_URI_V4
    created_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0


@dataclass(slots=True)
class Task:
    """A task and its life cycle. `version` rises with every change the API would show."""

    arn: str
    cluster_arn: str
    definition: TaskDefinition
    group: str  # "service:web" or "family:web"
    created_at: float
    instance: Instance | None = None  # None on Fargate
    started_by: str = ""  # deployment id for service tasks
    launch_type: str = "EC2"
    last_status: str = "PROVISIONING"
    desired_status: str = "RUNNING"
    health_status: str = "UNKNOWN"
    connectivity: str = "CONNECTED"
    version: int = 1
    zone: str = ""
    containers: list[Container] = field(default_factory=list)
    attachments: list[dict[str, Any]] = field(default_factory=list)
    tags: list[dict[str, str]] = field(default_factory=list)
    started_at: float = 0.0
    stopping_at: float = 0.0
    stopped_at: float = 0.0
    stop_code: str = ""
    stopped_reason: str = ""
    protected_until: float = 0.0  # task scale-in protection
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Deployment:
    """One roll-out of a service."""

    id: str  # "ecs-svc/<digits>", the started_by of its tasks
    definition: TaskDefinition
    created_at: float
    status: str = "PRIMARY"  # or ACTIVE (being replaced), INACTIVE
    rollout_state: str = "IN_PROGRESS"  # or COMPLETED, FAILED
    rollout_reason: str = ""
    updated_at: float = 0.0
    failed_tasks: int = 0  # tasks in a row that never became healthy
    not_before: float = 0.0  # no new task before this time: the scheduler's back-off after failures


@dataclass(slots=True)
class Service:
    """A service: how many tasks of which definition ought to run."""

    arn: str
    name: str
    cluster_arn: str
    desired_count: int
    deployments: list[Deployment]
    created_at: float
    strategy: str = "REPLICA"  # or DAEMON
    minimum_healthy_percent: int = 100
    maximum_percent: int = 200
    status: str = "ACTIVE"  # or DRAINING, INACTIVE
    launch_type: str = "EC2"
    tags: list[dict[str, str]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)  # newest first, as the API shows them
    circuit_breaker: dict[str, bool] = field(default_factory=dict)  # {"enable": ..., "rollback": ...}
    raw: dict[str, Any] = field(default_factory=dict)  # members that are only echoed


@dataclass(slots=True)
class Cluster:
    """Everything of one cluster."""

    arn: str
    name: str
    instances: dict[str, Instance] = field(default_factory=dict)  # by ARN
    services: dict[str, Service] = field(default_factory=dict)  # by name
    tasks: dict[str, Task] = field(default_factory=dict)  # by ARN, stopped ones for an hour
    status: str = "ACTIVE"  # or INACTIVE
    tags: list[dict[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class State:
    """The whole account and Region."""

    account: str
    region: str
    clusters: dict[str, Cluster] = field(default_factory=dict)  # by name
    definitions: dict[str, TaskDefinition] = field(default_factory=dict)  # by ARN
