"""What a ledger has changed, and what it lacks. No I/O."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple


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


class Changes:
    """The revision in which each thing has changed last."""

    def __init__(self) -> None:
        self.revision = 0
        self._log: dict[Change, int] = {}  # the newest last

    def note(self, kind: str, key: str) -> None:
        """Take it that a thing has changed just now."""
        self.revision += 1
        change = Change(kind, key)
        self._log.pop(change, None)
        self._log[change] = self.revision

    def forget(self, kind: str, key: str) -> None:
        """Take it that nobody needs to hear of a thing any more."""
        self._log.pop(Change(kind, key), None)

    def since(self, revision: int) -> list[Change]:
        """Return what has changed after *revision*, the oldest change first."""
        found = []
        for change, changed_in in reversed(self._log.items()):
            if changed_in <= revision:
                break
            found.append(change)
        found.reverse()
        return found


class Waiting:
    """The tasks that wait for something to be told, and what that is."""

    def __init__(self) -> None:
        self.tasks: set[str] = set()  # those that nobody has described
        self._for: dict[tuple[str, str], set[str]] = {}  # (kind, key) to the tasks that wait for it
        self._of: dict[str, set[tuple[str, str]]] = {}  # and the other way round

    def wants(self) -> Wants:
        """Return what somebody waits for. "mi-" is an ECS Anywhere machine, unknown to EC2."""
        keys: dict[str, set[str]] = {"definition": set(), "instance": set(), "address": set()}
        for kind, key in self._for:
            keys[kind].add(key)
        addresses = {ec2_id for ec2_id in keys["address"] if ec2_id.startswith("i-")}
        return Wants(keys["definition"], keys["instance"], addresses, frozenset(self.tasks))

    def want(self, kind: str, key: str, task_arn: str) -> None:
        """Take it that a task cannot be used before *key* is known."""
        self._for.setdefault((kind, key), set()).add(task_arn)
        self._of.setdefault(task_arn, set()).add((kind, key))

    def of(self, task_arn: str) -> set[tuple[str, str]]:
        """Return what a task waits for, as (kind, key); the kind "task" is its own description."""
        own = {("task", task_arn)} if task_arn in self.tasks else set()
        return own | self._of.get(task_arn, set())

    def count(self, kind: str, key: str) -> int:
        """Return how many tasks wait for *key*."""
        return len(self._for.get((kind, key), ()))

    def arrived(self, kind: str, key: str) -> set[str]:
        """Return the tasks that waited for *key*, which is known now."""
        tasks = self._for.pop((kind, key), set())
        for arn in tasks:
            waits = self._of[arn]
            waits.discard((kind, key))
            if not waits:
                del self._of[arn]
        return tasks

    def undescribed(self, task_arn: str) -> None:
        """Take it that only an agent has spoken of a task."""
        self.tasks.add(task_arn)

    def described(self, task_arn: str) -> None:
        """Take it that a task is described."""
        self.tasks.discard(task_arn)

    def drop(self, task_arn: str) -> None:
        """Take it that a task is of no interest any more, and so is what only it waits for."""
        self.tasks.discard(task_arn)
        for item in self._of.pop(task_arn, ()):
            waiting = self._for[item]
            waiting.discard(task_arn)
            if not waiting:
                del self._for[item]
