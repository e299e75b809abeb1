"""Many clients and backends in one event loop, fast enough for 100,000 requests in a test.

A request carries a canary in its target, `/<canary>/<what the first attempt meets>,<the second>,...`, in
X-Request-Id and in every byte of its body; so does each answer of a backend. Whoever gets a canary that is
not his own says so.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, cast

from tests.kit.eventually import eventually

_HEAD_END: Final = b"\r\n\r\n"
_REQUEST: Final = re.compile(rb"([A-Z]+) /(c[0-9]{7})/([a-z0-9,]+) HTTP/1\.1\r\n")
_LENGTH: Final = re.compile(rb"\r\nContent-Length: ([0-9]+)\r\n")
_CHUNKED: Final = b"\r\nTransfer-Encoding: chunked\r\n"
_CANARY: Final = re.compile(rb"\r\nX-Canary: (c[0-9]{7})\r\n")
_REQUEST_ID: Final = re.compile(rb"\r\nX-Request-Id: (c[0-9]{7})\r\n")
_ERROR: Final = re.compile(
    rb"\r\nX-Anyport-Error: ([A-Z0-9]+) ([a-z_]+); delivered=(yes|no); attempts=([0-9]+)\r\n"
)
FOREIGN: Final = b"HTTP/1.1 200 OK\r\nX-Canary: c9999999\r\nContent-Length: 8\r\n\r\nc9999999"


class WireError(Exception):
    """What has come is not what anyport or an honest client would send."""


def _body(data: bytes, start: int, head: bytes) -> tuple[bytes, int] | None:
    """Return (body, its end in *data*), or None if it is not whole; None of a length means no body."""
    if _CHUNKED in head:
        parts = []
        at = start
        while True:
            end = data.find(b"\r\n", at)
            if end < 0:
                return None
            size = int(data[at:end], 16)
            at = end + 2 + size
            if len(data) < at + 2:
                return None
            if data[at : at + 2] != b"\r\n":
                raise WireError("chunk framing")
            parts.append(data[end + 2 : at])
            at += 2
            if not size:
                return b"".join(parts), at
    found = _LENGTH.search(head)
    length = int(found[1]) if found else 0
    return (data[start : start + length], start + length) if len(data) >= start + length else None


@dataclass(slots=True)
class Record:
    """What all backends have seen and done, and everything that should never happen."""

    seen: Counter[bytes] = field(default_factory=Counter)  # canaries, at the first byte of their request
    wrong: list[str] = field(default_factory=list)
    open: set[asyncio.Transport] = field(default_factory=set)

    async def close(self) -> None:
        """Close the connections that are still open."""
        for transport in self.open:
            transport.abort()
        await eventually(lambda: not self.open)


class SwarmBackend(asyncio.Protocol):
    """A backend that does what the target of each request says (`_act`)."""

    def __init__(self, record: Record, *, delay_s: Callable[[], float] = lambda: 0.0) -> None:
        self._record = record
        self._delay_s = delay_s
        self._buffer = b""
        self._noted = False  # the request whose beginning is in the buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._record.open.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._record.open.discard(self._transport)
        if self._buffer and not self._noted:
            self._record.wrong.append(f"bytes without a canary: {self._buffer[:60]!r}")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._noted:
            match = _REQUEST.match(self._buffer)
            if match is None:
                return
            self._noted = True
            self._method, self._canary, script = match.groups()
            attempts = script.split(b",")
            attempt = self._record.seen[self._canary]
            self._record.seen[self._canary] = attempt + 1
            self._act_now = attempts[min(attempt, len(attempts) - 1)].decode()
            if self._act_now == "rst0":  # at the first byte
                self._transport.abort()
                return
        end = self._buffer.find(_HEAD_END)
        if end < 0:
            return
        head = self._buffer[: end + 4]
        whole = _body(self._buffer, end + 4, head)
        if whole is None:
            return
        body, at = whole
        if body != self._canary * (len(body) // 8) or _REQUEST_ID.search(head)[1] != self._canary:  # type: ignore[index]
            self._record.wrong.append(f"{self._canary!r} came with {body[:40]!r}")
        self._buffer = self._buffer[at:]
        self._noted = False
        if self._buffer:
            self._record.wrong.append(f"bytes behind a request: {self._buffer[:60]!r}")
        delay_s = self._delay_s()
        if delay_s:
            asyncio.get_running_loop().call_later(
                delay_s, self._act, self._canary, self._method, self._act_now
            )
        else:
            self._act(self._canary, self._method, self._act_now)

    def _write_rest(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _act(self, canary: bytes, method: bytes, act: str) -> None:
        """Answer as *act* says, or do not."""
        transport = self._transport
        if transport.is_closing():
            return
        write = transport.write
        body = b"" if method == b"HEAD" else canary * (1 + canary[-1] % 16 * (40 if act == "big" else 1))
        status = {"s500": b"500 Oh", "s304": b"304 Same", "s204": b"204 None"}.get(act, b"200 OK")
        head = b"HTTP/1.1 " + status + b"\r\nX-Canary: " + canary + b"\r\n"
        length = b"Content-Length: %d\r\n\r\n" % (len(body) or 8)
        if act in ("ok", "big", "s500"):
            write(head + length + body)
        elif act == "chunked":
            middle = len(body) // 2
            write(head + b"Transfer-Encoding: chunked\r\n\r\n")
            if body:
                write(b"%x\r\n%b\r\n" % (middle, body[:middle]))
                last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body) - middle, body[middle:])
                asyncio.get_running_loop().call_soon(self._write_rest, last)
        elif act in ("s304", "s204"):
            write(head + b"\r\n")
        elif act == "close":  # the body ends with the connection
            write(head + b"\r\n" + body)
            transport.close()
        elif act == "interim":
            write(b"HTTP/1.1 103 Hints\r\nX-Canary: " + canary + b"\r\n\r\n")
            write(head + length + body)
        elif act == "extra":  # somebody else's answer behind this one
            write(head + length + body + FOREIGN)
        elif act == "stale":  # fine now, gone at the next request
            write(head + length + body)
            transport.close()
        elif act == "cut":
            write(head + length + body[:5])
            transport.close()
        elif act == "half":
            write(head[:20])
            transport.close()
        elif act == "garbage":
            write(b"\0garbage\r\n\r\n")
        elif act == "fin":
            transport.close()
        elif act == "rst":
            transport.abort()
        else:
            self._record.wrong.append(f"no such act: {act}")


class Slammer(asyncio.Protocol):
    """Accepts, and resets at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


@dataclass(slots=True)
class Plan:
    """One request, and what became of it."""

    canary: bytes
    method: bytes
    script: bytes
    host: bytes = b"web.test"
    framing: str = ""  # of the body: "length", "chunked", or "" for none
    old: bool = False  # HTTP/1.0: ends the connection
    close: bool = False  # Connection: close
    abort: bool = False  # the client resets instead of waiting for the answer

    status: int = 0  # 0: no answer
    error: tuple[str, str, bool] | None = None  # (code, word, delivered) of anyport's own answers
    whole: bool = False
    wrong: str = ""

    @property
    def last(self) -> bool:
        """Whether the connection may end with it."""
        return self.old or self.close or self.abort

    def request(self) -> bytes:
        body = self.canary * (1 + self.canary[-2] % 8) if self.framing else b""
        head = b"%b /%b/%b HTTP/1.%d\r\nHost: %b\r\nX-Request-Id: %b\r\n" % (
            self.method, self.canary, self.script, not self.old, self.host, self.canary,
        )  # fmt: skip
        if self.close:
            head += b"Connection: close\r\n"
        if self.framing == "length":
            return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        if self.framing == "chunked":
            middle = len(body) // 2
            return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n%x;x=y\r\n%b\r\n0\r\n\r\n" % (
                middle, body[:middle], len(body) - middle, body[middle:],
            )  # fmt: skip
        return head + b"\r\n"


class SwarmClient(asyncio.Protocol):
    """One connection after the other: sends a batch of plans, checks each answer, takes the next batch."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._waiting: deque[Plan] = deque()
        self._buffer = b""
        self._closing = False  # the last answer has announced the end of the connection
        self._leaving = False  # without waiting for answers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def _next(self) -> None:
        batch = self._swarm.batch()
        if not batch:
            self._transport.close()
            return
        self._waiting.extend(batch)
        data = b"".join(plan.request() for plan in batch)
        cut = self._swarm.cut(len(data))
        self._transport.write(data[:cut])
        self._leaving = batch[-1].abort
        asyncio.get_running_loop().call_soon(self._rest, data[cut:])

    def _rest(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)
        if self._leaving:
            asyncio.get_running_loop().call_later(self._swarm.patience_s(), self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            while self._waiting and self._answer(eof=False):
                pass
        except WireError as exc:
            self._waiting[0].wrong = str(exc)
            self._transport.abort()
            return
        if self._buffer and not self._waiting:
            self._swarm.wrong.append(f"bytes nobody asked for: {self._buffer[:80]!r}")
            self._transport.abort()
        elif not self._waiting and not self._closing and not self._leaving:
            self._next()

    def _answer(self, *, eof: bool) -> bool:
        """Take one whole answer off the buffer, if it is there."""
        buffer, plan = self._buffer, self._waiting[0]
        end = buffer.find(_HEAD_END)
        if end < 0:
            return False
        head = buffer[: end + 4]
        status = int(head[9:12])
        found = _CANARY.search(head)
        error = _ERROR.search(head)
        mine = found or (_REQUEST_ID.search(head) if error else None)
        if mine is None or mine[1] != plan.canary:
            raise WireError(f"{plan.canary!r} got the head {head!r}")
        if status < 200:
            self._buffer = buffer[end + 4 :]
            return True
        plan.status = status
        bodiless = plan.method == b"HEAD" or status in (204, 304)
        framed = bodiless or _CHUNKED in head or _LENGTH.search(head) is not None
        if bodiless:
            body, at = b"", end + 4
        elif framed:
            whole = _body(buffer, end + 4, head)
            if whole is None:
                self._check(plan, buffer[end + 4 :], partial=True, chunked=_CHUNKED in head)
                return False
            body, at = whole
        elif eof:
            body, at = buffer[end + 4 :], len(buffer)
        else:
            return False
        if error is not None:
            plan.error = (error[1].decode(), error[2].decode(), error[3] == b"yes")
            if self._swarm.leak.search(head + body):
                raise WireError(f"an address leaves: {head + body!r}")
        elif not bodiless:
            self._check(plan, body, partial=False, chunked=False)
        plan.whole = True
        self._closing = b"\r\nConnection: close\r\n" in head
        self._waiting.popleft()
        self._swarm.done(plan)
        self._buffer = buffer[at:]
        return True

    def _check(self, plan: Plan, body: bytes, *, partial: bool, chunked: bool) -> None:
        if partial:
            if (
                not chunked
                and plan.status == 200
                and body != (plan.canary * (len(body) // 8 + 1))[: len(body)]
            ):
                raise WireError(f"{plan.canary!r} got {body[:60]!r}")
        elif body != plan.canary * (len(body) // 8) or not body:
            raise WireError(f"{plan.canary!r} got {body[:60]!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            if self._waiting and exc is None and not self._waiting[0].abort:
                self._answer(eof=True)
        except WireError as wrong:
            self._waiting[0].wrong = str(wrong)
        for plan in self._waiting:
            self._swarm.done(plan)
        self._waiting.clear()
        self._swarm.ended()


class Swarm:
    """Runs plans on a number of connections at once until there are no more of them."""

    def __init__(
        self,
        port: int,
        plans: Iterator[list[Plan]],
        done: Callable[[Plan], None],
        *,
        cut: Callable[[int], int],
        patience_s: Callable[[], float],
    ) -> None:
        self._port = port
        self._plans = plans
        self.done = done
        self.cut = cut  # how many bytes of a batch are sent first
        self.patience_s = patience_s  # of a client that goes away
        self.wrong: list[str] = []
        self.leak = re.compile(rb"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+|arn:")
        self._ended = asyncio.Event()
        self._open = 0
        self._exhausted = False

    def batch(self) -> list[Plan]:
        """Return what one connection sends at once; the plans of a batch are pipelined."""
        batch = next(self._plans, [])
        self._exhausted = self._exhausted or not batch
        return batch

    def ended(self) -> None:
        self._open -= 1
        self._ended.set()

    async def run(self, connections: int) -> None:
        loop = asyncio.get_running_loop()
        while not self._exhausted or self._open:
            while not self._exhausted and self._open < connections:
                self._open += 1
                await loop.create_connection(lambda: SwarmClient(self), "127.0.0.1", self._port)
            self._ended.clear()
            await self._ended.wait()
