"""Which proxy of a fleet asks the ECS API, and whom the others follow. Pure.

The proxies are the tasks of one ECS service, and find each other in the table itself. The oldest one leads:
it asks the API. Each of the others follows one that is strictly older, so that there is no circle, and leads
when no older one answers, or what they all know has become too old.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.shapes import Task, short_name
from discovery.ecs.translate.ports import locate

OLD_S: Final = 60.0  # what the leader knows may be this old, or four of its intervals
TURN_S: Final = 10.0  # how long each proxy that may lead has the field to itself, when knowledge is old
_RETRY_S: Final = (1.0, 2.0, 5.0, 10.0)  # after so many failures in a row; the last one from then on


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One proxy of the fleet, ourselves included."""

    task_arn: str
    started_at: float = math.inf  # Unix time; infinite while it starts
    stopping: bool = False
    host: str = ""  # where it serves its fleet pages; "" while that is not known
    port: int = 0

    @property
    def started(self) -> bool:
        return self.started_at < math.inf

    @property
    def id(self) -> str:
        return short_name(self.task_arn)

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def peers(ledger: Ledger, group: str, port: int) -> tuple[Peer, ...]:
    """Return every proxy of ECS service *group* ("service:anyport"), the oldest first.

    *port* is the container port they serve their fleet pages on; in host mode it is the instance's.
    """
    found = (_peer(ledger, task, port) for task in ledger.groups.get(group, {}).values())
    return tuple(sorted(found, key=lambda peer: (peer.started_at, peer.task_arn)))


def _peer(ledger: Ledger, task: Task, port: int) -> Peer:
    host, number = _place(ledger, task, port) or ("", 0)
    return Peer(
        task_arn=task.arn,
        started_at=task.started_at or math.inf,
        stopping=task.desired_status == "STOPPED",
        host=host,
        port=number,
    )


def _place(ledger: Ledger, task: Task, port: int) -> tuple[str, int] | None:
    definition = ledger.definitions.get(task.definition_arn)
    if definition is None:
        return None
    instance = ledger.instances.get(task.instance_arn)
    address = ledger.addresses.get(instance.ec2_id, "") if instance is not None else ""
    for container in task.containers:
        described = definition.container(container.name)
        mapped = described is not None and any(
            mapping.protocol == "tcp" and mapping.first <= port <= mapping.last for mapping in described.ports
        )
        # Only bridge mode needs the mapping; in the others the port answers without one.
        if mapped or definition.network_mode in ("host", "awsvpc"):
            place = locate(task, definition, container, port, address)
            if place is not None and container.last_status == "RUNNING":
                return place
    return None


def older(own_arn: str, everyone: Sequence[Peer]) -> tuple[Peer, ...]:
    """Return whom of *everyone* we may follow, the oldest first: older ones that stay and can be reached.

    One that does not find itself among them is the youngest.
    """
    found = []
    for peer in everyone:
        if peer.task_arn == own_arn:
            break
        if not peer.stopping and peer.host:
            found.append(peer)
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a peer answered when it was last asked."""

    at_s: float
    failures: int = 0  # in a row; 0: it answered
    overdue_s: float = 0.0  # how much older than it may be what it knows was then

    @property
    def again_s(self) -> float:
        """Return when to ask it again."""
        return self.at_s + _RETRY_S[min(max(self.failures, 1), len(_RETRY_S)) - 1]


def overdue_s(age_s: float, stale_after_s: float | None) -> float:
    """Return by how much knowledge of *age_s* is too old to follow, negative while it is not.

    *stale_after_s* is two intervals of the one who asked.
    """
    return age_s - max(OLD_S, 2 * (stale_after_s or 0.0))


def choose(candidates: Sequence[Peer], looks: Mapping[str, Look]) -> Peer | None:
    """Return whom of *candidates* (see `older`) to follow after *looks* at them, None to lead.

    The oldest that answers with fresh knowledge. If all who answer know only what is old, they may lack what
    it takes to ask: then one after the other of the younger ones leads, each when those before it have had
    their turn; until ours comes we stay with the oldest.
    """
    alive = [
        (peer, looks[peer.task_arn])
        for peer in candidates
        if peer.task_arn in looks and not looks[peer.task_arn].failures
    ]
    fresh = next((peer for peer, look in alive if look.overdue_s <= 0), None)
    if fresh is not None or not alive:
        return fresh
    if min(look.overdue_s for _, look in alive) > TURN_S * (len(alive) - 1):
        return None
    return alive[0][0]
