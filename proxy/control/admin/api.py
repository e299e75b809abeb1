"""The admin API: the table as it is, for `anyport table` and for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from discovery.model import Source
from proxy.control import status as control_status
from proxy.control.admin.guard import guard
from proxy.control.admin.server import answer, plain_errors
from proxy.control.compose import address, state
from proxy.control.status import Status
from proxy.link.snapshots import TableSnapshot


def table_rows(table: TableSnapshot, sources: Iterable[Source] = ()) -> list[dict[str, Any]]:
    """Return the table as `anyport table --json` prints it; *sources* say where they have it from."""
    by_name = {source.name: source for source in sources}
    return [
        {
            "service": row.service,
            "task_arn": row.task_arn,
            "container": row.container,
            "container_port": row.container_port,
            "address": address(row),
            "state": state(row),
            "reason": row.reason,
            "zone": row.zone,
            "instance": row.instance,
            "release": row.release,
            "revision": table.revision,
            "source": row.source,
            "told": _told(by_name.get(row.source), row.task_arn),
        }
        for row in table.backends
    ]


def _told(source: Source | None, task_arn: str) -> list[dict[str, str]]:
    """Return who has said what about a task, newest first; nothing of a source that is asked no more."""
    if source is None:
        return []
    return [{"by": word.by, "what": word.what, "at": _iso(word.at_s)} for word in source.told(task_arn)]


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def admin_app(
    status: Status, token: Callable[[], str], *, clock: Callable[[], float] = time.monotonic
) -> web.Application:
    """Return the application behind `[admin] address`. A reload may change what *token* returns."""

    async def table(_: web.Request) -> web.Response:
        return answer(table_rows(status.table, status.sources))

    async def overview(_: web.Request) -> web.Response:
        found = control_status.readiness(status, clock())
        services = [
            {"service": row.name, "hosts": row.hosts, "path": row.path} for row in status.table.services
        ]
        return answer(
            {
                "version": status.version,
                "revision": status.table.revision,
                "self": control_status.ourselves(status),
                "ready": found["ready"],
                "reasons": found["reasons"],
                "quarantine": found["table"]["quarantine"],
                "services": services,
                "sources": found["sources"],
                "workers": found["workers"],
                "problems": found["problems"],
            }
        )

    app = web.Application(middlewares=[plain_errors, guard(token)])
    app.router.add_get("/api/v1/table", table)
    app.router.add_get("/api/v1/status", overview)
    return app
