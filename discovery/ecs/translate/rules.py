"""What the config says about a service that runs on ECS."""

from __future__ import annotations

from dataclasses import dataclass

from discovery.model import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRule:
    """Which container port of which ECS service answers for `service`."""

    service: Service
    ecs_service: str
    cluster: str = ""  # "": the cluster of whichever poller is given the rule
    container: str = ""  # "": the only one with a matching port
    port: int | None = None  # the *container* port, never the host port
    port_name: str = ""  # or the name of the port mapping
