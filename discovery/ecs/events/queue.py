"""Reading a queue of events, for all clusters whose events come by it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from discovery.backoff import retry_delay_s
from discovery.ecs.events.meaning import News, read
from discovery.ecs.events.queue_api import BATCH, LONG_POLL_S, Message, QueueApi
from discovery.ecs.events.queue_place import Place, Places
from discovery.model import DiscoveryError

log = logging.getLogger("anyport.discovery.ecs")

# Messages are deleted a little later, several with one call. Should we end before, they come again.
_DELETE_AFTER_S: Final = 0.5
_TIDY_EVERY_S: Final = 3600.0
_END_S: Final = 5.0  # whoever stops us waits for it


class Listener(Protocol):
    """One cluster's share in a queue."""

    def asks(self, cluster_arn: str) -> bool:
        """Say whether events of this cluster are wanted."""
        ...

    def hear(self, news: Sequence[News]) -> None:
        """Take what one answer of the queue has brought; it may be nothing."""
        ...

    def gap(self, settled_s: float) -> None:
        """Take it that events may have been lost, and that none are from *settled_s* on (monotonic)."""
        ...

    def failed(self, error: DiscoveryError) -> None:
        """Take it that the queue does not answer."""
        ...

    def ended(self, task_arn: str) -> bool:
        """Say whether a task is known to run no more."""
        ...


class EventQueue:
    """The one reader of a queue. What it brings is handed over before the next question is asked.

    Every message is deleted, understood or not. Errors are told once, and tried again ever later, up to
    a minute; a queue that is gone is opened anew.
    """

    def __init__(
        self,
        api: QueueApi,
        places: Places,
        *,
        wait_s: int = LONG_POLL_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.api = api
        self._places = places
        self._wait_s = wait_s
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._listeners: list[Listener] = []
        self._turn = asyncio.Lock()
        self._receipts: deque[str] = deque()
        self._some_receipts = asyncio.Event()
        self._last_error = ""
        self._place: Place | None = None
        self._question: asyncio.Task[list[Message]] | None = None
        self._answered_s: float | None = None

    async def serve(self, listener: Listener) -> None:
        """Bring *listener* its events until cancelled. Of several at once, one does the work for all."""
        self._listeners.append(listener)
        if self._place is not None:
            listener.gap(self._clock() + self._place.settle_s)
        try:
            async with self._turn:
                await self._read()
        finally:
            self._listeners.remove(listener)
            if not self._listeners:
                await self._end()

    async def _read(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._delete(), name="delete events")
            group.create_task(self._tidy(), name="remove queues that are left")
            failures = 0
            while True:
                try:
                    place = self._place or await self._open()
                    messages = await self._receive(place)
                except DiscoveryError as error:
                    failures += 1
                    self._failed(error)
                    if error.kind == "missing_queue":
                        self._place = None
                    await self._sleep(retry_delay_s(failures, self._rng))
                else:
                    failures = 0
                    self._answered(place)
                    self._hear(messages)

    async def _open(self) -> Place:
        place = await self._places.open()
        self._place, self._answered_s = place, None
        self._receipts.clear()
        settled_s = self._clock() + place.settle_s
        for listener in self._listeners:
            listener.gap(settled_s)
        return place

    async def _receive(self, place: Place) -> list[Message]:
        # Whoever reads next takes over a question that is under way: its answer would be lost for a while.
        if self._question is None:
            self._question = asyncio.create_task(
                self.api.receive(place.url, wait_s=self._wait_s), name="receive events"
            )
        question = self._question
        try:
            return await asyncio.shield(question)
        finally:
            if question.done():
                self._question = None

    async def _end(self) -> None:
        if self._question is not None:
            self._question.cancel()
            self._question = None
        self._place = None
        try:
            async with asyncio.timeout(_END_S):
                await self._places.close()
        except TimeoutError:
            log.warning("events: no answer while our queue was to be removed: it may be left behind")
        self.api.close()

    def _answered(self, place: Place) -> None:
        now_s = self._clock()
        if self._answered_s is not None and now_s - self._answered_s > place.retention_s:
            for listener in self._listeners:
                listener.gap(now_s)
        self._answered_s = now_s
        if self._last_error:
            log.info("events: the queue answers again")
            self._last_error = ""

    def _failed(self, error: DiscoveryError) -> None:
        if str(error) != self._last_error:
            log.warning("events: %s", error)
            self._last_error = str(error)
        for listener in self._listeners:
            listener.failed(error)

    def _hear(self, messages: Sequence[Message]) -> None:
        brought: dict[int, list[News]] = {}
        for message in messages:
            news = read(message.body)
            if news.kind == "unknown":
                log.debug("events: a message is %s", news.reason)
            wanted = [
                n for n, one in enumerate(self._listeners) if not news.cluster or one.asks(news.cluster)
            ]
            if not wanted:
                news = News(kind="foreign", at_s=news.at_s)
                wanted = list(range(len(self._listeners)))
            for number in wanted:
                brought.setdefault(number, []).append(news)
        for number, listener in enumerate(self._listeners):
            listener.hear(brought.get(number, ()))
        if messages:
            self._receipts.extend(message.receipt for message in messages)
            self._some_receipts.set()

    async def _delete(self) -> None:
        while True:
            await self._some_receipts.wait()
            if len(self._receipts) < BATCH:
                await self._sleep(_DELETE_AFTER_S)
            batch = [self._receipts.popleft() for _ in range(min(BATCH, len(self._receipts)))]
            if not self._receipts:
                self._some_receipts.clear()
            place = self._place
            if not batch or place is None:
                continue
            try:
                await self.api.delete(place.url, batch)
            except DiscoveryError as error:
                self._failed(error)  # they come again

    async def _tidy(self) -> None:
        while True:
            await self._sleep(_TIDY_EVERY_S * self._rng.uniform(0.5, 1.0))
            try:
                await self._places.tidy(lambda arn: any(one.ended(arn) for one in self._listeners))
            except DiscoveryError as error:
                log.warning("queues that other proxies may have left are not looked for: %s", error)
