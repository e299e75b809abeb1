"""One signed question to another proxy of the fleet, and its answer, checked."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson
from yarl import URL

from discovery.answers import TooLargeError, body_of
from discovery.ecs.fleet.election import Peer
from discovery.ecs.fleet.signed import (
    PROOF_HEADER,
    WORD_HEADER,
    Refused,
    check_answer,
    credentials,
    new_nonce,
)

_CONNECT_S: Final = 1.0
_BODY_S: Final = 10.0  # for the body, after the head
_MOST_BYTES: Final = 64 << 20  # as it is sent
_MOST_PLAIN_BYTES: Final = 512 << 20  # as it is meant


class PeerError(Exception):
    """No answer, or none that can be believed. The text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a peer has proved to have said."""

    status: int
    etag: str
    word: Mapping[str, Any]  # what it said beside the body: any JSON object
    body: bytes


@asynccontextmanager
async def peer_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Provide what `ask` asks through; connections are kept open."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, use_dns_cache=False),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
    ) as session:
        yield session


async def ask(
    session: aiohttp.ClientSession,
    key: str,
    peer: Peer,
    target: str,
    *,
    method: str = "GET",
    etag: str = "",
    within_s: float = 1.0,
    wall_clock: Callable[[], float] = time.time,
) -> Answer:
    """Return what *peer* answers to *target*, path and query, within so many seconds. Raises `PeerError`."""
    url = URL(f"http://{peer.address}{target}", encoded=True)
    nonce = new_nonce()
    signed = credentials(key, method, target, etag, now_s=wall_clock(), nonce=nonce)
    headers = {"Authorization": signed, "Accept-Encoding": "deflate"}
    if etag:
        headers["If-None-Match"] = etag
    try:
        async with asyncio.timeout(within_s) as patience:
            async with session.request(method, url, headers=headers, allow_redirects=False) as response:
                patience.reschedule(asyncio.get_running_loop().time() + _BODY_S)
                body = await body_of(response, _MOST_BYTES)
        return _checked(key, nonce, response, body)
    except TimeoutError:
        raise PeerError(f"no answer within {within_s:g} s") from None
    except TooLargeError as exc:
        raise PeerError(f"its answer is too large: {exc}") from None
    except aiohttp.ClientConnectorError as exc:
        raise PeerError(f"no connection: {exc.os_error.strerror or type(exc.os_error).__name__}") from None
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise PeerError(f"{type(exc).__name__}: {str(exc)[:200]}") from None


def _checked(key: str, nonce: str, response: aiohttp.ClientResponse, body: bytes) -> Answer:
    etag, word = response.headers.get("ETag", ""), response.headers.get(WORD_HEADER, "")
    try:
        check_answer(key, nonce, response.status, etag, word, body, response.headers.get(PROOF_HEADER, ""))
    except Refused as exc:
        raise PeerError(_refusal(response.status, str(exc))) from None
    said = orjson.loads(word or "{}")
    if not isinstance(said, Mapping):
        raise PeerError("its word is no JSON object")
    return Answer(status=response.status, etag=etag, word=said, body=body)


def _refusal(status: int, why: str) -> str:
    if status == 401:
        return "it refuses us: has it another [fleet] key, or are our clocks more than a minute apart?"
    if status == 404:
        return "it has no such page: has it a [fleet] key, and does it know this cluster?"
    return f"it answers {status}, and {why}"


def plain(body: bytes) -> bytes:
    """Return what a body means, compressed or not. Raises ValueError if it is no such thing, or too much."""
    if body[:1] in (b"{", b""):
        return body
    unpacking = zlib.decompressobj()
    try:
        meant = unpacking.decompress(body, _MOST_PLAIN_BYTES)
    except zlib.error as exc:
        raise ValueError(f"not compressed as it should be: {exc}") from None
    if unpacking.unconsumed_tail or not unpacking.eof:
        raise ValueError("cut off, or too large")
    return meant
