"""The built-in backend: what runs in a simulated task whose definition names no command.

It answers a handful of routes that show how a proxy treats bodies, streams, slowness, errors and
WebSockets, and it stops the way a good backend on ECS should: on SIGTERM it keeps serving for a
while (no load balancer told anyone before), finishes what is in flight and exits 0.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import uvloop
from aiohttp import WSCloseCode, WSMsgType, web

CHUNK_BYTES = 64 * 1024
_MAX_NUMBER = 2**31  # of any query parameter: a gigabyte body is wanted, a terabyte is a typing error


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How one copy of the app presents itself, starts and stops."""

    listen: tuple[tuple[str, int], ...]  # (host, port), each served alike
    service: str = ""
    task_arn: str = ""
    release: str = ""
    start_delay_s: float = 0.0  # it listens this late: a slow start
    graceful: bool = True
    linger_s: float = 0.5  # SIGTERM to not accepting any more

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Behaviour:
        """Read SERVICE, TASK_ARN, RELEASE, HOST, PORT, START_DELAY_S, STOP and LINGER_S.

        HOST and PORT may be lists with commas; one HOST serves all ports, and an empty PORT none at
        all, as in a sidecar. Raises ValueError.
        """
        ports = [int(port) for port in environment.get("PORT", "8080").split(",") if port]
        hosts = environment.get("HOST", "0.0.0.0").split(",")
        if len(hosts) == 1:
            hosts *= len(ports)
        stop = environment.get("STOP", "graceful")
        if stop not in ("graceful", "instant"):
            raise ValueError(f"STOP is {stop!r}; it must be graceful or instant")
        return cls(
            listen=tuple(zip(hosts, ports, strict=True)),
            service=environment.get("SERVICE", ""),
            task_arn=environment.get("TASK_ARN", ""),
            release=environment.get("RELEASE", ""),
            start_delay_s=float(environment.get("START_DELAY_S", "0")),
            graceful=stop == "graceful",
            linger_s=float(environment.get("LINGER_S", "0.5")),
        )


@dataclass(slots=True)
class _Site:
    """The little this app remembers while it runs."""

    behaviour: Behaviour
    identity: dict[str, object]
    healthy: bool = True
    stopping: bool = False
    sockets: set[web.WebSocketResponse] = field(default_factory=set)


_SITE = web.AppKey("site", _Site)


def make_app(behaviour: Behaviour) -> web.Application:
    """The routes, with X-Task, X-Service and X-Release on every answer."""
    identity: dict[str, object] = {
        "service": behaviour.service,
        "task": behaviour.task_arn,
        "release": behaviour.release,
        "pid": os.getpid(),
    }
    site = _Site(behaviour, identity)
    app = web.Application(client_max_size=_MAX_NUMBER)
    app[_SITE] = site

    async def sign(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Task"] = behaviour.task_arn
        response.headers["X-Service"] = behaviour.service
        response.headers["X-Release"] = behaviour.release
        if site.stopping and not isinstance(response, web.WebSocketResponse):
            # Tells pools to let go before the connection is closed under them. aiohttp has settled
            # its own headers by now, so that closing alone would come without a word.
            response.headers["Connection"] = "close"
            response.force_close()

    app.on_response_prepare.append(sign)
    app.router.add_get("/", _root)
    app.router.add_get("/health", _health)
    app.router.add_post("/health", _set_health)
    app.router.add_post("/echo", _echo)
    app.router.add_get("/slow", _slow)
    app.router.add_get("/stream", _stream)
    app.router.add_get("/bytes", _bytes)
    app.router.add_route("*", r"/status/{code:[2-5]\d\d}", _status)
    app.router.add_get("/headers", _headers)
    app.router.add_get("/ws", _ws)
    app.router.add_route("*", "/{path:.*}", _anything)
    return app


async def serve(behaviour: Behaviour, *, lifeline_fd: int | None = None) -> int:
    """Serve until SIGTERM; returns the exit code. Ends at once when *lifeline_fd* reaches its end."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        if behaviour.graceful:
            loop.add_signal_handler(number, stop.set)
        else:
            loop.add_signal_handler(number, os._exit, 128 + number)
    # Whoever forked us held these back until the handlers stood.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    if lifeline_fd is not None:
        loop.add_reader(lifeline_fd, os._exit, 1)
    if behaviour.start_delay_s > 0 and await _set_within(stop, behaviour.start_delay_s):
        return 0
    app = make_app(behaviour)
    site = app[_SITE]
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=30.0)
    await runner.setup()
    try:
        for host, port in behaviour.listen:
            await web.TCPSite(runner, host, port, backlog=1024, reuse_address=True).start()
        await stop.wait()
        site.stopping = True
        await _close_sockets(site)
        await asyncio.sleep(behaviour.linger_s)
        await _close_sockets(site)  # those that came while it lingered
    finally:
        await runner.cleanup()
    return 0


def run(environment: Mapping[str, str], *, lifeline_fd: int | None = None) -> int:
    """Run the app in a loop of its own; returns the exit code, after one line on stderr if it is not 0."""
    try:
        behaviour = Behaviour.from_environment(environment)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(behaviour, lifeline_fd=lifeline_fd))
    except (OSError, ValueError) as exc:
        sys.stderr.write(f"cannot serve: {exc}\n")
        return 1


async def _set_within(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False


async def _close_sockets(site: _Site) -> None:
    closing = [ws.close(code=WSCloseCode.SERVICE_RESTART, message=b"stopping") for ws in tuple(site.sockets)]
    await asyncio.gather(*closing, return_exceptions=True)  # a peer that is gone already is no failure


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > _MAX_NUMBER:
        raise web.HTTPBadRequest(text=f"{name} must be a whole number from 0 to {_MAX_NUMBER}\n")
    return int(text)


async def _root(request: web.Request) -> web.Response:
    return web.json_response(request.app[_SITE].identity)


async def _anything(request: web.Request) -> web.Response:
    await request.read()
    return web.json_response(
        request.app[_SITE].identity | {"method": request.method, "path": request.raw_path}
    )


async def _health(request: web.Request) -> web.Response:
    healthy = request.app[_SITE].healthy
    return web.json_response({"ok": healthy}, status=200 if healthy else 503)


async def _set_health(request: web.Request) -> web.Response:
    try:
        wanted = await request.json()
    except json.JSONDecodeError:
        wanted = None
    if not isinstance(wanted, dict) or not isinstance(wanted.get("ok"), bool):
        raise web.HTTPBadRequest(text='send {"ok": true} or {"ok": false}\n')
    request.app[_SITE].healthy = wanted["ok"]
    return web.json_response({"ok": wanted["ok"]})


async def _echo(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": request.headers.get("Content-Type", "text/plain")})
    if request.content_length is not None:
        response.content_length = request.content_length
    else:
        response.enable_chunked_encoding()
    await response.prepare(request)
    async for block in request.content.iter_any():
        await response.write(block)
    await response.write_eof()
    return response


async def _slow(request: web.Request) -> web.Response:
    waited_ms = _number(request, "ms", 1000)
    await asyncio.sleep(waited_ms / 1000)
    return web.json_response(request.app[_SITE].identity | {"waited_ms": waited_ms})


async def _stream(request: web.Request) -> web.StreamResponse:
    chunks, size, pause_ms = (
        _number(request, "chunks", 10),
        _number(request, "bytes", 100),
        _number(request, "ms", 100),
    )
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for index in range(chunks):
        if index and pause_ms:
            await asyncio.sleep(pause_ms / 1000)
        await response.write(b"x" * size)
    await response.write_eof()
    return response


async def _bytes(request: web.Request) -> web.StreamResponse:
    left = _number(request, "n", 1024)
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.content_length = left
    await response.prepare(request)
    block = b"x" * CHUNK_BYTES
    while left:
        await response.write(block[:left])
        left -= min(left, CHUNK_BYTES)
    await response.write_eof()
    return response


async def _status(request: web.Request) -> web.Response:
    await request.read()
    code = int(request.match_info["code"])
    if code in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        return web.Response(status=code)
    return web.json_response(request.app[_SITE].identity | {"status": code}, status=code)


async def _headers(request: web.Request) -> web.Response:
    """The header lines as they came: order, case and repetition kept."""
    return web.json_response(
        [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers]
    )


async def _ws(request: web.Request) -> web.WebSocketResponse:
    site = request.app[_SITE]
    ws = web.WebSocketResponse(max_msg_size=16 * 1024 * 1024)
    await ws.prepare(request)
    site.sockets.add(ws)
    try:
        await ws.send_json(site.identity)
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await ws.send_bytes(message.data)
    except ConnectionError:  # the peer left in the middle of a message
        pass
    finally:
        site.sockets.discard(ws)
    return ws


if __name__ == "__main__":
    sys.exit(run(os.environ))
