"""How several words on one task become one, whatever order they come in. Pure.

Descriptions come from ECS itself (the API, events, another proxy that had them from there) and carry a
`version` that only rises. Sightings come from the agent on the task's own instance, which knows of starts,
stops and ports first, and of groups and health nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from discovery.ecs.shapes import Binding, Container, Task, in_order

GONE: Final = ("STOPPED", "DELETED")
# In the order in which every task passes through them; some are skipped, none comes twice.
_LIFE: Final = (
    "PROVISIONING",
    "PENDING",
    "ACTIVATING",
    "RUNNING",
    "DEACTIVATING",
    "STOPPING",
    "DEPROVISIONING",
    "STOPPED",
    "DELETED",
)
_RANK: Final = {status: rank for rank, status in enumerate(_LIFE)}

Claims = Mapping[tuple[str, int], str]  # (protocol, host port) to the ARN of the task that holds it


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What the agent on its instance says of a task."""

    arn: str
    definition: str  # "web:42"
    known_status: str  # PENDING, RUNNING or STOPPED
    desired_status: str = ""  # RUNNING, STOPPED, or "" where the agent does not say
    containers: tuple[Container, ...] = ()  # names, states and bindings; no health


def joined(old: Task | None, new: Task) -> Task:
    """Return what is known of a task after *new*: never less than before, *old* if nothing is new.

    The higher version decides and the lower one fills in what that leaves out. A word without a version
    is taken to be as new as the newest. What cannot be undone is kept from either.
    """
    if old is None or old == new:
        return old or new
    late, early = (new, old) if not new.version or new.version >= old.version else (old, new)
    result = replace(
        late,
        # ECS never takes a stop back, and no task lives backwards.
        desired_status="STOPPED" if early.desired_status == "STOPPED" else late.desired_status,
        last_status=further(late.last_status, early.last_status),
        version=max(old.version, new.version),
        group=late.group or early.group,
        started_by=late.started_by or early.started_by,
        instance_arn=late.instance_arn or early.instance_arn,
        zone=late.zone or early.zone,
        connectivity=late.connectivity or early.connectivity,
        stop_code=late.stop_code or early.stop_code,
        started_at=late.started_at or early.started_at,
        stopping_at=late.stopping_at or early.stopping_at,
        interfaces=late.interfaces or early.interfaces,
        containers=_joined_containers(late, early),
    )
    return old if result == old else result


def further(late: str, early: str) -> str:
    """Return whichever of two states comes later in the life of a task; *late* where that is not known."""
    if late not in _RANK or early not in _RANK:
        return late
    return max(late, early, key=_RANK.__getitem__)


def _joined_containers(late: Task, early: Task) -> tuple[Container, ...]:
    if late.containers == early.containers or not early.containers:
        return late.containers
    if not late.containers:
        return early.containers
    same_version = late.version == early.version or not (late.version and early.version)
    before = {container.name: container for container in early.containers}
    return tuple(
        _joined_container(container, before[container.name], same_version)
        if container.name in before
        else container
        for container in late.containers
    )


def _joined_container(late: Container, early: Container, same_version: bool) -> Container:
    """Keep what cannot have changed while one and the same container runs."""
    if late == early:
        return late
    if late.runtime_id != early.runtime_id:
        # Of two words of one version, one without an id has only not heard of the container yet.
        return early if same_version and not late.runtime_id else late
    status = further(late.last_status, early.last_status) if same_version else late.last_status
    if status != "RUNNING" or early.last_status != "RUNNING":
        return replace(late, last_status=status)
    return replace(
        late,
        last_status=status,
        bindings=_joined_bindings(late.bindings, early.bindings),
        ipv4=late.ipv4 or early.ipv4,
        ipv6=late.ipv6 or early.ipv6,
        # After a first verdict, UNKNOWN only means that ECS has lost sight of the agent, or that an event
        # spoke, which never says. Health moves without a new version: then the last word counts.
        health=early.health if late.health == "UNKNOWN" else late.health,
    )


def _joined_bindings(late: tuple[Binding, ...], early: tuple[Binding, ...]) -> tuple[Binding, ...]:
    """Add to *late* the container ports it does not speak of; the order depends on nothing else."""
    if late == early or not early:
        return late
    more = [
        binding
        for binding in early
        if not any(b.protocol == binding.protocol and b.first <= binding.first <= b.last for b in late)
    ]
    return in_order((*late, *more)) if more else late


# --- what the agent says --------------------------------------------------------------------------


def later_sighting(old: Sighting | None, new: Sighting) -> Sighting:
    """Return *new*, with the stop that was already ordered when *old* was seen."""
    if old is not None and old.desired_status == "STOPPED" and new.desired_status != "STOPPED":
        return replace(new, desired_status="STOPPED")
    return new


def overlaid(task: Task, sighting: Sighting) -> Task:
    """Return a task as described, with what its own agent says laid over it."""
    # The agent calls all that is neither running nor stopped PENDING.
    started = sighting.known_status == "RUNNING" and _RANK.get(task.last_status, 99) < _RANK["RUNNING"]
    return replace(
        task,
        last_status="RUNNING" if started else task.last_status,
        desired_status="STOPPED" if sighting.desired_status == "STOPPED" else task.desired_status,
        containers=_overlaid_containers(task.containers, sighting.containers),
    )


def _overlaid_containers(
    described: tuple[Container, ...], seen: tuple[Container, ...]
) -> tuple[Container, ...]:
    by_name = {container.name: container for container in seen}
    known = {container.name for container in described}
    return (
        *(_overlaid_container(c, by_name[c.name]) if c.name in by_name else c for c in described),
        *(container for container in seen if container.name not in known),
    )


def _overlaid_container(described: Container, seen: Container) -> Container:
    if seen.runtime_id and described.runtime_id and seen.runtime_id != described.runtime_id:
        return seen  # another container runs in its place: nothing said of the old one holds for it
    if not seen.runtime_id and described.runtime_id:
        return described  # the agent has not told yet which container it means
    return replace(
        described,
        last_status=further(seen.last_status, described.last_status),
        runtime_id=seen.runtime_id,
        bindings=seen.bindings or described.bindings,
        ipv4=seen.ipv4 or described.ipv4,
        ipv6=seen.ipv6 or described.ipv6,
    )


def presumed(sighting: Sighting, instance_arn: str, group: str) -> Task:
    """Return a task as its agent sees it, for as long as nobody has described it."""
    return Task(
        arn=sighting.arn,
        definition_arn=definition_arn(sighting),
        last_status=sighting.known_status,
        desired_status=sighting.desired_status or "RUNNING",
        group=group,
        instance_arn=instance_arn,
        containers=sighting.containers,
    )


def definition_arn(sighting: Sighting) -> str:
    """Return the ARN of the definition that the agent calls "web:42": same partition, Region and account."""
    head, _, _ = sighting.arn.partition(":task/")
    return f"{head}:task-definition/{sighting.definition}"


def held_ports(sighting: Sighting) -> set[tuple[str, int]]:
    """Return the host ports that a running task holds, as (protocol, port)."""
    if sighting.known_status != "RUNNING":
        return set()
    return {
        (binding.protocol, port)
        for container in sighting.containers
        if container.last_status == "RUNNING"
        for binding in container.bindings
        for port in range(binding.host_first, binding.host_first + binding.last - binding.first + 1)
    }


def without_claimed(task: Task, claims: Claims) -> Task:
    """Return *task* without the bindings whose host port the agent says another task holds."""
    if not any(_is_lost(b, task.arn, claims) for c in task.containers for b in c.bindings):
        return task
    return replace(
        task,
        containers=tuple(
            replace(c, bindings=tuple(b for b in c.bindings if not _is_lost(b, task.arn, claims)))
            for c in task.containers
        ),
    )


def _is_lost(binding: Binding, arn: str, claims: Claims) -> bool:
    """Say whether another task holds any of a binding's ports: then the whole of it is void."""
    return any(
        claims.get((binding.protocol, port), arn) != arn
        for port in range(binding.host_first, binding.host_first + binding.last - binding.first + 1)
    )


def in_words(word: Task | Sighting) -> str:
    """Return the gist of a word, for people: "RUNNING, to be STOPPED, version 4"."""
    status = word.last_status if isinstance(word, Task) else word.known_status
    stopping = ", to be STOPPED" if word.desired_status == "STOPPED" else ""
    version = f", version {word.version}" if isinstance(word, Task) and word.version else ""
    return status + stopping + version
