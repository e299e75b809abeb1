"""What the proxies of a fleet ask each other, on the metrics listener. Strangers learn nothing there."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from aiohttp import web

from discovery.ecs.fleet.follow import NEWS, PATH
from discovery.ecs.fleet.share import Share
from discovery.ecs.fleet.signed import PROOF_HEADER, SCHEME, WORD_HEADER, Gate, Refused, proof
from discovery.ecs.record import read_notice
from proxy.control.admin.server import answer
from proxy.control.drained import is_task_arn

_WAITING: Final = 2000  # long polls at a time
_SECONDS: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An answer to a peer, before it is signed."""

    status: int = 200
    word: Mapping[str, Any] = field(default_factory=dict)
    etag: str = ""
    body: bytes = b""


class FleetPages:
    """Signed pages. `key()` is the fleet's key, "" while there is none: then there are no such pages."""

    def __init__(self, key: Callable[[], str], *, gate: Gate | None = None) -> None:
        self._key = key
        self._gate = gate or Gate()

    def add(self, app: web.Application, path: str, page: Callable[[web.Request], Awaitable[Said]]) -> None:
        """Serve *page* at *path*, to whoever knows the key, and signed."""

        async def serve(request: web.Request) -> web.Response:
            key = self._key()
            if not key:
                raise web.HTTPNotFound
            etag = request.headers.get("If-None-Match", "")
            shown = request.headers.get("Authorization", "")
            try:
                nonce = self._gate.admit(key, shown, request.method, request.raw_path, etag)
            except Refused:
                refused = answer({"error": "not signed by a proxy of this fleet"}, status=401)
                refused.headers["WWW-Authenticate"] = SCHEME
                return refused
            return _signed(key, nonce, await page(request), head=request.method == "HEAD")

        app.router.add_get(path, serve)


def _signed(key: str, nonce: str, said: Said, *, head: bool) -> web.Response:
    word = orjson.dumps(said.word).decode()
    body = b"" if head else said.body
    headers = {
        WORD_HEADER: word,
        PROOF_HEADER: proof(key, nonce, said.status, said.etag, word, body),
        "Cache-Control": "no-store",
        "Content-Type": "application/octet-stream",
    }
    if said.etag:
        headers["ETag"] = said.etag
    return web.Response(status=said.status, headers=headers, body=body)


def ledger_page(
    share: Callable[[str], Share | None], own_arn: Callable[[], str]
) -> Callable[[web.Request], Awaitable[Said]]:
    """Return the page of what we know of a cluster: at `PATH` and its name, `?wait=<seconds>` for news.

    HEAD tells only how fresh that is, and takes what a follower has to tell: `?doubt=<task>`, `?seen=<task>`
    and `?notice=<EC2 id> <text>`.
    """
    waiting = 0

    async def page(request: web.Request) -> Said:
        nonlocal waiting
        found = share(request.match_info["cluster"])
        if found is None:
            return Said(status=404)

        def word() -> dict[str, Any]:
            return {"task": own_arn(), **found.word()}

        if request.method == "HEAD":
            _take_news(found, request)
            return Said(word=word(), etag=found.etag)
        if waiting >= _WAITING:
            return Said(status=503)
        waiting += 1
        try:
            etag, body = await found.after(request.headers.get("If-None-Match", ""), _wait_s(request))
        finally:
            waiting -= 1
        if body is None:
            return Said(status=304, word=word(), etag=etag)
        return Said(word=word(), etag=etag, body=body)

    return page


def _take_news(share: Share, request: web.Request) -> None:
    for arn in request.query.getall("doubt", [])[:NEWS]:
        if is_task_arn(arn):
            share.hurry(arn)
    if seen := [arn for arn in request.query.getall("seen", [])[:NEWS] if is_task_arn(arn)]:
        share.seen(seen)
    for said in request.query.getall("notice", [])[:NEWS]:
        if (notice := read_notice(said)) is not None:
            share.notice(notice.ec2_id, notice.notice)


def _wait_s(request: web.Request) -> float:
    asked = request.query.get("wait", "0")
    return float(asked) if _SECONDS.fullmatch(asked) else 0.0


LEDGER_PATH: Final = PATH + "{cluster}"
