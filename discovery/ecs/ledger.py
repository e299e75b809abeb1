"""All that is known of one ECS cluster, whoever told it. No I/O.

Informants (the poller, events, the agent beside us, another proxy, the disk) say what they have seen, in any
order and more than once. The ledger keeps the newest word on each thing and what that changes, so that every
order of the same news ends in the same ledger:

* a task's `version` only rises, and of two words with one version neither takes back what cannot be undone;
* a stop is never taken back, and what was seen to have stopped never returns;
* the agent on a task's own instance is believed before everybody else about it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from discovery.ecs.shapes import Container, ContainerInstance, Task, TaskDefinition
from discovery.model import Told

GONE: Final = ("STOPPED", "DELETED")
# ECS itself shows stopped tasks for about an hour; nothing it could still say is older than this.
REMEMBER_S: Final = 2 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What the agent on its instance says of a task."""

    arn: str
    definition: str  # "web:42"
    known_status: str  # PENDING, RUNNING or STOPPED
    desired_status: str = ""  # RUNNING, STOPPED, or "" where the agent does not say
    containers: tuple[Container, ...] = ()  # names, states and bindings; no health


class Wants(NamedTuple):
    """What must be asked before all that is known can be used."""

    definitions: Set[str]  # ARNs
    instances: Set[str]  # ARNs of container instances
    addresses: Set[str]  # EC2 instance ids, "i-..."
    tasks: Set[str]  # ARNs an agent has seen and nobody has described


class Change(NamedTuple):
    """One thing that is different since some revision: look its present state up in the ledger."""

    kind: str  # "task", "gone" (a task), "instance", "address", "definition" or "notice"
    key: str  # its ARN, or the EC2 instance id


@dataclass(slots=True)
class _Entry:
    task: Task | None = None  # as described: None while only the agent knows of it
    sighting: Sighting | None = None  # as the agent has it
    unlisted: bool = False  # the agent of its instance does not list it (any more)
    told: dict[str, Told] = field(default_factory=dict)  # by informant


class Ledger:
    """The newest word on every task, instance and definition of one cluster.

    `clock` is monotonic seconds, `wall_clock` Unix time.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self.revision = 0  # rises with everything that changes
        self._entries: dict[str, _Entry] = {}
        self._groups: dict[str, dict[str, Task]] = {}
        self._on_instance: dict[str, set[str]] = {}  # instance ARN to tasks
        self._buried: dict[str, float] = {}  # tasks that have stopped, and when that was heard
        self._doubted: dict[str, float] = {}  # tasks to when they were first missing
        self._instances: dict[str, ContainerInstance] = {}
        self._addresses: dict[str, str] = {}
        self._definitions: dict[str, TaskDefinition] = {}
        self._notices: dict[str, str] = {}
        self._dirty: set[str] = set()
        self._log: dict[Change, int] = {}  # to the revision it last changed in, the newest last
        self._wanted: dict[str, dict[str, set[str]]] = {  # kind, key, groups that wait for it
            "definition": {}, "instance": {}, "address": {},
        }  # fmt: skip
        self._undescribed: set[str] = set()

    # -- what is known ---------------------------------------------------------------------------

    @property
    def groups(self) -> Mapping[str, Mapping[str, Task]]:
        """Every task that is not known to be gone, by its group ("service:web") and ARN."""
        return self._groups

    @property
    def instances(self) -> Mapping[str, ContainerInstance]:
        """Container instances by ARN."""
        return self._instances

    @property
    def addresses(self) -> Mapping[str, str]:
        """Private addresses by EC2 instance id."""
        return self._addresses

    @property
    def definitions(self) -> Mapping[str, TaskDefinition]:
        """Task definitions by ARN."""
        return self._definitions

    @property
    def notices(self) -> Mapping[str, str]:
        """What EC2 has announced of an instance ("Spot interruption: terminate"), by EC2 instance id."""
        return self._notices

    @property
    def doubted(self) -> Set[str]:
        """Tasks that are kept although the last complete answer lacked them."""
        return self._doubted.keys()

    def task(self, arn: str) -> Task | None:
        """Return a task as it is to be seen, None if it is gone or was never described."""
        entry = self._entries.get(arn)
        return _seen(entry) if entry is not None else None

    def tasks(self) -> Iterator[Task]:
        """Yield every task that is not known to be gone."""
        for group in self._groups.values():
            yield from group.values()

    def on_instance(self, instance_arn: str) -> Set[str]:
        """Return the ARNs of the tasks described on one container instance and not known to be gone."""
        return self._on_instance.get(instance_arn, frozenset())

    def buried(self, arn: str) -> bool:
        """Say whether a task has been seen to stop."""
        return arn in self._buried

    def told(self, arn: str) -> tuple[Told, ...]:
        """Return the newest word of each informant on a task, newest first."""
        entry = self._entries.get(arn)
        return tuple(sorted(entry.told.values(), key=lambda t: -t.at_s)) if entry is not None else ()

    def wants(self) -> Wants:
        """Return what must be asked before all that is known can be used."""
        wanted = self._wanted
        return Wants(
            wanted["definition"].keys(),
            wanted["instance"].keys(),
            {ec2_id for ec2_id in wanted["address"] if ec2_id.startswith("i-")},
            self._undescribed,
        )

    def since(self, revision: int) -> list[Change]:
        """Return what has changed after *revision*, the oldest change first."""
        found = []
        for change, changed_in in reversed(self._log.items()):
            if changed_in <= revision:
                break
            found.append(change)
        found.reverse()
        return found

    def take_dirty(self) -> set[str]:
        """Return the groups that must be looked at anew, and forget that."""
        dirty, self._dirty = self._dirty, set()
        return dirty

    # -- what is heard ---------------------------------------------------------------------------

    def hear_task(self, task: Task, *, by: str) -> None:
        """Take one description of a task, however old."""
        if task.arn in self._buried:
            return
        if task.last_status in GONE:
            self.hear_gone(task.arn, by=by)
            return
        self._doubted.pop(task.arn, None)
        self._undescribed.discard(task.arn)
        entry = self._entries.setdefault(task.arn, _Entry())
        entry.told[by] = Told(by, _in_words(task), self._wall_clock())
        merged = newer(entry.task, task)
        if merged == entry.task:
            return
        self._replace(entry, replace_task=merged)

    def hear_gone(self, arn: str, *, by: str) -> None:
        """Take it that a task has stopped, or that ECS positively does not know it (any more)."""
        if arn in self._buried:
            return
        del by  # nobody asks who buried it
        self._buried[arn] = self._clock()
        self._doubted.pop(arn, None)
        self._undescribed.discard(arn)
        entry = self._entries.pop(arn, None)
        if entry is not None:
            self._place(entry.task, None)
        self._log.pop(Change("task", arn), None)
        self._note("gone", arn)
        self._forget_buried()

    def hear_missing(
        self, arns: Collection[str], *, by: str, confirm_s: float, agreed: Set[str] = frozenset()
    ) -> set[str]:
        """Take it that a complete answer lacks *arns*; return the groups that DescribeServices is to confirm.

        A missing task is gone. But if more than half of a group goes missing at once, without one word of
        its stopping, the answer is doubted: the tasks stay until a complete answer `confirm_s` later still
        lacks them, and, for an ECS service, its group is in *agreed*: DescribeServices has told that no
        more tasks run than are left.
        """
        now_s = self._clock()
        gone = {arn for arn in arns if arn in self._entries and self._entries[arn].task is not None}
        doubtful = self._doubtful(gone) | (gone & self._doubted.keys())
        ask = set()
        for arn in gone:
            task = self._entries[arn].task
            assert task is not None
            if arn in doubtful:
                overdue = now_s - self._doubted.setdefault(arn, now_s) >= confirm_s
                if overdue and task.ecs_service and task.group not in agreed:
                    ask.add(task.group)
                    continue
                if not overdue:
                    continue
            self.hear_gone(arn, by=by)
        return ask

    def hear_agent(self, instance_arn: str, sightings: Iterable[Sighting], *, by: str = "agent") -> None:
        """Take one complete answer of the agent on an instance."""
        seen = {sighting.arn: sighting for sighting in sightings}
        for arn, sighting in seen.items():
            if arn in self._buried:
                continue
            if sighting.known_status in GONE:
                self.hear_gone(arn, by=by)
                continue
            entry = self._entries.setdefault(arn, _Entry())
            if entry.task is None:
                self._undescribed.add(arn)
            if entry.sighting != sighting or entry.unlisted:
                entry.told[by] = Told(by, _in_words(sighting), self._wall_clock())
                self._replace(entry, sighting=sighting)
        for arn in self.on_instance(instance_arn) - seen.keys():
            entry = self._entries[arn]
            # One the agent has never listed may be on its way to it: then it has no port yet either.
            if not entry.unlisted and entry.task is not None and entry.task.last_status != "PENDING":
                entry.told[by] = Told(by, "not listed", self._wall_clock())
                self._replace(entry, unlisted=True)

    def hear_instance(self, instance: ContainerInstance) -> None:
        """Take one description of a container instance, however old."""
        old = self._instances.get(instance.arn)
        if old == instance or (old is not None and instance.version and instance.version < old.version):
            return
        self._instances[instance.arn] = instance
        self._note("instance", instance.arn)
        self._arrived("instance", instance.arn)
        if old is None or replace(old, version=0) != replace(instance, version=0):
            self._dirty |= self._groups_on(instance.arn)
        if instance.ec2_id and instance.ec2_id not in self._addresses:
            self._want("address", instance.ec2_id, self._groups_on(instance.arn))

    def hear_address(self, ec2_id: str, address: str) -> None:
        """Take the private address of an EC2 instance."""
        if self._addresses.get(ec2_id) != address:
            self._addresses[ec2_id] = address
            self._note("address", ec2_id)
            self._arrived("address", ec2_id)

    def hear_definition(self, definition: TaskDefinition) -> None:
        """Take a task definition; a revision never changes."""
        if definition.arn not in self._definitions:
            self._definitions[definition.arn] = definition
            self._note("definition", definition.arn)
            self._arrived("definition", definition.arn)

    def hear_notice(self, ec2_id: str, notice: str) -> None:
        """Take it that EC2 will take an instance away; "" takes the notice back."""
        if self._notices.get(ec2_id, "") == notice:
            return
        self._notices[ec2_id] = notice
        self._note("notice", ec2_id)
        for instance in self._instances.values():
            if instance.ec2_id == ec2_id:
                self._dirty |= self._groups_on(instance.arn)

    # -- inside ----------------------------------------------------------------------------------

    def _replace(
        self,
        entry: _Entry,
        *,
        replace_task: Task | None = None,
        sighting: Sighting | None = None,
        unlisted: bool = False,
    ) -> None:
        before = _seen(entry)
        if replace_task is not None:
            entry.task = replace_task
        else:
            entry.sighting, entry.unlisted = sighting or entry.sighting, unlisted
        after = _seen(entry)
        if before == after:
            return
        self._place(before, after)
        task = after or before
        assert task is not None
        self._note("task", task.arn)

    def _place(self, before: Task | None, after: Task | None) -> None:
        if before is not None:
            group = self._groups.get(before.group, {})
            group.pop(before.arn, None)
            if not group:
                self._groups.pop(before.group, None)
            self._dirty.add(before.group)
            if after is None:
                self._on_instance.get(before.instance_arn, set()).discard(before.arn)
        if after is not None:
            self._groups.setdefault(after.group, {})[after.arn] = after
            self._dirty.add(after.group)
            if after.definition_arn not in self._definitions:
                self._want("definition", after.definition_arn, {after.group})
            if after.instance_arn:
                self._on_instance.setdefault(after.instance_arn, set()).add(after.arn)
                instance = self._instances.get(after.instance_arn)
                if instance is None:
                    self._want("instance", after.instance_arn, {after.group})
                elif instance.ec2_id not in self._addresses:
                    self._want("address", instance.ec2_id, {after.group})

    def _note(self, kind: str, key: str) -> None:
        self.revision += 1
        change = Change(kind, key)
        self._log.pop(change, None)
        self._log[change] = self.revision

    def _want(self, kind: str, key: str, groups: Set[str]) -> None:
        self._wanted[kind].setdefault(key, set()).update(groups)

    def _arrived(self, kind: str, key: str) -> None:
        self._dirty |= self._wanted[kind].pop(key, set())

    def _groups_on(self, instance_arn: str) -> set[str]:
        tasks = (self.task(arn) for arn in self.on_instance(instance_arn))
        return {task.group for task in tasks if task is not None}

    def _doubtful(self, gone: Set[str]) -> set[str]:
        total: dict[str, int] = {}
        lost: dict[str, int] = {}
        for name in {task.group for arn in gone if (task := self._entries[arn].task) is not None}:
            # A task that was already stopping may well be gone: that is no surprise.
            staying = [t.arn for t in self._groups.get(name, {}).values() if t.desired_status == "RUNNING"]
            total[name], lost[name] = len(staying), sum(arn in gone for arn in staying)
        return {
            arn
            for arn in gone
            if (task := self._entries[arn].task) is not None
            and task.desired_status == "RUNNING"
            and 2 * lost[task.group] > total[task.group]
        }

    def _forget_buried(self) -> None:
        now_s = self._clock()
        while self._buried:
            arn, heard_s = next(iter(self._buried.items()))
            if now_s - heard_s < REMEMBER_S:
                return
            del self._buried[arn]
            self._log.pop(Change("gone", arn), None)


def newer(old: Task | None, new: Task) -> Task:
    """Return what is known of a task after *new*, never less than before."""
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


def _seen(entry: _Entry) -> Task | None:
    """Return a task as it is to be seen: as described, with what its own agent says laid over it."""
    task, sighting = entry.task, entry.sighting
    if task is None or entry.unlisted:
        return None
    if sighting is None:
        return task
    started = sighting.known_status == "RUNNING" and task.last_status in (
        "PROVISIONING",
        "PENDING",
        "ACTIVATING",
    )
    return replace(
        task,
        last_status="RUNNING" if started else task.last_status,
        desired_status="STOPPED" if sighting.desired_status == "STOPPED" else task.desired_status,
        containers=_laid_over(task.containers, sighting.containers),
    )


def _laid_over(described: tuple[Container, ...], seen: tuple[Container, ...]) -> tuple[Container, ...]:
    by_name = {container.name: container for container in seen}
    result = []
    for container in described:
        there = by_name.get(container.name)
        if there is None:
            result.append(container)
            continue
        same = there.runtime_id == container.runtime_id or not container.runtime_id
        result.append(
            replace(
                container,
                last_status=there.last_status,
                runtime_id=there.runtime_id or container.runtime_id,
                bindings=there.bindings or (container.bindings if same else ()),
                ipv4=there.ipv4 or container.ipv4,
                ipv6=there.ipv6 or container.ipv6,
            )
        )
    known = {container.name for container in described}
    return (*result, *(container for container in seen if container.name not in known))


def _in_words(word: Task | Sighting) -> str:
    if isinstance(word, Sighting):
        return word.known_status + (", to be STOPPED" if word.desired_status == "STOPPED" else "")
    stopping = ", to be STOPPED" if word.desired_status == "STOPPED" else ""
    return f"{word.last_status}{stopping}" + (f", version {word.version}" if word.version else "")
