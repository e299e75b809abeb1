"""What a proxy tells those who follow it of one cluster: all it knows, or what has changed since."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from discovery.ecs.aws.threads import in_thread
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.record import Facts, encode, facts_since
from discovery.model import SourceStatus

LONGEST_WAIT_S: Final = 20.0
PLAIN_BYTES: Final = 1024  # what is longer is compressed
_IN_THREAD: Final = 200  # facts; more of them are encoded beside the loop
_KEPT: Final = 4  # answers; followers that have heard the same want the same
_ETAG: Final = re.compile(r'"([0-9a-f]{16})-([0-9]{1,18})-([0-9]{1,18})"')


class Share:
    """The ledger of one cluster, as others may read it.

    An ETag is `"<epoch>-<revision>-<confirmation>"`: what was told, and how often it had been confirmed then.
    An epoch is the life of one ledger, so that the revisions of another one (after a restart, say) are never
    mistaken for this one's. Those who follow us tell us: `hurry(task_arn)` of a task that one of them doubts,
    `seen(arns)` of those that its agent has seen start or stop, `notice(ec2_id, text)` what EC2 announces
    of its instance.
    """

    def __init__(
        self,
        ledger: Ledger,
        status: SourceStatus,
        *,
        hurry: Callable[[str], None] = lambda task_arn: None,
        seen: Callable[[Collection[str]], None] = lambda task_arns: None,
        notice: Callable[[str, str], None] = lambda ec2_id, text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.epoch = secrets.token_hex(8)
        self.leading = True
        self.hurry = hurry
        self.seen = seen
        self.notice = notice
        self.chain: tuple[str, ...] = ()  # whom we follow, whom that one follows, and so on
        self._ledger = ledger
        self._status = status
        self._clock = clock
        self._born_s = clock()
        self._news = asyncio.Event()
        self._encoding: dict[tuple[int, int], asyncio.Task[bytes]] = {}

    @property
    def etag(self) -> str:
        return f'"{self.epoch}-{self._ledger.revision}-{self._status.refreshes}"'

    def word(self) -> Mapping[str, Any]:
        """Return how fresh that is which the ledger holds, and from whom it comes."""
        asked_s = self._status.asked_s
        since_s = self._born_s if asked_s is None else asked_s
        stale_after_s = self._status.stale_after_s
        return {
            "complete": asked_s is not None,
            "age_s": round(max(0.0, self._clock() - since_s), 3),
            "stale_after_s": stale_after_s if stale_after_s < 1e9 else None,
            "leading": self.leading,
            "chain": self.chain,
        }

    def notify(self) -> None:
        """Let those who wait see whether there is something for them."""
        self._news.set()
        self._news = asyncio.Event()

    async def after(self, etag: str, wait_s: float) -> tuple[str, bytes | None]:
        """Return (ETag, body) for one who has *etag*: what has changed since, or all of it.

        The body is None if in *wait_s* nothing has changed but, perhaps, that it was confirmed: whoever waits
        hears of that at once too.
        """
        since = self._revision(etag)
        if since is not None and wait_s > 0:
            await self._wait(etag, min(wait_s, LONGEST_WAIT_S))
        etag, revision = self.etag, self._ledger.revision
        return etag, None if since == revision else await self._body(since or 0, revision)

    def _revision(self, etag: str) -> int | None:
        """Return the revision that *etag* stands for, None if it is not one of ours."""
        found = _ETAG.fullmatch(etag)
        if found is None or found[1] != self.epoch or int(found[2]) > self._ledger.revision:
            return None
        return int(found[2])

    async def _wait(self, etag: str, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                while etag == self.etag:
                    await self._news.wait()
        except TimeoutError:
            return

    async def _body(self, since: int, revision: int) -> bytes:
        wanted = (since, revision)
        if wanted not in self._encoding:
            for old in list(self._encoding)[: 1 - _KEPT]:
                del self._encoding[old]
            facts = facts_since(self._ledger, since)
            made = asyncio.create_task(self._encoded(facts, whole=since == 0), name="encode a ledger")
            self._encoding[wanted] = made
        # One who has gone away must not take it from the others.
        return await asyncio.shield(self._encoding[wanted])

    async def _encoded(self, facts: Facts, *, whole: bool) -> bytes:
        def body() -> bytes:
            plain = encode(facts, whole=whole)
            return zlib.compress(plain, 1) if len(plain) > PLAIN_BYTES else plain

        return await in_thread(body, name="encode a ledger") if len(facts) > _IN_THREAD else body()
