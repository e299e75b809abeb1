"""Tasks whose containers have not passed their own health check yet. No I/O."""

from __future__ import annotations

from typing import Final

from discovery.ecs.ledger.ledger import Ledger

_SOON_S: Final = 5.0
_PATIENT_AFTER_S: Final = 60.0  # from then on it is a long start, or a check that never passes
_LATER_S: Final = 20.0


class StartingTasks:
    """Which tasks to describe again: no event tells of the verdict of a container's health check."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._revision = 0
        self._since: dict[str, float] = {}  # tasks to when they were first seen to wait for it
        self._asked: dict[str, float] = {}

    def due(self, now_s: float) -> set[str]:
        """Return the tasks to ask for now; *now_s* is monotonic."""
        for change in self._ledger.since(self._revision):
            if change.kind == "task":
                self._since.setdefault(change.key, now_s)
        self._revision = self._ledger.revision
        self._since = {arn: since_s for arn, since_s in self._since.items() if self._waits(arn)}
        due = {arn for arn, since_s in self._since.items() if self._is_due(arn, now_s - since_s, now_s)}
        self._asked = {arn: self._asked.get(arn, now_s) for arn in self._since} | dict.fromkeys(due, now_s)
        return due

    def _is_due(self, arn: str, waited_s: float, now_s: float) -> bool:
        pause_s = _SOON_S if waited_s < _PATIENT_AFTER_S else _LATER_S
        return arn in self._asked and now_s - self._asked[arn] >= pause_s

    def _waits(self, arn: str) -> bool:
        task = self._ledger.task(arn)
        if task is None or task.desired_status != "RUNNING":
            return False
        definition = self._ledger.definitions.get(task.definition_arn)
        if definition is None:
            return True  # not known yet whether it has a check
        for container in task.containers:
            described = definition.container(container.name)
            if described is not None and described.has_health_check and container.health == "UNKNOWN":
                return True
        return False
