"""The pages that proxies of one fleet have for each other, over real sockets: nothing for a stranger."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from discovery.ecs import shapes
from discovery.ecs.fleet.election import Peer
from discovery.ecs.fleet.peer import PeerError, ask, peer_session, plain
from discovery.ecs.fleet.share import Share
from discovery.ecs.fleet.signed import PROOF_HEADER, credentials, new_nonce
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.record import decode
from discovery.model import SourceStatus
from proxy.control.admin.fleet import LEDGER_PATH, FleetPages, ledger_page
from proxy.control.admin.server import plain_errors, serving
from tests.kit import ecs_json as j
from tests.kit.eventually import eventually

KEY = "a key that all of the fleet know"
TARGET = "/fleet/v1/ledger/prod"


class Page:
    """A server with the ledger of cluster "prod", and a way to ask it."""

    def __init__(self) -> None:
        self.key = KEY
        self.ledger = Ledger()
        self.status = SourceStatus()
        self.share = Share(self.ledger, self.status)

    def learn(self, number: int) -> None:
        self.ledger.hear_task(shapes.task(j.task(number)), by="api")
        self.confirm()

    def confirm(self) -> None:
        self.status.asked_s = time.monotonic()
        self.status.refreshes += 1
        self.share.notify()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Page]:
        app = web.Application(middlewares=[plain_errors])
        page = ledger_page(lambda name: self.share if name == "prod" else None, lambda: j.task_arn(99))
        FleetPages(lambda: self.key).add(app, LEDGER_PATH, page)

        sock = socket.create_server(("127.0.0.1", 0))
        self.peer = Peer(task_arn=j.task_arn(99), host="127.0.0.1", port=sock.getsockname()[1])
        self.url = f"http://{self.peer.address}"
        async with serving(app, sock), peer_session() as self.session:
            yield self

    async def ask(self, target: str = TARGET, **more: Any) -> Any:
        return await ask(self.session, more.pop("key", KEY), self.peer, target, **more)

    async def raw(self, target: str = TARGET, **headers: str) -> aiohttp.ClientResponse:
        response = await self.session.get(self.url + target, headers=headers)
        await response.read()
        return response


@pytest.mark.asyncio
async def test_all_is_told_first_and_then_what_has_changed() -> None:
    async with Page().served() as page:
        page.learn(1)
        first = await page.ask()
        facts, said = decode(plain(first.body))
        assert [task.arn for task in facts.tasks] == [j.task_arn(1)]
        assert said["whole"] is True
        assert first.word["task"] == j.task_arn(99)
        assert first.word["complete"] is True
        assert first.word["age_s"] < 5

        page.learn(2)
        second = await page.ask(etag=first.etag)
        facts, said = decode(plain(second.body))
        assert [task.arn for task in facts.tasks] == [j.task_arn(2)]
        assert said["whole"] is False
        assert (await page.ask(etag=second.etag)).status == 304


@pytest.mark.asyncio
async def test_who_waits_is_told_as_soon_as_there_is_something() -> None:
    async with Page().served() as page:
        page.learn(1)
        etag = (await page.ask()).etag
        waiting = asyncio.create_task(page.ask(f"{TARGET}?wait=20", etag=etag, within_s=22))
        await eventually(lambda: len(page.share._news._waiters) > 0)  # type: ignore[attr-defined]
        page.learn(2)
        answer = await asyncio.wait_for(waiting, 5)
        assert answer.status == 200

        waiting = asyncio.create_task(page.ask(f"{TARGET}?wait=20", etag=answer.etag, within_s=22))
        await eventually(lambda: len(page.share._news._waiters) > 0)  # type: ignore[attr-defined]
        page.confirm()
        answer = await asyncio.wait_for(waiting, 5)
        assert (answer.status, answer.body) == (304, b""), "nothing new, but younger"

        late = answer.etag
        page.confirm()
        answer = await asyncio.wait_for(page.ask(f"{TARGET}?wait=20", etag=late, within_s=22), 5)
        assert answer.status == 304, "confirmed before it was asked again"

        began_s = time.monotonic()
        assert (await page.ask(f"{TARGET}?wait=0.2", etag=answer.etag)).status == 304
        assert time.monotonic() - began_s >= 0.19


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "etag",
    [
        "",
        '"x"',
        '"0123456789abcdef-1"',
        '"{epoch}-999999-1"',
        '"{epoch}--1-1"',
        '"{epoch}-1"',
        'W/"{epoch}-1-1"',
        "x" * 3000,
    ],
)
async def test_an_etag_that_is_not_of_this_ledger_gets_all(etag: str) -> None:
    async with Page().served() as page:
        page.learn(1)
        answer = await page.ask(f"{TARGET}?wait=20", etag=etag.replace("{epoch}", page.share.epoch))
        assert answer.status == 200
        assert decode(plain(answer.body))[1]["whole"] is True


@pytest.mark.asyncio
async def test_a_large_ledger_is_compressed_and_told_to_many_at_once() -> None:
    async with Page().served() as page:
        for number in range(2000):
            page.ledger.hear_task(shapes.task(j.task(number)), by="api")
        page.confirm()

        answers = await asyncio.gather(*(page.ask(within_s=20) for _ in range(20)))

        assert len({answer.body for answer in answers}) == 1
        assert len(answers[0].body) < 200_000
        assert len(decode(plain(answers[0].body))[0].tasks) == 2000


@pytest.mark.asyncio
async def test_a_short_question_tells_only_how_fresh_it_is() -> None:
    async with Page().served() as page:
        page.learn(1)
        answer = await page.ask(method="HEAD")
        assert answer.status == 200
        assert answer.body == b""
        assert answer.etag == page.share.etag
        assert answer.word["complete"] is True


@pytest.mark.asyncio
async def test_before_the_first_complete_answer_nothing_is_said_to_be_complete() -> None:
    async with Page().served() as page:
        page.ledger.hear_task(shapes.task(j.task(1)), by="api")
        answer = await page.ask()
        assert answer.word["complete"] is False
        assert len(decode(plain(answer.body))[0].tasks) == 1


@pytest.mark.asyncio
async def test_of_a_cluster_nobody_watches_there_is_nothing() -> None:
    async with Page().served() as page:
        assert (await page.ask("/fleet/v1/ledger/other")).status == 404


@pytest.mark.asyncio
async def test_without_a_key_there_is_no_such_page() -> None:
    async with Page().served() as page:
        page.key = ""
        assert (await page.raw()).status == 404
        with pytest.raises(PeerError, match="no such page"):
            await page.ask()


def signed(
    *, key: str = KEY, target: str = TARGET, method: str = "GET", etag: str = "", late_s: float = 0
) -> str:
    return credentials(key, method, target, etag, now_s=time.time() - late_s, nonce=new_nonce())


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "header",
    [
        dict,
        lambda: {"Authorization": f"Bearer {KEY}"},
        lambda: {"Authorization": signed(key="another key than that of the fleet")},
        lambda: {"Authorization": signed(target=TARGET + "?wait=1")},
        lambda: {"Authorization": signed(etag='"x"')},
        lambda: {"Authorization": signed(method="HEAD")},
        lambda: {"Authorization": signed(late_s=120)},
        lambda: {"Authorization": signed(late_s=-120)},
        lambda: {"Authorization": signed()[:-2]},
        lambda: {"Authorization": "Anyport-Fleet " + "9" * 4000},
    ],
)
async def test_a_stranger_learns_nothing(header: Callable[[], dict[str, str]]) -> None:
    async with Page().served() as page:
        page.learn(1)
        response = await page.raw(**header())
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Anyport-Fleet"
        assert PROOF_HEADER not in response.headers
        assert j.task_arn(1) not in await response.text()


@pytest.mark.asyncio
async def test_a_request_is_answered_once() -> None:
    async with Page().served() as page:
        page.learn(1)
        header = signed()
        assert (await page.raw(Authorization=header)).status == 200
        assert (await page.raw(Authorization=header)).status == 401


@pytest.mark.asyncio
async def test_so_many_may_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.control.admin.fleet._WAITING", 2)
    async with Page().served() as page:
        page.learn(1)
        etag = (await page.ask()).etag
        waiting = [
            asyncio.create_task(page.ask(f"{TARGET}?wait=20", etag=etag, within_s=22)) for _ in range(2)
        ]
        await eventually(lambda: len(page.share._news._waiters) == 2)  # type: ignore[attr-defined]
        assert (await page.ask(f"{TARGET}?wait=20", etag=etag)).status == 503
        page.learn(2)
        assert [answer.status for answer in await asyncio.gather(*waiting)] == [200, 200]
        assert (await page.ask(etag=etag)).status == 200


@pytest.mark.asyncio
@pytest.mark.parametrize("wait", ["-1", "1e9", "nan", "x", "9999", "٣", ""])
async def test_a_senseless_wait_is_none(wait: str) -> None:
    async with Page().served() as page:
        page.learn(1)
        etag = (await page.ask()).etag
        answer = await page.ask(f"{TARGET}?wait={wait.encode().hex() if wait == '٣' else wait}", etag=etag)
        assert answer.status == 304
