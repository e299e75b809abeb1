"""To which service a task belongs that nobody has described: the agent does not say. No I/O.

A task of a revision all of whose tasks have ever been of one ECS service will be of that one too. It is a
guess, and two things can make it wrong: a second service of the very same revision that has just been made,
and a task that somebody starts by hand with the definition of a service. So it is made only where the API has
had its time to describe the task and has not, and the API's word replaces it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from discovery.ecs.shapes import Task

_MOST_DEFINITIONS: Final = 10_000


class Groups:
    """Remembers which groups have had tasks of which definition, those that are gone included."""

    def __init__(self) -> None:
        self._of: dict[str, set[str]] = {}  # by ARN of the definition

    def see(self, tasks: Iterable[Task | None]) -> None:
        """Remember the groups of *tasks*; None is passed over."""
        for task in tasks:
            if task is None or not task.group:
                continue
            known = self._of.get(task.definition_arn)
            if known is not None:
                known.add(task.group)
            else:
                if len(self._of) >= _MOST_DEFINITIONS:
                    del self._of[next(iter(self._of))]
                self._of[task.definition_arn] = {task.group}

    def only(self, definition_arn: str) -> str:
        """Return the one group of *definition_arn*, "" if there are several or none is known."""
        groups = self._of.get(definition_arn, ())
        return next(iter(groups)) if len(groups) == 1 else ""
