"""The life of a task, as far as routing is concerned: one pure function, and when the leaving step back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from discovery.ecs.ledger.words import GONE
from discovery.model import BackendKey, Endpoint

# How long a task must have run before those of a DRAINING instance step back in its favour: discovery
# does not see health checks, and a task that has just started may still be loading.
SETTLED_S: Final = 30.0

_ENDING: Final = ("DEACTIVATING", "STOPPING", "DEPROVISIONING")
_LEAVING: Final = ("DRAINING", "DEREGISTERING", "INACTIVE")


class Stage(NamedTuple):
    """What a container may be sent, and why not more."""

    state: Literal["starting", "ready", "draining", "gone"]
    reason: str = ""  # "" while ready


def stage(
    *,
    last_status: str,
    desired_status: str,
    container_status: str,
    health: str = "UNKNOWN",
    has_health_check: bool = False,
    connectivity: str = "",
    stop_code: str = "",
    instance: str = "",
    instance_status: str = "ACTIVE",
    notice: str = "",
    relieved: bool = False,
) -> Stage:
    """Return where in its life one container of a task is.

    `health` is the container's own and `has_health_check` of its own definition: a task is UNKNOWN for ever
    when any of its containers has no check. `notice` is what EC2 has announced of the instance. `relieved`:
    others of its service can carry its load; without them nobody leaves early. Scale-in protection has no
    say: ECS honours it by leaving desiredStatus RUNNING, and then the task is ready; on an instance that
    is to go it steps back like the others, for it is protected from the end, and keeps what it has.
    """
    if last_status in GONE:
        return Stage("gone", f"the task is {last_status}")
    if container_status in GONE:
        return Stage("gone", f"the container is {container_status}")
    if desired_status == "STOPPED" or last_status in _ENDING:
        if container_status != "RUNNING":
            return Stage("gone", "the task is stopped before the container runs")
        return Stage("draining", "ECS is stopping the task" + (f" ({stop_code})" if stop_code else ""))
    if last_status != "RUNNING":
        return Stage("starting", f"the task is {last_status}")
    if container_status != "RUNNING":
        return Stage("starting", f"the container is {container_status}")
    if health == "UNHEALTHY":
        return Stage("draining", "container health UNHEALTHY")
    # UNKNOWN also means that ECS has lost sight of the agent, which says nothing about the container.
    if health == "UNKNOWN" and has_health_check and connectivity != "DISCONNECTED":
        return Stage("starting", "container health UNKNOWN: its health check has not passed yet")
    if relieved and notice:
        return Stage("draining", f"container instance {instance} is about to go: {notice}")
    if relieved and instance_status in _LEAVING:
        return Stage("draining", f"container instance {instance} is {instance_status}")
    return Stage("ready")


class Row(NamedTuple):
    """An endpoint, and what it becomes as soon as others can carry its load."""

    key: BackendKey
    endpoint: Endpoint
    relieved: Endpoint | None  # None: it has no reason to leave early
    settled_s: float  # Unix time from which it can carry the load of another; inf: never

    @property
    def stays(self) -> bool:
        """Whether it takes new sessions, and goes on to."""
        return self.relieved is None and self.settled_s < math.inf


def step_back(rows: Sequence[Row], now_s: float) -> tuple[list[Endpoint], float]:
    """Return the endpoints of one service, and when they must be looked at again (inf: when there is news).

    ECS leaves tasks on a DRAINING instance running until their replacements run, and EC2 gives two minutes:
    so they step back only for at least as many settled ones elsewhere, never on the first sight of one.
    """
    going = sum(row.relieved is not None for row in rows)
    if not going:
        return [row.endpoint for row in rows], math.inf
    settled_s = sorted(row.settled_s for row in rows if row.stays)
    enough_s = settled_s[going - 1] if len(settled_s) >= going else math.inf
    if enough_s > now_s:
        return [row.endpoint for row in rows], enough_s
    return [row.relieved or row.endpoint for row in rows], math.inf
