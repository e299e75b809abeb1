"""While the users are on: their reports, the story, the table and whoever tells of them, side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from proxy.demo.children import until
from proxy.demo.story import Cluster, Story, steps
from proxy.demo.tally import Failure, Tick, ended_well, last_line
from proxy.demo.view import Event, Reporter, View
from proxy.demo.watch import TableWatch
from proxy.demo.wire import decode_report

_REFRESH_EVERY_S: Final = 0.25
_FAILURES_SHOWN: Final = 10
_USERS_END_WITHIN_S: Final = 20.0  # more than a user's longest request


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

    @property
    def ended_well(self) -> bool:
        return ended_well(self.view.score) and not self.trouble

    def summary(self) -> list[str]:
        """Return what is left to say at the end; the last line is the one that counts."""
        view, score = self.view, self.view.score
        lines = []
        if score.failures:
            lines.append("Requests that failed and should not have:")
            lines += ["  " + self._describe(failure) for failure in score.failures[:_FAILURES_SHOWN]]
            if (more := len(score.failures) - _FAILURES_SHOWN) > 0:
                lines.append(f"  ... and {more} more")
        did = ", ".join(f"{count} {kind}s" for kind, count in self._story.done.items())
        lines.append(
            f"{view.elapsed_s:.0f} s of use: {did or 'no step was finished'}; "
            f"{score.messages} WebSocket messages, {score.reconnects} reconnects; "
            f"p50 {score.latency.percentile_s(50) * 1e3:.1f} ms, "
            f"p99 {score.latency.percentile_s(99) * 1e3:.1f} ms"
        )
        if self.trouble:
            lines.append(self.trouble)
        elif not score.requests:
            lines.append("not one request was made")
        lines.append(last_line(score, deploys=view.deploys, replacements=view.replacements))
        return lines

    async def _read(self) -> None:
        assert self._users.stdout is not None
        async for line in self._users.stdout:
            report = decode_report(line)
            if isinstance(report, Tick):
                self.view.score.tick(report, self._clock())
                continue
            excused = self.view.score.judge(report)
            if len(self.view.score.failures) > _FAILURES_SHOWN:
                continue  # an outage is a number, not a flood of lines
            verdict = f"excused, {excused}" if excused else "FAILED"
            self._tell(f"{verdict}: {self._describe(report)}", "excused" if excused else "failed")

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

    def _describe(self, failure: Failure) -> str:
        """Return a line with everything known of a failed request."""
        known = [
            f"X-Anyport-Error {failure.code}" if failure.code else "",
            f"task {failure.task.rsplit('/', 1)[-1][:8]}" if failure.task else "",
            f"after {(failure.ended_s - failure.started_s) * 1e3:.0f} ms",
        ]
        return (
            f"{failure.ended_s - self._began_s:.1f}s {failure.user}: {failure.method} {failure.path}: "
            f"expected {failure.expected}, got {failure.got} ({', '.join(filter(None, known))})"
        )
