"""Asking the API for what a ledger lacks: definitions, instances, addresses, tasks nobody has described."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from heapq import nlargest
from typing import Final

from discovery.backoff import retry_delay_s
from discovery.ecs import shapes
from discovery.ecs.aws.queries import EcsQueries
from discovery.ecs.feed import Heard
from discovery.ecs.ledger.ledger import Ledger
from discovery.model import DiscoveryError

_BY: Final = "api"
_BATCH: Final = 100  # what one call may ask for
_AT_ONCE: Final = {"definition": 6, "instance": 2, "address": 2, "task": 2}  # calls
_AGAIN_S: Final = (1.0, 2.0, 5.0, 15.0, 60.0)  # until what ECS did not know is asked again, so many times
_PATIENCE_S: Final = 2.0
_GIVE_UP: Final = 3  # answers of no use, after which a table without that thing is better than none
# Errors that lie in the one thing that was asked for. All others hold for whatever else would be asked.
_OF_ONE: Final = ("malformed", "other", "partial")


class Resolver:
    """Asks for everything in `ledger.wants()` at once, and for tasks it is told to describe.

    So a definition is known when its first task is still PENDING. The definitions that most tasks wait
    for come first. What fails is asked again, ever later; `failed` is told of each error. While `patient()`,
    another proxy asks in our stead, and gets some time to tell; not of a task that our own agent sees
    running, of which we are the first to know.
    """

    name: Final = "resolver"

    def __init__(
        self,
        api: EcsQueries,
        ledger: Ledger,
        heard: Heard,
        *,
        cluster: str,
        failed: Callable[[DiscoveryError], None],
        patient: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._heard = heard
        self._cluster = cluster
        self._failed = failed
        self._patient = patient
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._woken = asyncio.Event()
        self._asks: dict[str, Callable[[Collection[str]], Awaitable[Iterable[str]]]] = {
            "definition": self._define,
            "instance": self._describe_instances,
            "address": self._find_addresses,
            "task": self._describe_tasks,
        }
        self._in_vain: Counter[tuple[str, str]] = Counter()  # (kind, key) to answers of no use
        self._doubtful: dict[str, int] = {}  # tasks to describe, and the version that is known
        self._forget()

    def _forget(self) -> None:
        self._calls: Counter[str] = Counter()  # under way, by kind
        self._held: dict[str, set[str]] = {kind: set() for kind in self._asks}  # asked, or put off
        self._failures: Counter[str] = Counter()  # in a row, by kind
        self._paused: Counter[str] = Counter()  # kinds for which asking has no use for a while
        self._awaited: dict[str, set[str]] = {kind: set() for kind in self._asks}  # from another, now
        self._waited: dict[str, set[str]] = {kind: set() for kind in self._asks}  # and in vain

    def wake(self) -> None:
        """Look at what the ledger lacks now."""
        self._woken.set()

    def describe(self, task_arns: Iterable[str]) -> None:
        """Describe these tasks, until an answer is as new as what is known of them now."""
        for arn in task_arns:
            task = self._ledger.task(arn)
            self._doubtful[arn] = max(self._doubtful.get(arn, 0), task.version if task is not None else 0)
        self.wake()

    @property
    def done(self) -> bool:
        """Whether everything that tasks wait for is known, or cannot be."""
        wants, in_vain = self._ledger.wants(), self._in_vain
        return (
            all(in_vain["definition", key] >= _GIVE_UP for key in wants.definitions)
            and all(in_vain["instance", key] for key in wants.instances)
            and all(in_vain["address", key] >= _GIVE_UP for key in wants.addresses - self._ledger.nowhere)
        )

    async def run(self) -> None:
        """Ask until cancelled."""
        self._forget()
        async with asyncio.TaskGroup() as group:
            while True:
                self._start(group)
                await self._woken.wait()
                self._woken.clear()

    def _start(self, group: asyncio.TaskGroup) -> None:
        wants, patient = self._ledger.wants(), self._patient()
        urgent = self._ledger.urgent if patient else set()
        for kind, keys in (
            ("task", wants.tasks | self._doubtful.keys()),
            ("definition", wants.definitions),
            ("instance", wants.instances),
            ("address", wants.addresses),
        ):
            at_once = {key for what, key in urgent if what == kind}
            new = frozenset(keys - self._held[kind] - self._awaited[kind] - self._waited[kind] - at_once)
            if new and patient:
                self._awaited[kind] |= new
                group.create_task(self._wait(kind, new), name=f"wait for {kind}")
            self._waited[kind] &= keys
            later = self._awaited[kind] - at_once if patient else set()
            for batch in self._batches(kind, keys - self._held[kind] - later):
                self._calls[kind] += 1
                self._held[kind] |= batch
                group.create_task(self._ask(kind, batch), name=f"ask for {kind}")

    async def _wait(self, kind: str, keys: frozenset[str]) -> None:
        await self._sleep(_PATIENCE_S)
        self._awaited[kind] -= keys
        self._waited[kind] |= keys
        self.wake()

    def _batches(self, kind: str, keys: Collection[str]) -> list[frozenset[str]]:
        """Return what to ask for now, a call each."""
        calls = _AT_ONCE[kind] - self._calls[kind]
        if not keys or calls <= 0 or self._paused[kind]:
            return []
        if kind != "definition":
            listed = sorted(keys)
            return [frozenset(listed[i : i + _BATCH]) for i in range(0, len(listed), _BATCH)][:calls]
        first = nlargest(calls, keys, key=lambda arn: (self._ledger.waiting(kind, arn), arn))
        return [frozenset((arn,)) for arn in first]

    async def _ask(self, kind: str, keys: frozenset[str]) -> None:
        """Ask for *keys* with one call, and keep those it did not bring from being asked again at once."""
        try:
            unknown = frozenset(await self._asks[kind](keys))
        except DiscoveryError as error:
            self._calls[kind] -= 1
            self._failed(error)
            await self._back_off(kind, keys, error)
            return
        self._calls[kind] -= 1
        self._failures[kind] = 0
        known = keys - unknown
        self._held[kind] -= known
        for key in known:
            self._in_vain.pop((kind, key), None)
        self._heard()
        self.wake()
        if unknown:
            await self._put_off(kind, unknown)

    async def _back_off(self, kind: str, keys: frozenset[str], error: DiscoveryError) -> None:
        if error.kind in _OF_ONE:
            self.wake()
            await self._put_off(kind, keys)
            return
        self._failures[kind] += 1
        self._paused[kind] += 1
        await self._sleep(retry_delay_s(self._failures[kind], self._rng))
        self._paused[kind] -= 1
        self._held[kind] -= keys
        self.wake()

    async def _put_off(self, kind: str, keys: frozenset[str]) -> None:
        for key in keys:
            self._in_vain[kind, key] += 1
        times = max(self._in_vain[kind, key] for key in keys)
        self._heard()  # it may be what a complete table waited for
        await self._sleep(_AGAIN_S[min(times, len(_AGAIN_S)) - 1])
        self._held[kind] -= keys
        self.wake()

    # -- one call, each; it returns what it asked for and did not get ------------------------------

    async def _define(self, arns: Collection[str]) -> Iterable[str]:
        for arn in arns:
            raw = await self._api.describe_task_definition(arn)
            self._ledger.hear_definition(shapes.task_definition(raw))
        return ()

    async def _describe_instances(self, arns: Collection[str]) -> Iterable[str]:
        described = await self._api.describe_container_instances(self._cluster, sorted(arns))
        for raw in described.found:
            self._ledger.hear_instance(shapes.container_instance(raw))
        return described.missing

    async def _find_addresses(self, ec2_ids: Collection[str]) -> Iterable[str]:
        found = await self._api.instance_addresses(sorted(ec2_ids))
        for ec2_id in ec2_ids:
            self._ledger.hear_address(ec2_id, found.get(ec2_id, ""))
        return set(ec2_ids) - found.keys()

    async def _describe_tasks(self, arns: Collection[str]) -> Iterable[str]:
        described = await self._api.describe_tasks(self._cluster, sorted(arns))
        for raw in described.found:
            task = shapes.task(raw)
            self._ledger.hear_task(task, by=_BY)
            if task.version >= self._doubtful.get(task.arn, 0):
                self._doubtful.pop(task.arn, None)
        for arn in [arn for arn in self._doubtful if self._ledger.buried(arn)]:
            del self._doubtful[arn]
        wanted = self._ledger.wants().tasks | self._doubtful.keys()
        for arn in described.missing:
            if self._in_vain["task", arn] >= len(_AGAIN_S):
                self._doubtful.pop(arn, None)  # the poller decides whether it is gone
        return [arn for arn in arns if arn in wanted]
