"""While the users are on: their reports, the story, the table and whoever tells of them, side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final

import aiohttp

from proxy.demo import table as tables
from proxy.demo.children import until
from proxy.demo.story import Cluster, Story, steps
from proxy.demo.table import Row
from proxy.demo.tally import Failure, Tick
from proxy.demo.view import Event, Reporter, View
from proxy.demo.wire import decode_report

_REFRESH_EVERY_S: Final = 0.25
_USERS_END_WITHIN_S: Final = 20.0  # more than a user's longest request


class TableWatch:
    """The table of the running anyport, asked for again and again."""

    def __init__(self, admin_url: str) -> None:
        self.rows: tuple[Row, ...] = ()
        self._url = admin_url + "/api/v1/table"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> TableWatch:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def running(self, on_change: Callable[[str], None] = lambda _: None) -> AsyncIterator[None]:
        """Keep `rows` up to date while the context lasts, and tell of each change."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._watch(on_change))
            try:
                yield
            finally:
                task.cancel()

    async def _watch(self, on_change: Callable[[str], None]) -> None:
        assert self._session is not None
        while True:
            try:
                async with self._session.get(self._url) as response:
                    rows = tables.read(await response.json())
            except (aiohttp.ClientError, TimeoutError):
                pass  # not there yet, or its control process is being restarted: the last table stands
            else:
                for line in tables.changes(self.rows, rows):
                    on_change(line)
                self.rows = rows
            await asyncio.sleep(_REFRESH_EVERY_S)


class Show:
    """Runs from the users' first request to their last answer."""

    def __init__(
        self,
        view: View,
        cluster: Cluster,
        table: TableWatch,
        *,
        instances: int,
        anyport: asyncio.subprocess.Process,
        users: asyncio.subprocess.Process,
        ended: asyncio.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.view = view
        self.trouble = ""  # why the show had to end, if not by wish
        self._table, self._anyport, self._users, self._ended = table, anyport, users, ended
        self._instances, self._services = instances, tuple(cluster.base)
        self._clock = clock
        self._began_s = clock()
        self._story = Story(cluster, say=self._tell, until=until)
        self._reporter: Reporter | None = None

    async def run(self, reporter: Reporter) -> None:
        """Show until the time is up, the end is wished for, or a process ends that must not."""
        self._began_s = self._clock()
        with reporter:
            self._reporter = reporter
            async with (
                self._table.running(lambda line: self._tell(line, "table")),
                asyncio.TaskGroup() as group,
            ):
                reading = group.create_task(self._read())
                acts = [
                    group.create_task(self._story.run(steps(self._services, self._instances))),
                    group.create_task(self._refresh()),
                    group.create_task(self._mind(self._anyport, "anyport")),
                    group.create_task(self._mind(self._users, "the process of the users")),
                ]
                try:
                    async with asyncio.timeout(self.view.for_s):
                        await self._ended.wait()
                except TimeoutError:
                    self._ended.set()
                for act in acts:
                    act.cancel()
                await self._let_the_users_finish(reading)
            self._update()

    def describe(self, failure: Failure) -> str:
        """Return a line with everything known of a failed request."""
        at_s = failure.ended_s - self._began_s
        known = [
            f"status {failure.status}" if failure.status else "",
            f"X-Anyport-Error {failure.code}" if failure.code else "",
            f"task {failure.task.rsplit('/', 1)[-1][:8]}" if failure.task else "",
            f"after {(failure.ended_s - failure.started_s) * 1e3:.0f} ms",
        ]
        return (
            f"{at_s:.1f}s {failure.user}: {failure.method} {failure.path}: expected {failure.expected}, "
            f"got {failure.got} ({', '.join(filter(None, known))})"
        )

    def steps(self) -> list[str]:
        """Return what was carried through, such as "3 deploys"."""
        names = {"scale-out": "scale-outs", "deploy": "deploys", "kill": "kills", "scale-in": "scale-ins"}
        return [f"{count} {names.get(kind, kind + 's')}" for kind, count in self._story.done.items()]

    async def _read(self) -> None:
        assert self._users.stdout is not None
        async for line in self._users.stdout:
            report = decode_report(line)
            if isinstance(report, Tick):
                self.view.score.tick(report, self._clock())
                continue
            excused = self.view.score.judge(report)
            verdict = f"excused, {excused}" if excused else "FAILED"
            self._tell(f"{verdict}: {self.describe(report)}", "excused" if excused else "failed")

    async def _refresh(self) -> None:
        assert self._reporter is not None
        while True:
            self._update()
            self._reporter.refresh()
            await asyncio.sleep(_REFRESH_EVERY_S)

    def _update(self) -> None:
        view, done = self.view, self._story.done
        view.elapsed_s = self._clock() - self._began_s
        view.rows = self._table.rows
        view.deploys, view.kills, view.replacements = done["deploy"], done["kill"], self._story.replacements

    async def _mind(self, process: asyncio.subprocess.Process, name: str) -> None:
        code = await process.wait()
        self.trouble = f"{name} ended in the middle of the demo with exit code {code}"
        self._ended.set()

    async def _let_the_users_finish(self, reading: asyncio.Task[None]) -> None:
        assert self._users.stdin is not None
        self._users.stdin.close()
        try:
            async with asyncio.timeout(_USERS_END_WITHIN_S):
                await reading
        except TimeoutError:
            self.trouble = self.trouble or f"the users did not end within {_USERS_END_WITHIN_S:g} s"

    def _tell(self, text: str, kind: str = "story") -> None:
        event = Event(self._clock() - self._began_s, text, kind)
        self.view.events.append(event)
        if self._reporter is not None:
            self._reporter.event(event)
