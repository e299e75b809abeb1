"""A status of the control process as metrics and servers read it, filled by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from discovery.model import Snapshot, SourceStatus, Told
from proxy.control.status import Status
from proxy.link import scoreboard
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import BackendRow, ServiceRow, TableSnapshot

NOW_S = 1000.0


class FakeSource:
    """A source that says what it is told to have said."""

    def __init__(self, name: str, status: SourceStatus) -> None:
        self.name = name
        self.status = status
        self.words: dict[str, Sequence[Told]] = {}  # by task

    async def watch(self) -> AsyncIterator[Snapshot]:
        yield Snapshot(source=self.name)
        await asyncio.Event().wait()

    def hurry(self, task_arn: str = "") -> None:
        """Nothing to look at."""

    def told(self, task_arn: str) -> Sequence[Told]:
        return self.words.get(task_arn, ())


def a_row(task: str, **more: object) -> BackendRow:
    """Return a healthy backend of service web."""
    values: dict[str, object] = {
        "service": "web", "task_arn": task, "container": "app", "container_port": 80,
        "host": "10.0.0.1", "port": 32768, "healthy": True, "draining": False,
    }  # fmt: skip
    return BackendRow(**{**values, **more})  # type: ignore[arg-type]


def a_status(workers: int = 2) -> Status:
    """Return the status of a proxy that is ready at `NOW_S`."""
    board = Scoreboard.create(workers)
    for number in range(workers):
        board.begin(number, 100 + number)
        head = board.head(number)
        head[scoreboard.REVISION] = 5
        head[scoreboard.HEARTBEAT_MS] = int((NOW_S - 0.5) * 1000)
    source = FakeSource("ecs:prod", SourceStatus(last_success_s=NOW_S - 3, refreshes=9))
    source.status.calls["ListTasks"] = 10
    source.status.errors["throttled"] = 1
    table = TableSnapshot(
        revision=5,
        loaded=True,
        services=(ServiceRow(name="web", slot=1, hosts=("web.test",), path="/"),),
        by_service={
            "web": (
                a_row("a"),
                a_row("b", draining=True, reason="task is stopping"),
                a_row("c", healthy=False, reason="health check: HTTP 503"),
            )
        },
    )
    return Status(board=board, version="1.2.3", table=table, published_at_s=NOW_S - 60, sources=(source,))
