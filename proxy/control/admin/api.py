"""The admin API: the table as it is, for `anyport table` and for people."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from proxy.control import status as control_status
from proxy.control.admin.guard import guard
from proxy.control.admin.server import answer, plain_errors
from proxy.control.compose import address, state
from proxy.control.status import Status
from proxy.link.snapshots import TableSnapshot


def table_rows(table: TableSnapshot) -> list[dict[str, Any]]:
    """Return the table as `anyport table --json` prints it."""
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
        }
        for row in table.backends
    ]


def admin_app(
    status: Status, token: Callable[[], str], *, clock: Callable[[], float] = time.monotonic
) -> web.Application:
    """Return the application behind `[admin] address`. A reload may change what *token* returns."""

    async def table(_: web.Request) -> web.Response:
        return answer(table_rows(status.table))

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
