"""The ECS API as a feed: asked again and again, and the only one believed about what it lacks."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Set
from typing import Final

from discovery.backoff import retry_delay_s
from discovery.ecs import shapes
from discovery.ecs.aws.queries import EcsQueries, Json
from discovery.ecs.aws.threads import all_of, together
from discovery.ecs.feed import Heard
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.poll.pace import Job, Pace, jitter
from discovery.model import DiscoveryError

_BATCH: Final = 100  # what one call or one page may hold
_ENDING: Final = ("DEACTIVATING", "STOPPING", "DEPROVISIONING")
_STOPPED_AT_START: Final = 3  # pages of recently stopped tasks to look at


class ApiPoller:
    """Tells *ledger* what the ECS API says of one cluster; a `Feed`.

    `eased()` says that others tell of each change as it happens, so that the API need only be asked for
    what was lost on the way; `deploying()` that a deployment is going on. `failed` is told of each error.
    Only a complete answer takes a task away. After an error the question is asked again, soon at first and
    then ever later, up to a minute. `clock` is monotonic seconds.
    """

    name: Final = "api"

    def __init__(
        self,
        api: EcsQueries,
        ledger: Ledger,
        heard: Heard,
        *,
        cluster: str,
        interval_s: float = 5.0,
        confirm_s: float = 10.0,
        eased: Callable[[], bool] = lambda: False,
        deploying: Callable[[], bool] = lambda: False,
        failed: Callable[[DiscoveryError], None] = lambda error: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._heard = heard
        self._cluster = cluster
        self._confirm_s = confirm_s
        self._eased = eased
        self._deploying = deploying
        self._failed = failed
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._pace = Pace(interval_s=interval_s, confirm_s=confirm_s)
        self.paused = False  # another proxy asks in our stead
        self._woken = asyncio.Event()
        self._hurried = False
        self._in_doubt: set[str] = set()
        self._calls = 0  # of the present job

    def hurry(self) -> None:
        """Ask again soon, as early as the shortest pause, or the back-off after an error, allows."""
        self._hurried = not self.paused
        self._woken.set()

    def doubt(self, task_arns: Iterable[str]) -> None:
        """Look at these tasks before all else: somebody has reason to think that they are gone."""
        self._in_doubt.update(task_arns)
        self._woken.set()

    def wake(self) -> None:
        """Think again about when to ask next: whether others tell of changes may have changed."""
        self._woken.set()

    def pause(self) -> None:
        """Ask nothing any more but what is in doubt: another proxy asks, and tells us."""
        self.paused = True
        self._hurried = False

    def resume(self) -> None:
        """Ask again, and at once."""
        if self.paused:
            self.paused = False
            self._hurried = True
            self._woken.set()

    @property
    def complete_every_s(self) -> float:
        """How old a complete answer gets, if all goes well, before the next one replaces it."""
        return self._pace.complete_every_s(eased=self._eased())

    async def run(self) -> None:
        """Ask until cancelled."""
        failures = 0
        while True:
            if self.paused and not (self._in_doubt or self._ledger.doubted):
                await self._woken.wait()
                self._woken.clear()
                continue
            plan = (
                self._pace.look(again=not self._in_doubt)
                if self.paused
                else self._pace.next(
                    eased=self._eased(),
                    deploying=self._deploying(),
                    hurried=self._hurried,
                    in_doubt=bool(self._in_doubt),
                    doubted=bool(self._ledger.doubted),
                )
            )
            wait_s = plan.at_s - self._clock()
            if wait_s > 0:
                await self._pause(wait_s)
                continue
            try:
                await self._do(plan.job)
            except DiscoveryError as error:
                failures += 1
                self._failed(error)
                # No hurry cuts this short: haste is what spends a budget that is spent already.
                await self._sleep(retry_delay_s(failures, self._rng))
            else:
                failures = 0

    async def _pause(self, wait_s: float) -> None:
        """Wait so long, or until there is something to think about."""
        self._woken.clear()
        waiting = [asyncio.ensure_future(self._sleep(wait_s)), asyncio.ensure_future(self._woken.wait())]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                await one
        finally:
            for one in waiting:
                one.cancel()

    async def _do(self, job: Job) -> None:
        began_s = self._clock()
        self._calls = 0
        self._pace.looked_s = began_s
        doubts = frozenset(self._in_doubt)
        if job == "look":
            await self._look(doubts | self._ledger.doubted)
            self._in_doubt -= doubts
            self._heard()
        else:
            self._hurried = False
            if job == "poll":
                await self._poll()
                self._in_doubt -= doubts
                self._pace.polled_s = began_s
                self._pace.poll_calls = self._calls
                self._pace.poll_took_s = self._clock() - began_s
            else:
                await self._audit()
                self._pace.audit_calls = self._calls
            self._pace.audited_s = began_s
            self._heard(complete=True, asked_s=began_s)
        self._pace.ended_s = self._clock()
        self._pace.jitter = jitter(self._rng)

    # -- a poll: every task ------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Look at every task that is listed or was known, so that a stopping task is seen to stop."""
        known = {task.arn for task in self._ledger.tasks()}
        listed: set[str] = set()
        missing: list[list[str]] = []

        async def describe(arns: Collection[str]) -> None:
            missing.append(await self._describe(arns))

        async with together() as group:
            # Described while the next page is asked for: a large cluster has a hundred of them.
            async for page in self._pages():
                group.create_task(describe(set(page) - listed))
                listed |= set(page)
            if self._pace.polled_s is None:
                # At the start nothing is known, but tasks that are on their way out still hold sessions.
                async for page in self._pages(desired_status="STOPPED", most=_STOPPED_AT_START):
                    group.create_task(describe(set(page) - listed))
            group.create_task(describe(known - listed))
            group.create_task(self._describe_instances())
        # Listed as running and yet unknown is a contradiction, and no proof of an end.
        await self._bury({arn for arns in missing for arn in arns} - listed)

    async def _describe_instances(self) -> None:
        """Look at the instances that have tasks: they may have begun to drain."""
        known = [arn for arn in self._ledger.instances if self._ledger.on_instance(arn)]
        for raw in await self._instances(known):
            self._ledger.hear_instance(shapes.container_instance(raw))

    # -- an audit: only what is not as it should be ------------------------------------------------

    async def _audit(self) -> None:
        """Count the tasks of every instance, and look at those where the number is not what is known."""
        arns = await self._api.list_container_instances(self._cluster)
        self._calls += _calls(arns)
        self._ledger.hear_instances_listed(arns)
        unlike = [raw["containerInstanceArn"] for raw in await self._instances(arns) if self._is_unlike(raw)]
        if 2 * len(unlike) > self._pace.poll_calls:
            await self._poll()  # that costs no more
            return
        fargate = await self._listed(launch_type="FARGATE")
        there = await all_of(self._listed(instance=arn) for arn in unlike)
        listed = fargate.union(*there)
        doubtful = set[str]().union(*there, *(self._ledger.on_instance(arn) for arn in unlike))
        machines, serverless = set(arns), set()
        for task in self._ledger.tasks():
            if task.desired_status == "STOPPED" or task.last_status in _ENDING:
                doubtful.add(task.arn)  # it counts nowhere, and its end may have been missed
            elif not task.instance_arn:
                serverless.add(task.arn)
            elif task.instance_arn not in machines:
                doubtful.add(task.arn)
        doubtful |= serverless ^ fargate
        await self._look(doubtful, listed=listed)

    def _is_unlike(self, raw: Json) -> bool:
        """Take what is said of an instance; return whether it has other tasks than those that are known."""
        instance = shapes.container_instance(raw)
        before = self._ledger.instances.get(instance.arn)
        self._ledger.hear_instance(instance)
        here = [task for arn in self._ledger.on_instance(instance.arn) if (task := self._ledger.task(arn))]
        running = sum(task.last_status == "RUNNING" for task in here)
        pending = sum(task.last_status in ("PROVISIONING", "PENDING", "ACTIVATING") for task in here)
        return (
            (running, pending) != shapes.tasks_on_instance(raw)
            or before is None
            or instance.version > before.version
        )

    # -- a look: some tasks ------------------------------------------------------------------------

    async def _look(self, arns: Collection[str], *, listed: Set[str] = frozenset()) -> None:
        await self._bury(set(await self._describe(arns)) - listed)

    async def _bury(self, missing: Collection[str]) -> None:
        """Take away what ECS does not know any more; much at once only if DescribeServices says so, too."""
        ask = self._ledger.hear_missing(missing, by=self.name, confirm_s=self._confirm_s)
        if not ask:
            return
        agreed = await self._agreed(ask, missing)
        self._ledger.hear_missing(missing, by=self.name, confirm_s=self._confirm_s, agreed=agreed)

    async def _agreed(self, groups: Iterable[str], missing: Collection[str]) -> set[str]:
        """Return those of the ECS services *groups* of which no more run than are left without *missing*."""
        names = {group.removeprefix("service:"): group for group in groups}
        described = await self._api.describe_services(self._cluster, sorted(names))
        agreed = {names[name] for name in described.missing}
        for raw in described.found:
            name, count = shapes.tasks_of_service(raw)
            tasks = self._ledger.groups.get(names[name], {}).values()
            left = sum(task.desired_status == "RUNNING" and task.arn not in missing for task in tasks)
            if count <= left:
                agreed.add(names[name])
        return agreed

    # -- calls -------------------------------------------------------------------------------------

    async def _pages(
        self, *, most: int = 0, desired_status: str = "RUNNING", instance: str = "", launch_type: str = ""
    ) -> AsyncGenerator[list[str], None]:
        pages = self._api.task_pages(
            self._cluster, desired_status=desired_status, instance=instance, launch_type=launch_type
        )
        count = 0
        async for page in pages:
            count += 1
            self._calls += 1
            yield page
            if count == most:
                await pages.aclose()
                return

    async def _listed(self, *, instance: str = "", launch_type: str = "") -> set[str]:
        pages = self._pages(instance=instance, launch_type=launch_type)
        return {arn async for page in pages for arn in page}

    async def _describe(self, arns: Collection[str]) -> list[str]:
        """Tell the ledger of these tasks; return those that ECS does not know."""
        if not arns:
            return []
        self._calls += _calls(arns)
        described = await self._api.describe_tasks(self._cluster, sorted(arns))
        malformed: DiscoveryError | None = None
        for raw in described.found:
            try:
                self._ledger.hear_task(shapes.task(raw), by=self.name)
            except DiscoveryError as error:
                malformed = error
        if malformed is not None:
            raise malformed  # the others were heard, but this is no complete answer
        self._heard()
        return described.missing

    async def _instances(self, arns: Collection[str]) -> list[Json]:
        if not arns:
            return []
        self._calls += _calls(arns)
        return (await self._api.describe_container_instances(self._cluster, sorted(arns))).found


def _calls(items: Collection[str]) -> int:
    return max(1, -(-len(items) // _BATCH))
