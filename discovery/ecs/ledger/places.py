"""Where tasks run and what they are made of, as far as anybody has told. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace
from typing import Any, Final

from discovery.ecs.ledger.waiting import Change, Changes, Waiting, Wants
from discovery.ecs.shapes import ContainerInstance, TaskDefinition

# Definitions and instances that no task needs are kept for this long: a service may be rolled back.
_KEEP_UNUSED_S: Final = 2 * 3600.0
_LOOK_FOR_UNUSED_S: Final = 600.0


class Places:
    """The part of a ledger that is not about tasks. `clock` is monotonic seconds, `wall_clock` Unix time."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._instances: dict[str, ContainerInstance] = {}
        self._listed: Set[str] = frozenset()  # instances that ECS lists
        self._addresses: dict[str, str] = {}
        self._nowhere: set[str] = set()  # EC2 instances without an address
        self._definitions: dict[str, TaskDefinition] = {}
        self._notices: dict[str, str] = {}
        self._unused: dict[tuple[str, str], float] = {}  # (kind, key) to since when
        self._looked_s = clock()
        self._dirty: set[str] = set()
        self._changes = Changes()
        self._waiting = Waiting()

    # -- what is known ---------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """A number that rises with everything that changes."""
        return self._changes.revision

    @property
    def instances(self) -> Mapping[str, ContainerInstance]:
        """Container instances by ARN."""
        return self._instances

    @property
    def addresses(self) -> Mapping[str, str]:
        """Private addresses by EC2 instance id."""
        return self._addresses

    @property
    def nowhere(self) -> Set[str]:
        """EC2 instance ids that EC2 was asked about and has no address for (any more)."""
        return self._nowhere

    @property
    def definitions(self) -> Mapping[str, TaskDefinition]:
        """Task definitions by ARN."""
        return self._definitions

    @property
    def notices(self) -> Mapping[str, str]:
        """What EC2 has announced of an instance ("Spot interruption: terminate"), by EC2 instance id."""
        return self._notices

    def wants(self) -> Wants:
        """Return what must be asked before all that is known can be used.

        An EC2 instance without an address stays wanted as long as a task runs there: a new one is not
        known to EC2 at once. Ask for those `nowhere` more and more seldom.
        """
        return self._waiting.wants()

    def waiting(self, kind: str, key: str) -> int:
        """Return how many tasks wait for a "definition", "instance" or "address"."""
        return self._waiting.count(kind, key)

    def since(self, revision: int) -> list[Change]:
        """Return what has changed after *revision*, the oldest change first."""
        return self._changes.since(revision)

    def take_dirty(self) -> set[str]:
        """Return the groups that must be looked at anew, and forget that."""
        dirty, self._dirty = self._dirty, set()
        return dirty

    def on_instance(self, instance_arn: str) -> Set[str]:
        """Return the ARNs of the tasks on one container instance that are not known to have stopped.

        That is all ECS counts there, so also those that its agent does not list.
        """
        raise NotImplementedError

    # -- what is heard -----------------------------------------------------------------------------

    def hear_instance(self, instance: ContainerInstance) -> None:
        """Take one description of a container instance, however old."""
        old = self._instances.get(instance.arn)
        if old == instance or (old is not None and instance.version and instance.version < old.version):
            return
        self._instances[instance.arn] = instance
        self._changes.note("instance", instance.arn)
        self._dirty |= self._groups_of(self._waiting.arrived("instance", instance.arn))
        if old is None or replace(old, version=0) != replace(instance, version=0):
            self._dirty |= self._groups_of(self.on_instance(instance.arn))
        if instance.ec2_id and instance.ec2_id not in self._addresses:
            for arn in self.on_instance(instance.arn):
                self._waiting.want("address", instance.ec2_id, arn)

    def hear_instances_listed(self, arns: Iterable[str]) -> None:
        """Take a complete list of the cluster's instances: those are kept, tasks or not."""
        self._listed = frozenset(arns)
        self._forget_unused()

    def hear_address(self, ec2_id: str, address: str) -> None:
        """Take the private address of an EC2 instance; "" if EC2 was asked and has none."""
        before = (self._addresses.get(ec2_id), ec2_id in self._nowhere)
        if address:
            self._addresses[ec2_id] = address
            self._nowhere.discard(ec2_id)
        elif ec2_id not in self._addresses:  # one that it had is kept: it cannot change while it lives
            self._nowhere.add(ec2_id)
        if before == (self._addresses.get(ec2_id), ec2_id in self._nowhere):
            return
        waiting = self._waiting.arrived("address", ec2_id) if address else set()
        if address:
            self._changes.note("address", ec2_id)
        for instance in self._with_ec2_id(ec2_id):
            waiting |= self.on_instance(instance.arn)
        self._dirty |= self._groups_of(waiting)

    def hear_definition(self, definition: TaskDefinition) -> None:
        """Take a task definition; a revision never changes."""
        if definition.arn not in self._definitions:
            self._definitions[definition.arn] = definition
            self._changes.note("definition", definition.arn)
            self._dirty |= self._groups_of(self._waiting.arrived("definition", definition.arn))

    def hear_notice(self, ec2_id: str, notice: str) -> None:
        """Take it that EC2 will take an instance away; "" takes the notice back."""
        if self._notices.get(ec2_id, "") == notice:
            return
        self._notices[ec2_id] = notice
        self._changes.note("notice", ec2_id)
        for instance in self._with_ec2_id(ec2_id):
            self._dirty |= self._groups_of(self.on_instance(instance.arn))

    # -- inside ----------------------------------------------------------------------------------

    def _groups_of(self, arns: Iterable[str]) -> set[str]:
        """Return the groups in which the tasks *arns* are to be seen."""
        raise NotImplementedError

    def _definitions_in_use(self) -> Set[str]:
        """Return the ARNs of the definitions of all tasks."""
        raise NotImplementedError

    def _with_ec2_id(self, ec2_id: str) -> list[ContainerInstance]:
        return [instance for instance in self._instances.values() if instance.ec2_id == ec2_id]

    def _forget_unused(self) -> None:
        """Let go of what no task has needed for hours; looks for that now and then."""
        now_s = self._clock()
        if now_s - self._looked_s < _LOOK_FOR_UNUSED_S:
            return
        self._looked_s = now_s
        idle = {arn for arn in self._instances.keys() - self._listed if not self.on_instance(arn)}
        known = {instance.ec2_id for arn, instance in self._instances.items() if arn not in idle}
        unused = {("instance", arn) for arn in idle}
        unused |= {("definition", arn) for arn in self._definitions.keys() - self._definitions_in_use()}
        unused |= {("address", ec2_id) for ec2_id in (self._addresses.keys() | self._nowhere) - known}
        unused |= {("notice", ec2_id) for ec2_id in self._notices.keys() - known}
        self._unused = {item: self._unused.get(item, now_s) for item in unused}
        stores: Mapping[str, dict[str, Any]] = {
            "definition": self._definitions,
            "instance": self._instances,
            "address": self._addresses,
            "notice": self._notices,
        }
        for (kind, key), since_s in self._unused.items():
            if now_s - since_s >= _KEEP_UNUSED_S:
                stores[kind].pop(key, None)
                self._nowhere.discard(key)
                self._changes.forget(kind, key)
