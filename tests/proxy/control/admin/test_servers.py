"""Both servers over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from discovery.identity import Identity
from discovery.model import Told
from discovery.whoami import Whoami
from proxy.control.admin.api import admin_app
from proxy.control.admin.public import public_app
from proxy.control.admin.server import plain_errors, serving
from proxy.control.drained import Drains
from proxy.control.metrics import registry
from proxy.control.status import Status
from tests.kit.status import NOW_S, FakeSource, a_status


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    async with serving(app, sock), aiohttp.ClientSession() as session:
        yield session, url


def public(status: Status) -> web.Application:
    return public_app(status, registry(status), Drains(status), clock=lambda: NOW_S)


@pytest.mark.asyncio
async def test_health_and_readiness() -> None:
    status = a_status()
    async with served(public(status)) as (session, url):
        async with session.get(f"{url}/readyz") as answer:
            assert answer.status == 200
            assert (await answer.json())["ready"] is True
        status.draining = True
        async with session.get(f"{url}/readyz") as answer:
            assert answer.status == 503
            assert (await answer.json())["reasons"]
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 200, "draining is not dying"
        async with session.head(f"{url}/healthz") as answer:
            assert answer.status == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/plain"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
    ],
)
async def test_metrics_speak_the_format_that_is_asked_for(accept: str, content_type: str) -> None:
    async with (
        served(public(a_status())) as (session, url),
        session.get(f"{url}/metrics", headers={"Accept": accept}) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith(content_type)
        assert 'anyport_backends{service="web",state="ready"} 1.0' in await answer.text()


@pytest.mark.asyncio
async def test_the_table_has_the_promised_fields() -> None:
    status = a_status()
    (source,) = status.sources
    assert isinstance(source, FakeSource)
    source.words["a"] = (Told("events", "RUNNING, version 3", 1_767_323_045.5), Told("api", "PENDING", 0.0))
    rows = [replace(row, source="ecs:prod") for row in status.table.by_service["web"][:2]]
    rows += [replace(row, source="ecs:former") for row in status.table.by_service["web"][2:]]
    status.table = replace(status.table, by_service={"web": tuple(rows)})
    app = admin_app(status, lambda: "", clock=lambda: NOW_S)
    async with served(app) as (session, url), session.get(f"{url}/api/v1/table") as answer:
        first, second, third = await answer.json()

    assert first == {
        "service": "web", "task_arn": "a", "container": "app", "container_port": 80,
        "address": "10.0.0.1:32768", "state": "ready", "reason": "", "zone": "", "instance": "",
        "release": "", "revision": 5, "source": "ecs:prod",
        "told": [
            {"by": "events", "what": "RUNNING, version 3", "at": "2026-01-02T03:04:05.500Z"},
            {"by": "api", "what": "PENDING", "at": "1970-01-01T00:00:00.000Z"},
        ],
    }  # fmt: skip
    assert second["told"] == []
    assert (third["source"], third["told"]) == ("ecs:former", []), "a source that is asked no more"
    assert (second["state"], second["reason"]) == ("draining", "task is stopping")
    assert (third["state"], third["reason"]) == ("down", "health check: HTTP 503")


@pytest.mark.asyncio
async def test_the_overview() -> None:
    status = a_status()
    status.whoami = Whoami.told(Identity(cluster="prod", task_arn="t", ec2_id="i-1", zone="eu-west-1b"))
    app = admin_app(status, lambda: "", clock=lambda: NOW_S)
    async with served(app) as (session, url), session.get(f"{url}/api/v1/status") as answer:
        found = await answer.json()

    assert (found["version"], found["revision"], found["ready"]) == ("1.2.3", 5, True)
    assert found["sources"][0]["source"] == "ecs:prod"
    assert len(found["workers"]) == 2
    assert found["self"] == {
        "cluster": "prod", "service": "", "task": "t", "instance": "i-1", "address": "", "zone": "eu-west-1b",
    }  # fmt: skip


@pytest.mark.asyncio
async def test_the_admin_server_refuses_names_and_missing_tokens() -> None:
    token = "s3cret"
    app = admin_app(a_status(), lambda: token, clock=lambda: NOW_S)
    bearer = {"Authorization": f"Bearer {token}"}
    async with served(app) as (session, url):
        for headers, expected in (
            ({}, 401),
            (bearer, 200),
            ({**bearer, "Host": "evil.test"}, 421),
            ({"Authorization": "Bearer wrong"}, 401),
        ):
            async with session.get(f"{url}/api/v1/table", headers=headers) as answer:
                assert answer.status == expected, headers
                assert "s3cret" not in await answer.text()


@pytest.mark.asyncio
async def test_other_methods_and_pages_are_refused_in_words() -> None:
    async with served(public(a_status())) as (session, url):
        async with session.post(f"{url}/metrics") as answer:
            assert answer.status == 405
            assert answer.headers["Allow"] == "GET,HEAD"
        async with session.get(f"{url}/nothing") as answer:
            assert answer.status == 404
            assert (await answer.json())["pages"] == ["/drained", "/healthz", "/metrics", "/readyz"]


TASK = "arn:aws:ecs:eu-west-1:123456789012:task/prod/0123456789abcdef0123456789abcdef"


@pytest.mark.asyncio
async def test_whether_a_task_is_drained() -> None:
    async with served(public(a_status())) as (session, url):
        async with session.get(f"{url}/drained", params={"task": TASK}) as answer:
            assert answer.status == 200
            assert await answer.json() == {
                "task": TASK, "known": False, "drained": False, "proxies": 1, "acknowledged": 0,
                "reason": "this proxy has not heard of it",
            }  # fmt: skip
        for question in ("", "?task=", "?task=web", f"?task={TASK}%0A"):
            async with session.get(f"{url}/drained{question}") as answer:
                assert answer.status == 400
                assert "which task?" in await answer.text()


@pytest.mark.asyncio
async def test_nobody_may_ask_without_end_whether_a_task_is_drained() -> None:
    status = a_status()
    drains = Drains(status, clock=lambda: NOW_S)
    while drains.admit():
        pass
    app = public_app(status, registry(status), drains, clock=lambda: NOW_S)
    async with served(app) as (session, url), session.get(f"{url}/drained", params={"task": TASK}) as answer:
        assert answer.status == 429


@pytest.mark.asyncio
async def test_our_own_failure_shows_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: web.Request) -> web.Response:
        raise RuntimeError("secret detail")

    app = web.Application(middlewares=[plain_errors])
    app.router.add_get("/fail", fail)
    async with served(app) as (session, url), session.get(f"{url}/fail") as answer:
        assert answer.status == 500
        assert "secret detail" not in await answer.text()
    assert "cannot answer /fail" in caplog.text


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "request_bytes",
    [b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"\x16\x03\x01 nonsense\r\n\r\n"],
)
async def test_no_answer_tells_what_runs_here(request_bytes: bytes) -> None:
    async with served(public(a_status())) as (_, url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(request_bytes)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.")
    assert b"\r\nServer: anyport\r\n" in answer
    assert b"aiohttp" not in answer.lower()
    assert b"Traceback" not in answer
