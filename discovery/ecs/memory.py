"""What a poller remembers between answers, so that none of them can take it back in time. No I/O.

The ECS API is eventually consistent: one call may still say what the one before had already changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from discovery.ecs.shapes import Container, ContainerInstance, Task
from discovery.model import Service, Snapshot

_GONE: Final = ("STOPPED", "DELETED")
# ECS itself shows stopped tasks for about an hour; nothing it could still say is older than this.
_REMEMBER_S: Final = 2 * 3600.0


class TaskMemory:
    """The newest copy seen of every task that is not known to have stopped."""

    def __init__(self, *, confirm_s: float) -> None:
        self._confirm_s = confirm_s
        self._live: dict[str, Task] = {}
        self._stopped: dict[str, float] = {}  # ARN to when its end was seen
        self._doubted: dict[str, float] = {}  # ARN to when it was first missing

    @property
    def live(self) -> tuple[Task, ...]:
        """All tasks that have not been seen to stop, in no particular order."""
        return tuple(self._live.values())

    def accept(self, found: Iterable[Task], missing: Iterable[str], now_s: float) -> None:
        """Take one complete answer: the tasks it shows, and the known ones ECS says it does not know.

        A task is forgotten when it is seen to stop, or missing. If more than half of a service's
        tasks go missing at once, without one word of their stopping, the answer is doubted: they stay
        until a complete answer `confirm_s` later still lacks them.
        """
        self._stopped = {arn: seen for arn, seen in self._stopped.items() if now_s - seen < _REMEMBER_S}
        gone = {arn for arn in missing if arn in self._live}
        doubtful = self._doubtful(gone) | (gone & self._doubted.keys())
        for task in found:
            self._doubted.pop(task.arn, None)
            if task.arn in self._stopped:
                continue
            if task.last_status in _GONE:
                self._stopped[task.arn] = now_s
                self._live.pop(task.arn, None)
            else:
                self._live[task.arn] = _newer(self._live.get(task.arn), task)
        for arn in gone:
            if arn in doubtful and now_s - self._doubted.setdefault(arn, now_s) < self._confirm_s:
                continue
            self._doubted.pop(arn, None)
            del self._live[arn]

    @property
    def doubting(self) -> int:
        """How many tasks are kept although the last answer lacked them."""
        return len(self._doubted)

    def _doubtful(self, gone: set[str]) -> set[str]:
        total: dict[str, int] = {}
        lost: dict[str, int] = {}
        for task in self._live.values():
            # A task that was already stopping may well be gone: that is no surprise.
            if task.desired_status == "RUNNING":
                total[task.group] = total.get(task.group, 0) + 1
                lost[task.group] = lost.get(task.group, 0) + (task.arn in gone)
        return {
            arn
            for arn in gone
            if (task := self._live[arn]).desired_status == "RUNNING"
            and 2 * lost[task.group] > total[task.group]
        }


def _newer(old: Task | None, new: Task) -> Task:
    """Return what is known of a task after `new`, never less than before."""
    if old is None:
        return new
    if new.version and new.version < old.version:
        return old
    if old.desired_status == "STOPPED" and new.desired_status != "STOPPED":
        return old  # ECS never takes a stop back
    containers = []
    for container in new.containers:
        before = old.container(container.name)
        containers.append(_carried(before, container) if before else container)
    return replace(
        new,
        containers=tuple(containers),
        version=max(old.version, new.version),
        started_at=new.started_at or old.started_at,
    )


def _carried(old: Container, new: Container) -> Container:
    """Keep what cannot have changed while one and the same container runs."""
    if new.last_status != "RUNNING" or old.last_status != "RUNNING" or new.runtime_id != old.runtime_id:
        return new
    return replace(
        new,
        bindings=new.bindings or old.bindings,
        ipv4=new.ipv4 or old.ipv4,
        ipv6=new.ipv6 or old.ipv6,
        # After a first verdict, UNKNOWN only means that ECS has lost sight of the agent.
        health=old.health if new.health == "UNKNOWN" else new.health,
    )


class InstanceMemory:
    """The newest copy seen of every container instance that a task needs."""

    def __init__(self) -> None:
        self._by_arn: dict[str, ContainerInstance] = {}
        self.addresses: dict[str, str] = {}  # by EC2 instance id; it never changes while that lives

    @property
    def by_arn(self) -> Mapping[str, ContainerInstance]:
        return self._by_arn

    def accept(self, found: Iterable[ContainerInstance], needed: Iterable[str]) -> None:
        """Take one complete answer. A needed instance that it lacks stays as it was last seen."""
        for instance in found:
            old = self._by_arn.get(instance.arn)
            if old is None or not instance.version or instance.version >= old.version:
                self._by_arn[instance.arn] = instance
        self._by_arn = {arn: self._by_arn[arn] for arn in set(needed) if arn in self._by_arn}
        ids = {instance.ec2_id for instance in self._by_arn.values()}
        self.addresses = {ec2_id: ip for ec2_id, ip in self.addresses.items() if ec2_id in ids}

    def without_address(self) -> list[str]:
        """Return the EC2 instances to ask for; "mi-" is an ECS Anywhere machine, unknown to EC2."""
        ids = {instance.ec2_id for instance in self._by_arn.values() if instance.ec2_id.startswith("i-")}
        return sorted(ids - self.addresses.keys())


class ServiceMemory:
    """Services that only their tasks describe, for a while after the last task is gone.

    Scaled to nothing, a service has no task (503), but it is not unknown (404).
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Service, float]] = {}

    def complete(self, snapshot: Snapshot, now_s: float) -> Snapshot:
        """Return `snapshot` with the services it has lost, as far as nothing else took their place."""
        self._seen = {name: seen for name, seen in self._seen.items() if now_s - seen[1] < _REMEMBER_S}
        self._seen |= {name: (service, now_s) for name, service in snapshot.services.items()}
        taken = {(host, s.path) for s in snapshot.services.values() for host in s.hosts}
        kept = {
            name: service
            for name, (service, _) in sorted(self._seen.items())
            if name not in snapshot.services
            and not any((host, service.path) in taken for host in service.hosts)
        }
        if not kept:
            return snapshot
        return replace(snapshot, services=MappingProxyType({**snapshot.services, **kept}))
