"""The users against real servers, good ones and ones that lie."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSCloseCode, web

from proxy.demo import users
from proxy.demo.load import play
from proxy.demo.tally import Failure, Tick
from proxy.demo.users import Ask, HttpUser, Log, SocketUser
from proxy.demo.wire import Plan, Target

WEB = Target(service="web", host="web.demo.localhost", http_users=1)
OWN = Target(service="own", host="own.localhost", http_users=1, built_in=False)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handler, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def app(request: web.Request) -> web.StreamResponse:
    """What a task of service web does: echo, and a WebSocket."""
    if request.path == "/ws":
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"service": "web"})
        async for message in socket:
            await socket.send_str(message.data)
        return socket
    assert request.headers["Host"] == WEB.host
    return web.Response(body=await request.read(), headers={"X-Service": "web", "X-Task": "task-1"})


async def asked(handler: Handler, ask: Ask, target: Target = WEB) -> list[Failure]:
    failures: list[Failure] = []
    log = Log(failures.append)
    async with served(handler) as url, users.session() as browser:
        user = HttpUser("web-http-1", target, url, log, think_s=0.001, rng=random.Random(1))
        await user.ask(browser, ask)
    assert log.take().requests == 1
    return failures


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "ask", [Ask("GET", "/"), Ask("POST", "/echo", b"hello"), Ask("POST", "/echo", b"ab" * 8, 8)]
)
async def test_a_right_answer_is_no_failure(ask: Ask) -> None:
    assert await asked(app, ask) == []


def answer(**wanted: object) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.Response(**wanted)  # type: ignore[arg-type]

    return handler


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("handler", "got"),
    [
        (answer(status=503, headers={"X-Anyport-Error": "B02 none_ready"}), "status 503"),
        (answer(body=b"hello", headers={"X-Service": "api"}), "an answer of service 'api'"),
        (answer(body=b"hello"), "an answer of service ''"),
        (answer(body=b"hell0", headers={"X-Service": "web"}), "5 bytes that are not the same"),
    ],
    ids=["status", "other service", "no service", "other bytes"],
)
async def test_a_wrong_answer_is_a_failure(handler: Handler, got: str) -> None:
    [failure] = await asked(handler, Ask("POST", "/echo", b"hello"))
    assert failure.got == got
    assert (failure.user, failure.service, failure.method, failure.cut) == (
        "web-http-1",
        "web",
        "POST",
        False,
    )
    assert failure.expected == "200 from web with the same 5 bytes"
    if failure.status == 503:
        assert failure.code == "B02 none_ready"


@pytest.mark.asyncio
async def test_an_answer_cut_short_is_a_failure_with_the_task_it_came_from() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(
            headers={"X-Service": "web", "X-Task": "task-1", "Content-Length": "100"}
        )
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    [failure] = await asked(cut, Ask("GET", "/"))
    assert (failure.cut, failure.status, failure.task) == (True, 200, "task-1")


@pytest.mark.asyncio
async def test_a_closed_connection_is_a_failure_even_for_a_get_on_a_kept_connection() -> None:
    seen = 0

    async def fickle(request: web.Request) -> web.StreamResponse:
        nonlocal seen
        seen += 1
        if seen == 2:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(headers={"X-Service": "web"})

    failures: list[Failure] = []
    async with served(fickle) as url, users.session() as browser:
        user = HttpUser("u", WEB, url, Log(failures.append), think_s=0.001, rng=random.Random(1))
        for _ in range(3):
            await user.ask(browser, Ask("GET", "/"))
    [failure] = failures
    assert (failure.cut, failure.status) == (True, 0)
    assert seen == 3, "the request was not quietly sent again"


@pytest.mark.asyncio
@pytest.mark.parametrize(("status", "failed"), [(200, 0), (302, 0), (404, 0), (500, 1), (503, 1)])
async def test_of_the_operators_own_program_only_5xx_is_a_failure(status: int, failed: int) -> None:
    assert len(await asked(answer(status=status), Ask("GET", "/"), OWN)) == failed


def test_own_programs_are_only_asked_for_their_root() -> None:
    rng = random.Random(1)
    assert {users.choose(OWN, rng) for _ in range(100)} == {Ask("GET", "/")}
    kinds = {(ask.method, ask.parts > 0) for ask in (users.choose(WEB, rng) for _ in range(500))}
    assert kinds == {("GET", False), ("POST", False), ("POST", True)}


@pytest.mark.asyncio
async def test_play_reports_and_finishes_what_it_began() -> None:
    ended = asyncio.Event()
    requests = messages = 0
    sockets = []

    def report(what: Tick | Failure) -> None:
        nonlocal requests, messages
        assert isinstance(what, Tick), what
        requests += what.requests
        messages += what.messages
        sockets.append(what.sockets)
        if requests >= 20 and messages >= 2:
            ended.set()

    target = Target(service="web", host=WEB.host, http_users=3, socket_users=2)
    async with served(app) as url, asyncio.timeout(20):
        await play(Plan(url=url, targets=(target,), think_s=0.01), ended, report)
    assert max(sockets) == 2
    assert sockets[-1] == 0


@pytest.mark.asyncio
async def test_a_websocket_that_is_closed_reconnects_without_a_failure() -> None:
    opened = 0
    ended = asyncio.Event()

    async def restarting(request: web.Request) -> web.StreamResponse:
        nonlocal opened
        opened += 1
        if opened == 3:
            ended.set()
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"service": "web"})
        await socket.close(code=WSCloseCode.SERVICE_RESTART)
        return socket

    failures: list[Failure] = []
    log = Log(failures.append)
    async with served(restarting) as url, asyncio.timeout(20):
        await SocketUser("s", WEB, url, log, rng=random.Random(1)).run(ended)
    assert failures == []
    assert log.take().reconnects >= 2


@pytest.mark.asyncio
async def test_a_websocket_that_cannot_be_opened_within_5_s_is_one_failure_per_outage() -> None:
    failures: list[Failure] = []
    now_s, ended = 0.0, asyncio.Event()

    async def pass_time(pause_s: float) -> None:
        nonlocal now_s
        now_s += pause_s
        await asyncio.sleep(0)
        if now_s > 12:
            ended.set()

    user = SocketUser(
        "s",
        WEB,
        "http://127.0.0.1:1",
        Log(failures.append),
        rng=random.Random(1),
        clock=lambda: now_s,
        sleep=pass_time,
    )
    await user.run(ended)
    [failure] = failures
    assert failure.expected == "an open WebSocket within 5 s"
    assert "ClientConnectorError" in failure.got
    assert 5.0 < failure.ended_s - failure.started_s < 5.5


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("greeting", "echo", "got"),
    [
        ('{"service": "api"}', True, "a greeting of service 'api'"),
        ("hello", True, "a greeting of service 'unreadable: hello'"),
        ('{"service": "web"}', False, "another text of 3 characters"),
    ],
)
async def test_a_websocket_that_lies_is_a_failure(greeting: str, echo: bool, got: str) -> None:
    async def lying(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(greeting)
        async for message in socket:
            await socket.send_str(message.data if echo else "???")
        return socket

    failures: list[Failure] = []
    async with served(lying) as url, users.session() as browser, asyncio.timeout(10):
        user = SocketUser("s", WEB, url, Log(failures.append), rng=random.Random(1))
        assert await user.chat(browser, asyncio.Event()) is None
    [failure] = failures
    assert failure.got == got
    assert failure.method == "WS"
