"""The built-in backend, in this process and over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import WSMsgType, web
from yarl import URL

from discovery.simulator.app import Behaviour, make_app

TASK = "arn:aws:ecs:eu-west-1:123456789012:task/prod/4d590253bb114126b7afa7b58eea9221"
BEHAVIOUR = Behaviour(listen=(), service="web", task_arn=TASK, release="web:7")


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    runner = web.AppRunner(make_app(BEHAVIOUR), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
        yield session
    await runner.cleanup()


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/", "/health", "/bytes?n=3", "/status/404", "/status/204", "/no/such?x=1"])
async def test_every_answer_says_who_gave_it(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as answer:
        names = ("X-Task", "X-Service", "X-Release")
        assert [answer.headers[name] for name in names] == [TASK, "web", "web:7"]


@pytest.mark.asyncio
async def test_the_root_and_any_other_path(client: aiohttp.ClientSession) -> None:
    async with client.get("/") as answer:
        assert (await answer.json())["service"] == "web"
    async with client.put("/a%20b?c=d", data=b"body") as answer:
        assert answer.status == 200
        assert (await answer.json())["path"] == "/a%20b?c=d"


@pytest.mark.asyncio
async def test_health_can_be_switched(client: aiohttp.ClientSession) -> None:
    async with client.get("/health") as answer:
        assert answer.status == 200
    await client.post("/health", json={"ok": False})
    async with client.get("/health") as answer:
        assert answer.status == 503
    async with client.post("/health", data=b"nonsense") as answer:
        assert answer.status == 400


@pytest.mark.asyncio
async def test_echo_keeps_length_or_chunks(client: aiohttp.ClientSession) -> None:
    body = bytes(range(256)) * 1000
    async with client.post("/echo", data=body) as answer:
        assert answer.headers["Content-Length"] == str(len(body))
        assert await answer.read() == body

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async with client.post("/echo", data=pieces()) as answer:
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert await answer.read() == b"onetwo"


@pytest.mark.asyncio
async def test_bytes_and_stream(client: aiohttp.ClientSession) -> None:
    async with client.get("/bytes?n=200000") as answer:
        assert answer.content_length == 200000
        assert len(await answer.read()) == 200000
    async with client.get("/stream?chunks=3&bytes=10&ms=1") as answer:
        assert answer.content_length is None
        assert len(await answer.read()) == 30
    async with client.get("/slow?ms=1") as answer:
        assert (await answer.json())["waited_ms"] == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path", ["/bytes?n=-1", "/bytes?n=99999999999", "/slow?ms=x", "/stream?bytes=%C2%B2"]
)
async def test_a_number_that_is_none_is_refused(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as answer:
        assert answer.status == 400


@pytest.mark.asyncio
async def test_headers_come_back_in_order_and_case(client: aiohttp.ClientSession) -> None:
    async with client.get("/headers", headers=[("x-B", "1"), ("X-a", "2"), ("x-B", "3")]) as answer:
        mine = [pair for pair in await answer.json() if pair[0].lower().startswith("x-")]
    assert mine == [["x-B", "1"], ["X-a", "2"], ["x-B", "3"]]


@pytest.mark.asyncio
async def test_websocket_greets_and_echoes(client: aiohttp.ClientSession) -> None:
    async with client.ws_connect("/ws") as ws:
        assert (await ws.receive_json())["task"] == TASK
        await ws.send_str("text")
        await ws.send_bytes(b"\x00\xff")
        assert await ws.receive_str() == "text"
        assert (await ws.receive()).type is WSMsgType.BINARY


@pytest.mark.asyncio
async def test_a_body_nobody_reads_does_not_pile_up(client: aiohttp.ClientSession) -> None:
    """Back-pressure: an echo whose client does not read stops reading too."""
    url = URL(str(client._base_url))

    def push() -> int:
        assert url.port is not None
        with socket.create_connection(("127.0.0.1", url.port), timeout=0.3) as peer:
            peer.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000000\r\n\r\n")
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 200_000_000:
                    sent += peer.send(b"x" * 65536)
            return sent

    assert await asyncio.to_thread(push) < 64 * 1024 * 1024


def test_behaviour_from_the_environment() -> None:
    behaviour = Behaviour.from_environment({"HOST": "127.0.1.1", "PORT": "32768,32769", "STOP": "instant"})
    assert behaviour.listen == (("127.0.1.1", 32768), ("127.0.1.1", 32769))
    assert not behaviour.graceful
    assert Behaviour.from_environment({"HOST": "", "PORT": ""}).listen == ()
    with pytest.raises(ValueError, match="must be graceful or instant"):
        Behaviour.from_environment({"STOP": "gracefull"})
