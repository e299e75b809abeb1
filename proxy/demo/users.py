"""The users: each asks, checks every byte of the answer, thinks, and asks again."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp

from proxy.demo.tally import Failure, Histogram, Tick
from proxy.demo.wire import Target

REQUEST_TIMEOUT_S: Final = 15.0
RECONNECT_WITHIN_S: Final = 5.0  # a WebSocket that is lost must be open again by then
_RECONNECT_PAUSE_S: Final = 0.1
_MESSAGE_PAUSE_S: Final = 0.5
_STREAM_PARTS: Final = 8
_STREAM_PAUSE_S: Final = 0.025  # between two parts


@dataclass(frozen=True, slots=True)
class Ask:
    """One request and what its answer must be."""

    method: str
    path: str
    body: bytes = b""
    parts: int = 0  # in how many parts the body is sent, with pauses between; 0: at once


class Log:
    """What the users of one process have to report; `take` empties it."""

    def __init__(self, on_failure: Callable[[Failure], None]) -> None:
        self.on_failure = on_failure
        self.requests = self.messages = self.reconnects = self.sockets = 0
        self.latency = Histogram()

    def take(self) -> Tick:
        tick = Tick(
            requests=self.requests,
            sockets=self.sockets,
            messages=self.messages,
            reconnects=self.reconnects,
            latency=self.latency.buckets,
        )
        self.requests = self.messages = self.reconnects = 0
        self.latency = Histogram()
        return tick


def choose(target: Target, rng: random.Random) -> Ask:
    """Return what a user asks next."""
    dice = rng.random()
    if not target.built_in or dice < 0.75:
        return Ask("GET", "/")
    if dice < 0.97:
        body = rng.randbytes(rng.randrange(1, 4096))
        return Ask("POST", "/echo", body)
    return Ask("POST", "/echo", rng.randbytes(512 * _STREAM_PARTS), _STREAM_PARTS)


async def _slowly(ask: Ask, sleep: Callable[[float], Awaitable[None]]) -> AsyncIterator[bytes]:
    size = len(ask.body) // ask.parts
    for start in range(0, len(ask.body), size):
        yield ask.body[start : start + size]
        await sleep(_STREAM_PAUSE_S)


def session() -> aiohttp.ClientSession:
    """Return the browser of one user: one kept connection, no second try behind our back."""
    browser = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
    )
    # aiohttp quietly repeats a GET on a stale connection, which would hide just what we look for.
    browser._retry_connection = False
    return browser


class HttpUser:
    """Sends one request after another on one kept connection."""

    def __init__(
        self,
        name: str,
        target: Target,
        url: str,
        log: Log,
        *,
        think_s: float,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._name, self._target, self._url, self._log = name, target, url, log
        self._think_s, self._rng, self._clock, self._sleep = think_s, rng, clock, sleep

    async def run(self, ended: asyncio.Event) -> None:
        """Ask until *ended*; the request in flight then is still finished."""
        # Users do not start in step.
        await self._sleep(self._rng.random() * self._think_s)
        async with session() as browser:
            while not ended.is_set():
                await self.ask(browser, choose(self._target, self._rng))
                await self._sleep(self._rng.expovariate(1 / self._think_s))

    async def ask(self, browser: aiohttp.ClientSession, ask: Ask) -> None:
        """Send one request and count what came of it."""
        started_s = self._clock()
        status, code, task, wrong, cut = 0, "", "", "", False
        try:
            async with browser.request(
                ask.method,
                self._url + ask.path,
                headers={"Host": self._target.host},
                data=_slowly(ask, self._sleep) if ask.parts else ask.body or None,
                allow_redirects=False,
            ) as response:
                status = response.status
                code = response.headers.get("X-Anyport-Error", "")
                task = response.headers.get("X-Task", "")
                body = await response.read()
                wrong = _fault(self._target, ask, response, body)
        except TimeoutError:
            wrong = f"no complete answer within {REQUEST_TIMEOUT_S:g} s"
        except aiohttp.ClientError as exc:
            wrong, cut = _describe(exc, status), True
        ended_s = self._clock()
        self._log.requests += 1
        if not ask.parts:  # else the time is mostly the user's own
            self._log.latency.add(ended_s - started_s)
        if wrong:
            failure = Failure(
                started_s=started_s,
                ended_s=ended_s,
                user=self._name,
                service=self._target.service,
                method=ask.method,
                path=ask.path,
                expected=_expectation(self._target, ask),
                got=wrong,
                status=status,
                code=code,
                task=task,
                cut=cut,
            )
            self._log.on_failure(failure)


def _describe(exc: aiohttp.ClientError, status: int) -> str:
    where = "the answer was cut short" if status else "no answer"
    return f"{where}: {type(exc).__name__}: {exc}"


def _expectation(target: Target, ask: Ask) -> str:
    if not target.built_in:
        return "a status below 500"
    echo = f" with the same {len(ask.body)} bytes" if ask.body else ""
    return f"200 from {target.service}{echo}"


def _fault(target: Target, ask: Ask, response: aiohttp.ClientResponse, body: bytes) -> str:
    """Return what is wrong with an answer that arrived complete, or ""."""
    if not target.built_in:
        return f"status {response.status}" if response.status >= 500 else ""
    if response.status != 200:
        return f"status {response.status}"
    if (service := response.headers.get("X-Service", "")) != target.service:
        return f"an answer of service {service!r}"
    if ask.body and body != ask.body:
        return f"{len(body)} bytes that are not the same"
    return ""


class SocketUser:
    """Keeps one WebSocket open, checks every echo, and reconnects when it is closed."""

    def __init__(
        self,
        name: str,
        target: Target,
        url: str,
        log: Log,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._name, self._target, self._url, self._log = name, target, url, log
        self._rng, self._clock, self._sleep = rng, clock, sleep
        self._opened_before = False

    async def run(self, ended: asyncio.Event) -> None:
        """Chat until *ended*, over as many WebSockets as it takes."""
        await self._sleep(self._rng.random() * _MESSAGE_PAUSE_S)
        async with session() as browser:
            lost_s = self._clock()
            reported = False
            while not ended.is_set():
                trouble = await self.chat(browser, ended)
                now_s = self._clock()
                if trouble is None:  # it was open: the outage begins now
                    lost_s, reported = now_s, False
                elif now_s - lost_s > RECONNECT_WITHIN_S and not reported:
                    reported = True  # once per outage
                    self._report(lost_s, f"an open WebSocket within {RECONNECT_WITHIN_S:g} s", trouble)
                if not ended.is_set():
                    await self._sleep(_RECONNECT_PAUSE_S)

    async def chat(self, browser: aiohttp.ClientSession, ended: asyncio.Event) -> str | None:
        """Use one WebSocket until it closes; return None if it was open, else why it did not open."""
        try:
            socket = await browser.ws_connect(
                self._url + "/ws",
                headers={"Host": self._target.host},
                timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
            )
        except (aiohttp.ClientError, TimeoutError) as exc:
            return f"{type(exc).__name__}: {exc}"
        self._log.sockets += 1
        self._log.reconnects += self._opened_before
        self._opened_before = True
        started_s = self._clock()
        try:
            if wrong := await self._talk(socket, ended):
                self._report(started_s, "each message back as it was", wrong)
        finally:
            self._log.sockets -= 1
            await socket.close()
        return None

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse, ended: asyncio.Event) -> str:
        """Return what was wrong, or "" if the WebSocket closed or *ended* came."""
        try:
            hello = await asyncio.wait_for(_receive(socket), RECONNECT_WITHIN_S)
        except TimeoutError:
            return f"no greeting within {RECONNECT_WITHIN_S:g} s"
        if hello is None:
            return ""
        if (service := _service_of(hello)) != self._target.service:
            return f"a greeting of service {service!r}"
        for number in itertools.count(1):
            if ended.is_set():
                return ""
            text = f"{self._name} {number} " + "x" * self._rng.randrange(200)
            try:
                await socket.send_str(text)
            except (ConnectionError, aiohttp.ClientError):
                return ""
            try:
                echo = await asyncio.wait_for(_receive(socket), RECONNECT_WITHIN_S)
            except TimeoutError:
                return f"no echo within {RECONNECT_WITHIN_S:g} s"
            if echo is None:
                return ""
            if echo != text:
                return f"another text of {len(echo)} characters"
            self._log.messages += 1
            await self._sleep(_MESSAGE_PAUSE_S * self._rng.uniform(0.5, 1.5))
        return ""

    def _report(self, started_s: float, expected: str, got: str) -> None:
        failure = Failure(
            started_s=started_s,
            ended_s=self._clock(),
            user=self._name,
            service=self._target.service,
            method="WS",
            path="/ws",
            expected=expected,
            got=got,
        )
        self._log.on_failure(failure)


async def _receive(socket: aiohttp.ClientWebSocketResponse) -> str | None:
    """Return the next text, or None if the WebSocket has ended."""
    message = await socket.receive()
    return message.data if message.type is aiohttp.WSMsgType.TEXT else None


def _service_of(greeting: str) -> str:
    try:
        return str(json.loads(greeting)["service"])
    except (ValueError, KeyError, TypeError):
        return f"unreadable: {greeting[:80]}"
