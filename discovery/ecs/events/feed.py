"""Events as a feed: what a queue tells of one cluster goes into its ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence, Set
from typing import Final

from discovery.ecs.events.meaning import News, must_describe, same_cluster
from discovery.ecs.events.queue import EventQueue
from discovery.ecs.feed import Heard
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.ledger.starting import StartingTasks
from discovery.ecs.shapes import Task
from discovery.model import EVENT_AGES_S, DiscoveryError, EventStatus, SourceStatus

_BY: Final = "events"
# A long poll of 20 s, its answer, and one attempt that failed.
_ANSWERS_WITHIN_S: Final = 45.0
_CAUGHT_UP_S: Final = 30.0  # events older than this are a backlog that is being worked off
_DEPLOYMENT_S: Final = 3600.0  # a deployment of whose end nobody has told
# An event may be late, but if it is not here after so long, it is not under way.
_AUDIT_EVERY_S: Final = 60.0
_DOUBTED_FOR_S: Final = 600.0
_LOOK_AT_STARTS_S: Final = 1.0


class EventsFeed:
    """What the events of one cluster tell; any order, any number of times.

    `describe(arns)` asks for a description of tasks of which events cannot tell enough; `poll()` for a
    look at the whole cluster, when events may have been lost. `status` is the cluster's.
    """

    name: Final = _BY

    def __init__(
        self,
        ledger: Ledger,
        heard: Heard,
        *,
        queue: EventQueue,
        cluster: str,
        status: SourceStatus,
        describe: Callable[[Set[str]], None],
        poll: Callable[[], None],
        region: str = "",
        account: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._heard = heard
        self._queue = queue
        self._cluster = cluster
        self._status = status
        self._describe = describe
        self._poll = poll
        self._region = region
        self._account = account
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._leads = asyncio.Event()
        self._leads.set()
        self._follows = asyncio.Event()
        self._complete_since_s: float | None = None
        self._caught_up = False
        self._doubted_until_s = 0.0
        self._versions: dict[str, int] = {}  # of tasks, the newest of which an event has told
        self._expected: dict[str, int] = {}  # versions that others have told and events have not yet
        self._audit_at_s: float | None = None
        self._audited = 0  # revision of the ledger
        self._deployments: dict[str, tuple[float, bool]] = {}  # id to when, and whether it goes on
        self.status = EventStatus(last_error="no answer of the queue yet", calls=queue.api.calls)
        status.events = self.status

    # -- as a feed -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring events until cancelled, while this proxy leads."""
        while True:
            await self._leads.wait()
            self.status.reading = True
            try:
                async with asyncio.TaskGroup() as group:
                    reading = group.create_task(self._queue.serve(self), name="read events")
                    looking = group.create_task(self._look_at_starts(), name="look at tasks that start")
                    await self._follows.wait()
                    reading.cancel()
                    looking.cancel()
            finally:
                self.status.reading = self.status.fresh = False

    def hurry(self) -> None:
        """Do nothing: a queue says what it has as soon as it has it."""

    def lead(self) -> None:
        """Read the queue (again): others follow us, or nobody does."""
        self._follows.clear()
        self._leads.set()

    def follow(self) -> None:
        """Read no queue: another proxy tells what it says. One of our own is removed."""
        self._leads.clear()
        self._follows.set()

    # -- for the poller --------------------------------------------------------------------------

    @property
    def fresh(self) -> bool:
        """Whether events can be trusted to tell of every change, so that nobody need ask often.

        True while the queue answers, what it says is of now, at least one event of the cluster has come,
        the API has told what was before, and nothing is known that an event should have told and did not.
        """
        now_s, since_s, status = self._clock(), self._complete_since_s, self.status
        asked_s = self._status.asked_s
        return (
            since_s is not None
            and asked_s is not None
            and asked_s >= since_s
            and status.answered_s is not None
            and now_s - status.answered_s < _ANSWERS_WITHIN_S
            and status.last_s is not None
            and status.last_s >= since_s
            and self._caught_up
            and now_s >= self._doubted_until_s
        )

    @property
    def deploying(self) -> bool:
        """Whether an event has told of a deployment, and none of its end."""
        return any(going for _, going in self._deployments.values())

    # -- as a listener of the queue --------------------------------------------------------------

    def asks(self, cluster_arn: str) -> bool:
        """Say whether this is our cluster."""
        region, account = self._region, self._account
        known = next((task.arn for task in self._ledger.tasks()), "")
        if known.count(":") >= 5:
            _, _, _, region, account, *_ = known.split(":")
        return same_cluster(cluster_arn, self._cluster, region=region, account=account)

    def hear(self, news: Sequence[News]) -> None:
        """Tell the ledger, and ask for what events cannot say."""
        now_s, wall_s, newest_s = self._clock(), self._wall_clock(), 0.0
        self.status.answered_s = now_s
        self.status.last_error = ""
        incomplete: set[str] = set()
        for item in news:
            self.status.kinds[item.kind] += 1
            if item.kind not in ("unknown", "foreign"):
                self._count_age(item, wall_s)
                newest_s = max(newest_s, item.at_s)
                self.status.last_s = now_s
            if item.task is not None and self._hear_task(item.task):
                incomplete.add(item.task.arn)
            if item.instance is not None:
                self._ledger.hear_instance(item.instance)
            if item.kind == "deployment":
                self._hear_deployment(item)
            if item.kind == "spot" and self._is_here(item.ec2_id):
                self._ledger.hear_notice(item.ec2_id, item.notice)
        self._caught_up = not newest_s or wall_s - newest_s < _CAUGHT_UP_S
        if incomplete:
            self._describe(incomplete)
        if news:
            self._heard()
        self._audit(now_s)
        self.status.fresh = self.fresh

    def gap(self, settled_s: float) -> None:
        """Ask for a look at the whole cluster: of what was before, no event will tell."""
        self.status.gaps += 1
        self._complete_since_s = settled_s
        self._audit_at_s = None
        self.status.fresh = False
        self._poll()

    def failed(self, error: DiscoveryError) -> None:
        """Count it; the reader has logged it."""
        self.status.errors[error.kind] += 1
        self.status.last_error = str(error)
        self.status.fresh = self.fresh

    def ended(self, task_arn: str) -> bool:
        """Say whether a task of this cluster is known to run no more."""
        _, _, cluster = task_arn.rpartition("/")[0].rpartition("/")
        if not cluster or not self.asks(task_arn.partition(":task/")[0] + f":cluster/{cluster}"):
            return False
        return self._ledger.buried(task_arn) or (
            self._status.refreshes > 0 and self._ledger.task(task_arn) is None
        )

    # -- inside ----------------------------------------------------------------------------------

    async def _look_at_starts(self) -> None:
        starting = StartingTasks(self._ledger)
        while True:
            await self._sleep(_LOOK_AT_STARTS_S)
            due = starting.due(self._clock())
            if due and self.fresh:  # else the poller asks often anyway
                self._describe(due)

    def _hear_task(self, task: Task) -> bool:
        """Return whether the task must be described."""
        if not task.version:
            return True  # nobody can tell whether this is old
        if self._versions.get(task.arn, 0) < task.version:
            self._versions[task.arn] = task.version
        self._ledger.hear_task(task, by=_BY)
        seen = self._ledger.task(task.arn)
        return seen is not None and must_describe(seen, self._ledger.definitions.get(task.definition_arn))

    def _hear_deployment(self, news: News) -> None:
        at_s, _ = self._deployments.get(news.deployment, (0.0, False))
        if news.at_s >= at_s:
            self._deployments[news.deployment] = (news.at_s, news.deploying)
        horizon_s = self._wall_clock() - _DEPLOYMENT_S
        self._deployments = {k: v for k, v in self._deployments.items() if v[0] > horizon_s}

    def _is_here(self, ec2_id: str) -> bool:
        return any(instance.ec2_id == ec2_id for instance in self._ledger.instances.values())

    def _count_age(self, news: News, wall_s: float) -> None:
        if not news.at_s:
            return
        age_s = max(0.0, wall_s - news.at_s)
        self.status.ages[next(bound for bound in EVENT_AGES_S if age_s <= bound)] += 1
        self.status.age_sum_s += age_s

    def _audit(self, now_s: float) -> None:
        """Look whether others have told of changes that no event has told of.

        A rule that was taken away, or a second reader of the same queue, shows in nothing else.
        """
        if self._audit_at_s is None:
            # The look at the whole cluster that a gap asks for must have ended: it is all news.
            if self._complete_since_s is not None and now_s >= self._complete_since_s + 2 * _AUDIT_EVERY_S:
                self._audited, self._expected = self._ledger.revision, {}
                self._audit_at_s = now_s + _AUDIT_EVERY_S
            return
        if now_s < self._audit_at_s:
            return
        missed = sum(
            self._versions.get(arn, 0) < version and not self._ledger.buried(arn)
            for arn, version in self._expected.items()
        )
        if missed:
            self.status.missed += missed
            self._doubted_until_s = now_s + _DOUBTED_FOR_S
        self._expected = {}
        for change in self._ledger.since(self._audited):
            if change.kind == "gone":
                self._versions.pop(change.key, None)
            task = self._ledger.task(change.key) if change.kind == "task" else None
            if task is not None and task.version > self._versions.get(task.arn, 0):
                self._expected[task.arn] = task.version
        self._audited = self._ledger.revision
        self._audit_at_s = now_s + _AUDIT_EVERY_S
