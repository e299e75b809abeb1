"""One ECS cluster as a source of endpoints: many informants, one ledger, one table."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from discovery.ecs.aws.budget import Budget
from discovery.ecs.aws.queries import EcsQueries
from discovery.ecs.feed import Feed, Pushed, Shared
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.poll.poller import ApiPoller
from discovery.ecs.resolver import Resolver
from discovery.ecs.translate.translator import Translator
from discovery.identity import NOBODY
from discovery.model import DiscoveryError, Snapshot, SourceStatus, Told
from discovery.whoami import Whoami

log = logging.getLogger("anyport.discovery.ecs")

_FEED_RETRY_S: Final = 5.0  # after a bug in a feed
_START_SPACING_S: Final = 0.5  # between two parts of a first table that takes longer than this


class EcsCluster:
    """A `Source`: everything that is known of one ECS cluster.

    `translator()` makes what turns its ledger into snapshots; `whoami` knows who we are. `informants` make
    the feeds beside the API's, each from this cluster: its `ledger`, `heard`, `status`, `poller`, `describe`
    and `doubt` are for them. A feed that breaks down does not disturb the others. With *led*, the API is not
    asked before `lead()` is called. `clock` is monotonic seconds, `wall_clock` Unix time.
    """

    def __init__(
        self,
        api: EcsQueries,
        *,
        name: str,
        cluster: str,
        translator: Callable[[], Translator],
        whoami: Whoami | None = None,
        informants: Sequence[Callable[[EcsCluster], Feed]] = (),
        budget: Budget | None = None,
        led: bool = False,
        interval_s: float = 5.0,
        confirm_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self.cluster = cluster
        self.status = SourceStatus(calls=api.calls)
        self._api = api
        self._translator = translator
        self._whoami = whoami or Whoami.told(NOBODY)
        self._informants = informants
        self._budget = budget or Budget(clock=clock)
        self._led = led
        self._interval_s = interval_s
        self._confirm_s = confirm_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._begin()

    def _begin(self) -> None:
        """Know nothing."""
        self.ledger = Ledger(clock=self._clock, wall_clock=self._wall_clock)
        self._changed = asyncio.Event()
        self._complete = False  # the first complete answer has been shown
        self._answered_s: float | None = None  # when the newest complete answer was asked, not shown yet
        self._translation = self._translator()
        self.listeners: list[Callable[[], None]] = []  # called after each change, and each confirmation
        # Whether the proxy we follow looks at a task for us, so that not each of a fleet asks the API.
        self.pass_on: Callable[[str], bool] = lambda task_arn: False
        # The same for tasks that an agent has seen start or stop, and for what EC2 announces of an instance.
        self.pass_seen: Callable[[Collection[str]], bool] = lambda task_arns: False
        self.pass_notice: Callable[[str, str], None] = lambda ec2_id, notice: None
        self._follows = False  # another proxy has answered, and tells us all
        self._stale_after_s: float | None = None  # as the proxy we follow has it
        self.poller = ApiPoller(
            self._api,
            self.ledger,
            self.heard,
            cluster=self.cluster,
            interval_s=self._interval_s,
            confirm_s=self._confirm_s,
            eased=lambda: self._eased,
            deploying=lambda: any(feed.deploying for feed in self._pushed),
            failed=self.failed,
            clock=self._clock,
            sleep=self._sleep,
            rng=self._rng,
        )
        self._resolver = Resolver(
            self._api,
            self.ledger,
            self.heard,
            cluster=self.cluster,
            failed=self.failed,
            patient=lambda: self._follows,
            sleep=self._sleep,
            rng=self._rng,
        )
        self.feeds: tuple[Feed, ...] = (self.poller, *(make(self) for make in self._informants))
        self._pushed = [feed for feed in self.feeds if isinstance(feed, Pushed)]
        self._shared = [feed for feed in self.feeds if isinstance(feed, Shared)]
        if self._led:
            self.follow()
            self._follows = False  # nobody tells us yet

    # -- for whoever uses the source ---------------------------------------------------------------

    async def watch(self) -> AsyncIterator[Snapshot]:
        """Yield what is known at once, `complete` or not yet, then every change, until cancelled.

        Watched again, after an error, it begins with nothing.
        """
        self._begin()
        # Not a group around the `yield`: who stops listening would look to it like an error.
        running = asyncio.create_task(self._run(), name=f"{self.name} feeds")
        try:
            async with aclosing(self._snapshots()) as snapshots:
                with self._budget.starting() as settled:
                    async for snapshot in snapshots:
                        if snapshot.complete:
                            settled()
                        yield snapshot
        finally:
            running.cancel()
            await asyncio.wait([running])
            self._api.close()

    def hurry(self, task_arn: str = "") -> None:
        """Have every feed look again soon; with *task_arn*, at that task before all else."""
        if task_arn and not self.pass_on(task_arn):
            self.poller.doubt([task_arn])
        for feed in self.feeds:
            feed.hurry()

    def told(self, task_arn: str) -> tuple[Told, ...]:
        """Return who has said what about a task, newest first; () for one this cluster does not know."""
        return self.ledger.told(task_arn)

    def hear_seen(self, task_arns: Collection[str]) -> None:
        """Take it that the agent of another instance has seen these tasks start or stop."""
        if not self.pass_seen(task_arns):
            self.describe(task_arns)

    def hear_notice(self, ec2_id: str, notice: str) -> None:
        """Take it that EC2 announces this of another instance; "" takes a notice back."""
        self.ledger.hear_notice(ec2_id, notice)
        self.pass_notice(ec2_id, notice)
        self.heard()

    # -- for its feeds -----------------------------------------------------------------------------

    def heard(self, *, complete: bool = False, asked_s: float | None = None) -> None:
        """Take it that the ledger has changed; see `discovery.ecs.feed.Heard`."""
        if complete:
            asked_s = self._clock() if asked_s is None else asked_s
            self._answered_s = asked_s if self._answered_s is None else max(self._answered_s, asked_s)
        self._changed.set()
        self._resolver.wake()

    def failed(self, error: DiscoveryError) -> None:
        """Count an error, and show it until the next complete answer; a new one is logged."""
        self.status.errors[error.kind] += 1
        text = str(error)
        # That AWS throttles us has been said when it began.
        if text != self.status.last_error and error.kind != "throttled":
            log.warning("%s: %s", self.name, text)
        self.status.last_error = text

    def describe(self, task_arns: Iterable[str]) -> None:
        """Have these tasks described: what was told of them is not enough."""
        self._resolver.describe(task_arns)

    def doubt(self, task_arns: Collection[str]) -> None:
        """Have it found out whether these tasks still are."""
        self.poller.doubt(task_arns)

    def tell_seen(self, task_arns: Collection[str]) -> None:
        """Have the proxy we follow look at tasks that our own agent has seen start or stop."""
        self.pass_seen(task_arns)  # who leads has told its followers by saying it to the ledger

    def tell_notice(self, ec2_id: str, notice: str) -> None:
        """Have the proxy we follow know what EC2 announces of our own instance."""
        self.pass_notice(ec2_id, notice)

    def lead(self) -> None:
        """Ask the API: nobody else does it for us."""
        self._follows, self._stale_after_s = False, None
        self.poller.resume()
        for feed in self._shared:
            feed.lead()

    def follow(self, stale_after_s: float | None = None) -> None:
        """Leave asking the API to another proxy, who takes that for stale which is older than so."""
        self._follows, self._stale_after_s = True, stale_after_s
        self.poller.pause()
        for feed in self._shared:
            feed.follow()

    # -- inside ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            feeds: list[Feed | Resolver] = [*self.feeds, self._resolver]
            for feed in feeds:
                group.create_task(self._keep_up(feed), name=f"{self.name} {feed.name}")

    async def _keep_up(self, feed: Feed | Resolver) -> None:
        while True:
            try:
                await feed.run()
            except Exception as exc:
                # A feed promises not to raise. If one does, the others must not suffer for it.
                log.exception("%s: %s failed; what it has told still stands", self.name, feed.name)
                self.status.errors["other"] += 1
                self.status.last_error = f"{feed.name}: internal error ({type(exc).__name__}), see the log"
            else:
                return
            await self._sleep(_FEED_RETRY_S)

    @property
    def _eased(self) -> bool:
        return any(feed.fresh for feed in self._pushed)

    async def _snapshots(self) -> AsyncGenerator[Snapshot, None]:
        last: Snapshot | None = None
        eased = False
        began_s = self._clock()
        await self._whoami.known()  # or requests might go round: the API is being asked meanwhile
        while True:
            self._changed.clear()
            self._confirm()
            for listener in self.listeners:
                listener()
            self._translation.own = self._whoami.identity
            now_s = self._wall_clock()
            asked_s = self.status.asked_s
            snapshot, again_s = self._translation.update(
                self.ledger,
                now_s,
                complete=self._complete,
                asked_s=-math.inf if asked_s is None else now_s - (self._clock() - asked_s),
            )
            if not self._complete:
                snapshot = replace(snapshot, complete=False)
            if (snapshot.complete or snapshot.services) and snapshot is not last and snapshot != last:
                last = snapshot
                yield snapshot
            if eased != (eased := self._eased):
                self.poller.wake()
            if not self._complete and self._clock() - began_s > _START_SPACING_S:
                await self._sleep(_START_SPACING_S)
            await self._news(None if again_s is None else max(0.0, again_s - self._wall_clock()))

    def _confirm(self) -> None:
        """Count a complete answer, if all that it speaks of can be used."""
        if self._answered_s is None or not self._resolver.done:
            return
        asked_s, self._answered_s = self._answered_s, None
        status = self.status
        if status.last_error:
            log.info("%s: answers completely again", self.name)
        status.last_error = ""
        status.asked_s = asked_s if status.asked_s is None else max(status.asked_s, asked_s)
        status.last_success_s = status.asked_s  # nothing that happened later is known for certain
        status.refreshes += 1
        status.stale_after_s = self._stale_after_s or 2 * self.poller.complete_every_s
        self._complete = True

    async def _news(self, within_s: float | None) -> None:
        """Wait until the ledger has changed, or for so long."""
        waiting: list[asyncio.Future[object]] = [asyncio.ensure_future(self._changed.wait())]
        if within_s is not None:
            waiting.append(asyncio.ensure_future(self._sleep(within_s)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()
