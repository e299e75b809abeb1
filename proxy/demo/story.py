"""What happens to the cluster while users use it: the steps, their order, and waiting for each to settle."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

SETTLE_WITHIN_S: Final = 30.0
PAUSE_S: Final = 0.6  # between steps, for the eye

Kind = Literal["scale-out", "deploy", "kill", "scale-in", "drain"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do; a drain is of an instance, everything else of a service."""

    kind: Kind
    service: str = ""
    instance: int = 0  # which one, counted from 0


def steps(services: tuple[str, ...], instances: int) -> Iterator[Step]:
    """Yield steps for ever: round by round, each kind moving on to the next service.

    With several services each kind meets another one, so that they overlap in the eye of the
    reader; the service that grew is the one that shrinks.
    """
    count = len(services)
    for turn in itertools.count():
        grown = services[turn % count]
        yield Step("scale-out", grown)
        yield Step("deploy", services[(turn + 1) % count])
        yield Step("kill", services[(turn + 2) % count])
        yield Step("scale-in", grown)
        yield Step("drain", instance=turn % instances)


class StepError(Exception):
    """The cluster refused a step; the text says which call and why."""


class Cluster(Protocol):
    """What the story does to a cluster, and what it sees of it."""

    @property
    def base(self) -> Mapping[str, int]:
        """How many tasks each service has outside a scale-out."""
        ...

    async def scale(self, service: str, count: int) -> None: ...

    async def deploy(self, service: str) -> int:
        """Start a rolling deploy; return the number of the new release."""
        ...

    async def kill(self, service: str) -> str:
        """Kill the processes of a ready task with -9; return its short id, "" if it is the last one."""
        ...

    async def drain(self, instance: int) -> str:
        """Set an instance to DRAINING; return its id."""
        ...

    async def activate(self, instance: int) -> None: ...

    def tasks(self, service: str) -> frozenset[str]:
        """Return the tasks ECS wants to run."""
        ...

    def settled(self, service: str) -> bool:
        """Return whether ECS has what it wants and anyport routes to just that."""
        ...

    def is_empty(self, instance: int) -> bool:
        """Return whether no task is meant to run on an instance."""
        ...


class Until(Protocol):
    def __call__(self, condition: Callable[[], bool], *, within_s: float) -> Awaitable[bool]: ...


class Story:
    """Performs the steps, and counts those that were carried through."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        say: Callable[[str], None],
        until: Until,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.done: Counter[Kind] = Counter()
        self.replacements = 0  # tasks whose place another one took
        self._cluster, self._say, self._until, self._sleep = cluster, say, until, sleep

    async def run(self, plan: Iterator[Step]) -> None:
        """Perform *plan*, a step at a time."""
        for step in plan:
            try:
                await self.perform(step)
            except StepError as exc:
                self._say(f"{step.kind} was refused: {exc}")
            await self._sleep(PAUSE_S)

    async def perform(self, step: Step) -> None:
        """Perform one step and wait until the cluster has settled."""
        cluster = self._cluster
        before = self._all_tasks()
        match step.kind:
            case "scale-out":
                count = cluster.base[step.service] + 1
                self._say(f"SCALE OUT {step.service} to {count} tasks")
                await cluster.scale(step.service, count)
            case "scale-in":
                count = cluster.base[step.service]
                self._say(f"SCALE IN {step.service} to {count} tasks")
                await cluster.scale(step.service, count)
            case "deploy":
                release = await cluster.deploy(step.service)
                self._say(f"DEPLOY {step.service} release {release}")
            case "kill":
                task = await cluster.kill(step.service)
                if not task:
                    self._say(f"no kill: {step.service} has one task only, its end would be an outage")
                    return
                self._say(f"KILL -9 {step.service} task {task}")
            case "drain":
                self._say(f"DRAIN instance {await cluster.drain(step.instance)}")
        settled = await self._settle(step, before)
        if step.kind == "drain":
            await cluster.activate(step.instance)
        if settled:
            self.done[step.kind] += 1
            if step.kind in ("deploy", "kill", "drain"):
                self.replacements += len(before - self._all_tasks())

    async def _settle(self, step: Step, before: frozenset[str]) -> bool:
        def settled() -> bool:
            if not all(map(self._cluster.settled, self._cluster.base)):
                return False
            if step.kind == "kill":  # ECS has yet to notice
                return self._all_tasks() != before
            return step.kind != "drain" or self._cluster.is_empty(step.instance)

        if await self._until(settled, within_s=SETTLE_WITHIN_S):
            return True
        self._say(f"{step.kind} has not settled within {SETTLE_WITHIN_S:g} s; going on")
        return False

    def _all_tasks(self) -> frozenset[str]:
        return frozenset().union(*map(self._cluster.tasks, self._cluster.base))
