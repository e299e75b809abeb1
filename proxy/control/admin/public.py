"""The read-only server for machines: Prometheus, load balancers, container health checks."""

from __future__ import annotations

import time
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from proxy.control.admin.server import answer, plain_errors
from proxy.control.drained import Drains, is_task_arn
from proxy.control.status import Status, readiness


def public_app(
    status: Status,
    series: CollectorRegistry,
    drains: Drains,
    *,
    more: Callable[[web.Application], None] = lambda app: None,
    clock: Callable[[], float] = time.monotonic,
) -> web.Application:
    """Return the application behind `[metrics] address`; *more* adds pages to it."""

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(series), headers={"Content-Type": content_type})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(_: web.Request) -> web.Response:
        found = readiness(status, clock())
        return answer(found, status=200 if found["ready"] else 503)

    async def drained(request: web.Request) -> web.Response:
        task_arn = request.query.get("task", "")
        if not is_task_arn(task_arn):
            return answer({"error": "which task? /drained?task=arn:aws:ecs:..."}, status=400)
        if not drains.admit():
            return answer({"error": "too many questions: ask again in a second"}, status=429)
        return answer(await drains.everywhere(task_arn))

    app = web.Application(middlewares=[plain_errors])
    app.router.add_get("/drained", drained)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    more(app)
    return app
