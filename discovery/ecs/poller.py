"""One ECS cluster as a source of endpoints, by asking the API again and again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from discovery.ecs import shapes
from discovery.ecs.memory import InstanceMemory, ServiceMemory, TaskMemory
from discovery.ecs.queries import EcsQueries
from discovery.ecs.rules import ServiceRule
from discovery.ecs.shapes import TaskDefinition, World
from discovery.ecs.threads import all_of
from discovery.ecs.translate import translate
from discovery.model import DiscoveryError, HealthCheck, Snapshot, SourceStatus, Tls, Told

log = logging.getLogger("anyport.discovery.ecs")

_BACKOFF_MAX_S: Final = 60.0
_FIRST_RETRY_S: Final = 0.5
_SHORTEST_PAUSE: Final = 0.1  # of the interval, between the end of one question and the next
_STOPPED_AT_START: Final = 300  # how many recently stopped tasks to look at: three calls


class EcsPoller:
    """A `Source`: what the ECS API says of one cluster, asked every `interval_s`.

    Only complete answers count: after an error the last snapshot stands and the whole question is
    asked again, soon at first and then ever later, up to a minute. `clock` is monotonic seconds,
    `wall_clock` Unix time.
    """

    def __init__(
        self,
        api: EcsQueries,
        *,
        cluster: str,
        rules: Sequence[ServiceRule] = (),
        domain: str = "",
        default_health: HealthCheck = HealthCheck(),  # noqa: B008 - frozen
        default_tls: Tls = Tls(),  # noqa: B008 - frozen
        interval_s: float = 5.0,
        confirm_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.name = f"ecs:{shapes.short_name(cluster)}"
        self.status = SourceStatus(calls=api.calls)
        self._api = api
        self._cluster = cluster
        names = ("", cluster, shapes.short_name(cluster))
        self._rules = [r for r in rules if r.cluster in names or shapes.short_name(r.cluster) in names[1:]]
        self._domain = domain
        self._default_health = default_health
        self._default_tls = default_tls
        self._interval_s = interval_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._tasks = TaskMemory(confirm_s=confirm_s)
        self._instances = InstanceMemory()
        self._services = ServiceMemory()
        self._definitions: dict[str, TaskDefinition] = {}  # a revision never changes
        self._hurried = asyncio.Event()

    async def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the first complete snapshot, then every changed one, until cancelled."""
        last: Snapshot | None = None
        failures = 0
        while True:
            started_s = self._clock()
            try:
                snapshot = await self._refresh()
            except DiscoveryError as error:
                failures += 1
                self._failed(error)
                # No hurry cuts this short: haste is what spends a budget that is spent already.
                await self._sleep(retry_delay_s(failures, self._rng))
            else:
                failures = 0
                self._succeeded(started_s)
                if snapshot != last:
                    last = snapshot
                    yield snapshot
                # Jitter keeps many proxies from asking in the same second; only ever sooner, so that a
                # change is seen within one interval. A slow API is never asked without a pause.
                period_s = self._interval_s * self._rng.uniform(0.8, 1.0)
                delay_s = max(period_s - (self._clock() - started_s), _SHORTEST_PAUSE * self._interval_s)
                await self._pause(delay_s)

    def hurry(self, task_arn: str = "") -> None:
        """Ask again soon: as early as the shortest pause, or the back-off after an error, allows."""
        self._hurried.set()

    def told(self, task_arn: str) -> tuple[Told, ...]:
        """Return nothing yet."""
        return ()

    async def _pause(self, delay_s: float) -> None:
        """Wait *delay_s*, or less if someone is in a hurry, but never less than the shortest pause."""
        began_s = self._clock()
        pausing = asyncio.ensure_future(self._sleep(delay_s))
        hurried = asyncio.ensure_future(self._hurried.wait())
        try:
            await asyncio.wait((pausing, hurried), return_when=asyncio.FIRST_COMPLETED)
            if pausing.done():
                await pausing
            else:
                shortest_s = min(delay_s, self._interval_s * _SHORTEST_PAUSE)
                await self._sleep(max(0.0, shortest_s - (self._clock() - began_s)))
        finally:
            pausing.cancel()
            hurried.cancel()
        self._hurried.clear()

    async def _refresh(self) -> Snapshot:
        await self._refresh_tasks()
        tasks = self._tasks.live
        needed = sorted({task.instance_arn for task in tasks if task.instance_arn})
        if needed:
            described = await self._api.describe_container_instances(self._cluster, needed)
            self._instances.accept(map(shapes.container_instance, described.found), needed)
        unknown = self._instances.without_address()
        if unknown:
            self._instances.addresses |= await self._api.instance_addresses(unknown)
        new = {task.definition_arn for task in tasks} - self._definitions.keys()
        await all_of(self._learn(arn) for arn in sorted(new))
        world = World(
            cluster=shapes.short_name(self._cluster),
            tasks=tasks,
            instances=self._instances.by_arn,
            addresses=self._instances.addresses,
            definitions=self._definitions,
        )
        snapshot = translate(
            world,
            source=self.name,
            rules=self._rules,
            domain=self._domain,
            default_health=self._default_health,
            default_tls=self._default_tls,
            now_s=self._wall_clock(),
        )
        return self._services.complete(snapshot, self._clock())

    async def _learn(self, definition_arn: str) -> None:
        # Kept as they come: when the budget runs out half way, the next attempt goes on from here.
        raw = await self._api.describe_task_definition(definition_arn)
        self._definitions[definition_arn] = shapes.task_definition(raw)

    async def _refresh_tasks(self) -> None:
        """Look at every task that is listed or was known, so that a stopping task is seen to stop."""
        listed = await self._api.list_tasks(self._cluster)
        arns = list(listed)
        if not self.status.refreshes:
            # At the start nothing is known, but tasks that are on their way out still hold sessions.
            stopping = await self._api.list_tasks(self._cluster, desired_status="STOPPED")
            arns += stopping[:_STOPPED_AT_START]
        arns += [task.arn for task in self._tasks.live]
        described = await self._api.describe_tasks(self._cluster, arns)
        # Listed as running and yet unknown is a contradiction, and no proof of an end.
        missing = set(described.missing) - set(listed)
        self._tasks.accept(map(shapes.task, described.found), missing, self._clock())

    def _succeeded(self, asked_s: float) -> None:
        if self.status.last_error:
            log.info("%s: answers completely again", self.name)
        self.status.last_error = ""
        self.status.asked_s = asked_s
        self.status.last_success_s = self._clock()
        self.status.refreshes += 1

    def _failed(self, error: DiscoveryError) -> None:
        self.status.errors[error.kind] += 1
        text = str(error)
        if text != self.status.last_error:
            log.warning("%s: %s", self.name, text)
        self.status.last_error = text


def retry_delay_s(failures: int, rng: random.Random) -> float:
    """Return how long to wait after so many failures in a row: half a second at first, at most a minute."""
    longest = min(_FIRST_RETRY_S * 2.0 ** min(failures - 1, 10), _BACKOFF_MAX_S)
    return rng.uniform(0.5, 1.0) * longest
