"""Which container of a task may start or be told to stop now: `dependsOn`, both ways. Pure.

The agent starts a container when its conditions hold, and holds the stop signal of one back while another
that depends on it still runs (amazon-ecs-agent, `agent/engine/dependencygraph/graph.go`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from discovery.simulator.state import Container

CONDITIONS = ("START", "COMPLETE", "SUCCESS", "HEALTHY")

Start = Literal["now", "later", "never"]


def may_start(container: Container, containers: Sequence[Container]) -> Start:
    """Return whether *container* may start; "never" where what it waits for can no longer come true."""
    by_name = {one.name: one for one in containers}
    answers = {_met(by_name[name], condition) for name, condition in dependencies(container.definition)}
    return "never" if "never" in answers else "later" if "later" in answers else "now"


def may_stop(container: Container, containers: Sequence[Container]) -> bool:
    """Return whether *container* may get its stop signal: nothing that runs depends on it."""
    return not any(
        other.pid and any(name == container.name for name, _ in dependencies(other.definition))
        for other in containers
    )


def dependencies(definition: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (container name, condition) of what *definition* depends on."""
    return [(item["containerName"], item["condition"]) for item in definition.get("dependsOn") or ()]


def mistakes(definitions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what RegisterTaskDefinition refuses in the `dependsOn` of a task's containers."""
    by_name = {definition["name"]: definition for definition in definitions}
    for definition in definitions:
        for name, condition in dependencies(definition):
            if name not in by_name:
                yield f"Container '{definition['name']}' depends on '{name}', which is not in the task."
            elif condition not in CONDITIONS:
                yield f"Container dependency condition {condition!r} is not one of {', '.join(CONDITIONS)}."
            elif condition == "HEALTHY" and "healthCheck" not in by_name[name]:
                yield f"Container '{name}' needs a health check: '{definition['name']}' waits for HEALTHY."
            elif condition in ("COMPLETE", "SUCCESS") and by_name[name].get("essential", True):
                yield f"Container '{name}' is essential: nothing can wait until it is {condition}."
    if _has_cycle(by_name):
        yield "Container dependencies must not go round in a circle."


def _met(dependency: Container, condition: str) -> Start:
    ended = dependency.last_status == "STOPPED"
    match condition:
        case "COMPLETE":
            return "now" if ended else "later"
        case "SUCCESS":
            return "later" if not ended else "now" if dependency.exit_code == 0 else "never"
        case "HEALTHY":
            return "never" if ended else "now" if dependency.health_status == "HEALTHY" else "later"
        case _:
            return "now" if dependency.pid or ended else "later"


def _has_cycle(by_name: Mapping[str, Mapping[str, Any]]) -> bool:
    """Take away what depends on nothing that is left, until nothing can be taken away."""
    left = dict(by_name)
    while left:
        free = [name for name, item in left.items() if not any(n in left for n, _ in dependencies(item))]
        if not free:
            return True
        for name in free:
            del left[name]
    return False
