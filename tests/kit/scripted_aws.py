"""A server that answers AWS calls the way a test says, and remembers what was asked, and as whom."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Answer = dict[str, Any] | web.Response | None  # None: hang


class ScriptedAws:
    """Answers each operation with what a test put in `answers`, and remembers what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[dict[str, Any]], Answer]] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str] = []  # the access key of each
        self.url = ""
        self.credentials: Callable[[], dict[str, str]] = dict

    async def handle(self, request: web.Request) -> web.Response:
        operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        if operation:
            body = await request.json()
        else:
            form = await request.post()
            operation, body = str(form["Action"]), {k: str(v) for k, v in form.items()}
        self.asked.append((operation, body))
        found = re.search(r"Credential=([^/]+)/", request.headers.get("Authorization", ""))
        self.keys.append(found[1] if found else "")
        answer = self.answers[operation](body)
        if answer is None:
            await asyncio.sleep(60)
        if isinstance(answer, web.Response):
            return answer
        return web.Response(text=json.dumps(answer), content_type="application/x-amz-json-1.1")

    async def handle_credentials(self, request: web.Request) -> web.Response:
        return web.json_response(self.credentials())

    def operations(self) -> list[str]:
        return [operation for operation, _ in self.asked]


def error(code: str, status: int = 400) -> web.Response:
    body = json.dumps({"__type": f"com.amazonaws.ecs#{code}", "message": "AKIASECRET is not a good key"})
    return web.Response(status=status, text=body, content_type="application/x-amz-json-1.1")


@asynccontextmanager
async def scripted_aws() -> AsyncIterator[ScriptedAws]:
    """Serve one on loopback; GET /credentials gives what `credentials()` does, as the ECS agent would."""
    scripted = ScriptedAws()
    app = web.Application(client_max_size=2**22)
    app.router.add_post("/", scripted.handle)
    app.router.add_get("/credentials", scripted.handle_credentials)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    scripted.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield scripted
    finally:
        await runner.cleanup()
