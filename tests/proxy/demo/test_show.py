"""The show from the first report to the last line, with real processes in place of anyport and users."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from proxy.demo.children import child
from proxy.demo.plain import PlainReporter
from proxy.demo.show import Show
from proxy.demo.tally import Score, Tick
from proxy.demo.view import View
from proxy.demo.watch import TableWatch
from proxy.demo.wire import encode_report

FALL = "import sys; sys.exit(7)"
IDLE = "import sys; sys.stdin.read()"
TICK = encode_report(Tick(requests=10)).decode()


class QuietCluster:
    """Every step is done at once and changes nothing."""

    @property
    def base(self) -> Mapping[str, int]:
        return {"web": 2}

    async def scale(self, service: str, count: int) -> None: ...

    async def deploy(self, service: str) -> int:
        return 2

    async def kill(self, service: str) -> str:
        return ""

    async def drain(self, instance: int) -> str:
        return "i-1"

    async def activate(self, instance: int) -> None: ...

    def tasks(self, service: str) -> frozenset[str]:
        return frozenset()

    def settled(self, service: str) -> bool:
        return True

    def is_empty(self, instance: int) -> bool:
        return True


@asynccontextmanager
async def staged(
    tmp_path: Path, *, users: str, anyport: str = IDLE, for_s: float | None = None
) -> AsyncIterator[tuple[Show, asyncio.Event]]:
    """A show whose two processes run these Python programs."""
    ended = asyncio.Event()

    def python(program: str, name: str) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
        command = (sys.executable, "-c", program)
        return child(*command, env=os.environ, log=tmp_path / name, stop_within_s=5, pipes=True)

    view = View(
        url="http://127.0.0.1:1",
        metrics_url="http://127.0.0.1:1",
        admin_url="http://127.0.0.1:1",
        hosts=("web.demo.localhost",),
        score=Score(),
        release_of=lambda arn: "",
        for_s=for_s,
    )
    async with (
        python(anyport, "anyport") as proxy,
        python(users, "users") as crowd,
        TableWatch("http://127.0.0.1:1") as table,
    ):
        yield Show(view, QuietCluster(), table, instances=3, anyport=proxy, users=crowd, ended=ended), ended


async def shown(show: Show) -> list[str]:
    lines: list[str] = []
    async with asyncio.timeout(20):
        await show.run(PlainReporter(show.view, lines.append))
    return lines


@pytest.mark.asyncio
async def test_the_last_report_is_counted_and_the_end_is_good(tmp_path: Path) -> None:
    # The users say something more after they were told to end.
    users = f"import sys; print({TICK!r}, end='', flush=True); sys.stdin.read(); print({TICK!r}, end='')"
    async with staged(tmp_path, users=users, for_s=0.8) as (show, _):
        lines = await shown(show)
    assert show.ended_well, show.trouble
    assert show.summary()[-1].startswith("20 requests, 0 failed, ")
    assert any("SCALE OUT web to 3 tasks" in line for line in lines)


@pytest.mark.asyncio
async def test_a_wish_ends_it_before_its_time(tmp_path: Path) -> None:
    users = f"import sys; print({TICK!r}, end='', flush=True); sys.stdin.read()"
    async with staged(tmp_path, users=users) as (show, ended):
        asyncio.get_running_loop().call_later(0.5, ended.set)
        await shown(show)
    assert show.ended_well


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("users", "anyport", "who"),
    [
        (IDLE, "import sys; sys.exit(7)", "anyport"),
        ("import sys; sys.exit(7)", IDLE, "the process of the users"),
    ],
    ids=["anyport", "users"],
)
async def test_a_process_that_ends_ends_the_show(tmp_path: Path, users: str, anyport: str, who: str) -> None:
    async with staged(tmp_path, users=users, anyport=anyport) as (show, _):
        await shown(show)
    assert not show.ended_well
    assert f"{who} ended in the middle of the demo with exit code 7" in show.summary()


@pytest.mark.asyncio
async def test_no_request_at_all_is_no_success(tmp_path: Path) -> None:
    async with staged(tmp_path, users=IDLE, for_s=0.3) as (show, _):
        await shown(show)
    assert not show.ended_well
    assert "not one request was made" in show.summary()


@pytest.mark.asyncio
async def test_a_failure_is_told_at_once_and_again_at_the_end(tmp_path: Path) -> None:
    failure = (
        "import json, sys, time; now = time.monotonic(); print(json.dumps({'failure': dict("
        "started_s=now - 0.1, ended_s=now, user='web-http-1', service='web', method='GET', path='/', "
        "expected='200 from web', got='status 503', status=503, code='B02 none_ready', "
        "task='arn:x/1234567890')}), flush=True); sys.stdin.read()"
    )
    async with staged(tmp_path, users=failure, for_s=0.8) as (show, _):
        lines = await shown(show)
    told = "GET /: expected 200 from web, got status 503 (X-Anyport-Error B02 none_ready, task 12345678"
    assert any("FAILED" in line and told in line for line in lines)
    assert any(told in line for line in show.summary())
    assert not show.ended_well


@pytest.mark.asyncio
async def test_the_table_watch_keeps_the_last_table_while_nobody_answers() -> None:
    row = {
        "service": "web",
        "task_arn": "arn:x/1a2b3c4dffff",
        "container": "app",
        "container_port": 8080,
        "address": "127.0.1.1:32768",
        "state": "ready",
        "reason": "",
        "zone": "eu-west-1a",
        "instance": "i-1",
        "release": "1",
        "revision": 3,
    }
    lines: list[str] = []
    done = asyncio.Event()
    answers = iter(
        [
            web.json_response([row]),
            web.json_response({}, status=500),
            web.Response(text="restarting", status=200),
        ]
    )

    async def table(request: web.BaseRequest) -> web.StreamResponse:
        return next(answers, None) or web.json_response([row | {"state": "draining"}])

    def tell(line: str) -> None:
        lines.append(line)
        if "draining" in line:
            done.set()

    runner = web.ServerRunner(web.Server(table, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with TableWatch(f"http://127.0.0.1:{runner.addresses[0][1]}") as watch, asyncio.timeout(20):
            async with watch.running(tell):
                await done.wait()
            assert [found.state for found in watch.rows] == ["draining"]
    finally:
        await runner.cleanup()
    assert lines == ["web: + 1a2b3c4d ready on 127.0.1.1:32768", "web: 1a2b3c4d ready -> draining"]


@pytest.mark.asyncio
async def test_users_that_do_not_end_are_a_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.demo.show._USERS_END_WITHIN_S", 0.2)
    deaf = f"import time; print({TICK!r}, end='', flush=True); time.sleep(1000)"
    async with staged(tmp_path, users=deaf, for_s=0.5) as (show, _):
        await shown(show)
    assert not show.ended_well
    assert "the users did not end within 0.2 s" in show.summary()
