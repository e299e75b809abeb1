"""What was last known of a cluster, kept on disk: it serves from the start, until there is fresher news."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from discovery import keep
from discovery.ecs.aws.threads import in_thread
from discovery.ecs.feed import Heard
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.record import Facts, RecordError, decode, encode, facts_since, hear
from discovery.ecs.shapes import short_name
from discovery.model import SourceStatus

log = logging.getLogger("anyport.discovery.ecs")

_MOST_BYTES: Final = 64 << 20
_MOST_PLAIN_BYTES: Final = 512 << 20
_TICK_S: Final = 1.0
_SAVE_AFTER_S: Final = 3.0  # changes within this are one write
_CONFIRM_S: Final = 60.0  # without a change, the file is at least confirmed this often
_SHARE: Final = 0.02  # of the time may go into writing
_CLOCK_AHEAD_S: Final = 60.0  # a file from further in the future says nothing about its age


class Disk:
    """What the file of one cluster in *folder* says, and what the ledger says in the file; a feed.

    Definitions are used however old they are: a revision never changes. All else is used up to *max_age_s*
    after it was last confirmed, but not where `needed()` says that there is a newer table already: whoever is
    started again beside workers that go on. `status` is the cluster's.
    """

    name: Final = "disk"

    def __init__(
        self,
        ledger: Ledger,
        heard: Heard,
        *,
        folder: str,
        cluster: str,
        where: str = "",  # region and endpoint: two clusters may share a name
        status: SourceStatus,
        max_age_s: float = 900.0,
        needed: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._heard = heard
        self._of = f"{short_name(cluster)} {where}".strip()
        self.path = Path(folder) / f"ecs-{_file_name(self._of)}.kept"
        self._status = status
        self._max_age_s = max_age_s
        self._needed = needed
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self.trouble = ""  # what is wrong with the file or the disk; "" while nothing is
        self._saved: tuple[int, float | None] = (0, None)  # revision, and when that was asked for
        self._saved_s = clock()
        self._took_s = 0.0

    def hurry(self) -> None:
        """There is nothing to hurry."""

    async def run(self) -> None:
        """Load what there is; then save until cancelled."""
        await self._load()
        while True:
            await self._sleep(_TICK_S)
            if self._due():
                await self._save()

    # -- loading ---------------------------------------------------------------------------------

    async def _load(self) -> None:
        try:
            loaded = await in_thread(self._read, name="load a ledger")
        except (keep.UnusableError, RecordError) as exc:
            await self._set_aside(str(exc))
            return
        except OSError as exc:
            self._tell(f"cannot read {self.path}: {_why(exc)}")
            return
        if loaded is None:
            return
        facts, confirmed_at = loaded
        age_s = self._wall_clock() - confirmed_at
        if -_CLOCK_AHEAD_S <= age_s <= self._max_age_s and self._needed():
            for _ in hear(self._ledger, facts, by="disk"):
                await asyncio.sleep(0)
            log.info("disk: %s: %d tasks, confirmed %.0f s ago", self._of, len(facts.tasks), max(0.0, age_s))
            self._confirm(age_s)
        else:
            for _ in hear(self._ledger, Facts(definitions=facts.definitions), by="disk"):
                await asyncio.sleep(0)
            log.info("disk: %s: only its definitions are used; its tasks are of %.0f s ago", self._of, age_s)

    def _read(self) -> tuple[Facts, float] | None:
        content = keep.load(self.path, most_bytes=_MOST_BYTES)
        if content is None:
            return None
        unpacking = zlib.decompressobj()
        try:
            body = unpacking.decompress(content, _MOST_PLAIN_BYTES)
        except zlib.error as exc:
            raise RecordError(f"not compressed as it should be: {exc}") from None
        facts, said = decode(body)
        if said.get("cluster") != self._of:
            raise RecordError("it is of another cluster")
        confirmed_at = said.get("confirmed_at")
        if isinstance(confirmed_at, bool) or not isinstance(confirmed_at, (int, float)):
            raise RecordError("it does not say when it was confirmed")
        return facts, float(confirmed_at)

    def _confirm(self, age_s: float) -> None:
        asked_s = self._clock() - max(0.0, age_s)
        if self._status.asked_s is not None and self._status.asked_s >= asked_s:
            self._heard()  # somebody was faster
            return
        self._heard(complete=True, asked_s=asked_s)
        self._saved = (self._ledger.revision, asked_s)

    async def _set_aside(self, why: str) -> None:
        try:
            aside = await in_thread(lambda: keep.set_aside(self.path), name="set a file aside")
        except OSError as exc:
            self._tell(f"{self.path} is not used: {why}; and it cannot be set aside: {_why(exc)}")
        else:
            self._tell(f"{self.path} was not used: {why}; it is {aside.name} now")

    # -- saving ----------------------------------------------------------------------------------

    def _due(self) -> bool:
        """Say whether there is something to save that is worth a write now."""
        asked_s, revision = self._status.asked_s, self._ledger.revision
        if asked_s is None or (revision, asked_s) == self._saved:
            return False  # half an answer must not replace a whole one
        quiet_s = self._clock() - self._saved_s
        if quiet_s < max(_SAVE_AFTER_S, self._took_s / _SHARE):
            return False
        return revision != self._saved[0] or quiet_s >= _CONFIRM_S

    async def _save(self) -> None:
        asked_s, revision = self._status.asked_s, self._ledger.revision
        assert asked_s is not None
        began_s = self._clock()
        confirmed_at = self._wall_clock() - (began_s - asked_s)
        facts = facts_since(self._ledger, 0)
        # Agents and instances are asked again anyway; what EC2 has announced may have been taken back.
        facts = replace(facts, notices=())

        def save() -> None:
            body = encode(facts, cluster=self._of, confirmed_at=confirmed_at)
            keep.save(self.path, zlib.compress(body, 1))

        try:
            await in_thread(save, name="save a ledger")
        except OSError as exc:
            self._tell(f"cannot write {self.path}: {_why(exc)}; a restart will have to do without")
        else:
            if self.trouble:
                log.info("disk: %s: written again", self._of)
            self.trouble = ""
            self._saved = (revision, asked_s)
        self._saved_s = self._clock()
        self._took_s = self._saved_s - began_s

    def _tell(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.warning("disk: %s", trouble)
        self.trouble = trouble


def _file_name(text: str) -> str:
    """Return *text* as a name of a file; two that differ only in what cannot be in one differ in a sum."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:100]
    return f"{plain}-{zlib.crc32(text.encode()):08x}"


def _why(exc: OSError) -> str:
    return exc.strerror or type(exc).__name__
