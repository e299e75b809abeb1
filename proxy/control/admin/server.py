"""What both HTTP servers of the control process have in common."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import orjson
from aiohttp import web, web_response

log = logging.getLogger("anyport.admin")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_SHUTDOWN_S: Final = 1.0

# The only place that reaches every answer, including those to requests aiohttp cannot parse: which
# versions run here is nobody's business.
web_response.SERVER_SOFTWARE = "anyport"  # type: ignore[attr-defined]
# It logs a traceback for every malformed request a scanner sends. Our own mistakes are logged below.
logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def answer(data: object, *, status: int = 200) -> web.Response:
    """Return *data* as JSON that no cache keeps."""
    body = orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


@web.middleware
async def plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every failure into short JSON: what is wrong, and what there is instead."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        known = sorted({resource.canonical for resource in request.app.router.resources()})
        return answer({"error": "no such page", "pages": known}, status=404)
    except web.HTTPMethodNotAllowed as exc:
        refused = answer({"error": "only GET and HEAD are served here"}, status=405)
        refused.headers["Allow"] = exc.headers["Allow"]
        return refused
    except web.HTTPException as exc:
        return answer({"error": exc.reason}, status=exc.status)
    except Exception:
        log.exception("cannot answer %s", request.path)
        return answer({"error": "anyport failed here; its log says why"}, status=500)


@asynccontextmanager
async def serving(app: web.Application, sock: socket.socket) -> AsyncIterator[web.SockSite]:
    """Serve *app* on the bound socket *sock* for the length of the context.

    To stop the site earlier ends accepting, and leaves those who are connected their time.
    """
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_S, keepalive_timeout=30.0
    )
    await runner.setup()
    try:
        site = web.SockSite(runner, sock, backlog=128)
        await site.start()
        yield site
    finally:
        await runner.cleanup()
