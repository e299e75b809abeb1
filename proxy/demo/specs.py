"""What the demo's cluster runs: three built-in services, or the operator's own programs. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

DOMAIN: Final = "demo.localhost"
CONTAINER: Final = "app"
CONTAINER_PORT: Final = 8080
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class OptionError(ValueError):
    """An option of `anyport demo` makes no sense; the text says what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One service of the demo's cluster."""

    name: str
    mode: Literal["bridge", "awsvpc", "host"] = "bridge"
    tasks: int = 3
    command: str = ""  # "": the built-in app
    labelled: bool = False  # its route stands in docker labels, else it follows from [ecs] domain
    health: Literal["http", "tcp"] = "http"
    health_path: str = "/health"
    http_users: int = 8
    socket_users: int = 0
    minimum_healthy_percent: int = 100

    @property
    def maximum_percent(self) -> int:
        """How far a deploy may exceed the wanted tasks.

        A program that ends on SIGTERM at once should not have all its tasks stopped at once: about a
        third at a time, and at least one.
        """
        return max(134, 100 + math.ceil(100 / self.tasks)) if self.command else 200

    @property
    def host(self) -> str:
        return f"{self.name}.localhost" if self.command else f"{self.name}.{DOMAIN}"


# chat, in host mode, holds a fixed port: one task per instance, so a deploy must stop one to start one.
BUILT_IN: Final = (
    Spec(name="web", mode="bridge", tasks=3, http_users=12),
    Spec(name="api", mode="awsvpc", tasks=2, labelled=True, http_users=8),
    Spec(name="chat", mode="host", tasks=2, http_users=4, socket_users=12, minimum_healthy_percent=50),
)


def own(options: Sequence[str], tasks: int) -> tuple[Spec, ...]:
    """Return the services of `--service NAME=COMMAND` options, each with *tasks* tasks.

    Raises:
        OptionError: If an option has no name or command, or two have one name.
    """
    if tasks < 1:
        raise OptionError(f"--tasks {tasks}: at least 1 is needed")
    specs: dict[str, Spec] = {}
    for option in options:
        name, equals, command = option.partition("=")
        if not equals or not command.strip() or not _NAME.fullmatch(name):
            raise OptionError(
                f"--service {option!r} is not NAME=COMMAND, such as --service 'web=./my-server --port $PORT' "
                "(the name: lower-case letters, digits and hyphens)"
            )
        if name in specs:
            raise OptionError(f"--service {name}=... is given twice: choose another name for one of them")
        specs[name] = Spec(name=name, tasks=tasks, command=command.strip(), labelled=True, http_users=6)
    return tuple(specs.values())


def task_definition(spec: Spec, release: int) -> dict[str, Any]:
    """Return what RegisterTaskDefinition takes for *release* of a service."""
    port: dict[str, Any] = {"containerPort": CONTAINER_PORT, "protocol": "tcp"}
    if spec.mode != "bridge":
        port["hostPort"] = CONTAINER_PORT
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": "anyport/app",
        "essential": True,
        "memory": 128,
        "portMappings": [port],
        "stopTimeout": 30,
        "environment": [{"name": "RELEASE", "value": str(release)}],
    }
    if spec.command:
        container["command"] = [spec.command]  # the simulator gives one string to `sh -c`
        # So that a deploy waits for the new tasks; `proxy.demo.checks` is who runs it.
        container["healthCheck"] = {"command": ["CMD-SHELL", "nc -z localhost $PORT"], "interval": 300}
    else:
        # As a good citizen of ECS does: go on serving until everyone has heard of the stop.
        container["environment"] += [
            {"name": "SERVICE", "value": spec.name},
            {"name": "STOP", "value": "graceful"},
            {"name": "LINGER_S", "value": "2"},
        ]
    if spec.labelled:
        container["dockerLabels"] = {
            "anyport.host": spec.host,
            "anyport.port": str(CONTAINER_PORT),
            "anyport.health.kind": spec.health,
            "anyport.health.path": spec.health_path,
        }
    return {"family": spec.name, "networkMode": spec.mode, "containerDefinitions": [container]}


def service(spec: Spec, definition_arn: str) -> dict[str, Any]:
    """Return what CreateService takes, but for the cluster."""
    wanted: dict[str, Any] = {
        "serviceName": spec.name,
        "taskDefinition": definition_arn,
        "desiredCount": spec.tasks,
        "launchType": "EC2",
        "deploymentConfiguration": {
            "minimumHealthyPercent": spec.minimum_healthy_percent,
            "maximumPercent": spec.maximum_percent,
        },
    }
    if spec.mode == "awsvpc":
        wanted["networkConfiguration"] = {"awsvpcConfiguration": {"subnets": ["subnet-00000001"]}}
    return wanted


def config_toml(
    *,
    endpoint_url: str,
    region: str,
    cluster: str,
    listener: str,
    metrics: str,
    admin: str,
) -> str:
    """Return the config.toml the demo's anyport runs with."""
    return f"""\
# Written by `anyport demo`: everything else is the default.
workers = 2

[[listener]]
address = "{listener}"

[metrics]
address = "{metrics}"

[admin]
address = "{admin}"

[timeouts]
drain_s = 3.0
lb_drain_s = 0.0

[health]
path = "/health"
interval_s = 1.0
timeout_s = 0.9

[ecs]
clusters = ["{cluster}"]
region = "{region}"
endpoint_url = "{endpoint_url}"
poll_interval_s = 0.5
domain = "{DOMAIN}"
"""
