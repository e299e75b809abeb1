"""Clients of a soak: each function is one visit of one kind of client, from connecting to leaving."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final

from tests.soak.backend import BIG_BYTES, SMALL

VISIT_S: Final = 60.0  # none takes so long, on however busy a machine
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_CHUNKED: Final = b"\r\ntransfer-encoding: chunked\r\n"
_RESET: Final = struct.pack("ii", 1, 0)
_GONE: Final = (OSError, EOFError)  # what a connection that ends too early looks like
_WRONG_MAX: Final = 20
_ANSWERS: Final = {
    "fast": len(SMALL),
    "chunked": len(SMALL),
    "close": len(SMALL),
    "slow": len(SMALL),
    "big": BIG_BYTES,
}
_PLAIN: Final = ("fast",) * 12 + ("chunked",) * 4 + ("slow",) * 2 + ("close", "big")
_MALFORMED: Final = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: steady.test\r\nHost: steady.test\r\n\r\n",
    b"GET /\r\nHost: steady.test\r\n\r\n",
    b"GET / HTTP/1.1\nHost: steady.test\n\n",
    b"GET / HTTP/1.1\r\nHost : steady.test\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: steady.test\r\nContent-Length: +1\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: steady.test\r\nTransfer-Encoding: chunked\r\n\r\nZ\r\n",
    b"GET / HTTP/1.1\r\nHost: steady.test\r\nX: " + b"x" * 60_000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this was to be TLS \r\n\r\n",
)
_UPGRADE: Final = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)  # fmt: skip


class Wrong(Exception):
    """The proxy has done what it never may."""


@dataclass
class World:
    """What all clients share."""

    port: int
    random: Random
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    age: int = 0  # moved on when connections are lost on purpose, and nobody is to be blamed
    visits: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    wrong: list[str] = field(default_factory=list)

    def blame(self, what: str) -> None:
        if len(self.wrong) < _WRONG_MAX:
            self.wrong.append(what)


class Link:
    """A connection to the proxy."""

    def __init__(self, world: World, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._world = world
        self.reader = reader
        self.writer = writer

    def ask(self, target: str, *, host: str = "steady.test", more: str = "", method: str = "GET") -> None:
        self._world.requests += 1
        self.writer.write(f"{method} /{target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode())

    async def answer(self) -> tuple[int, bytes]:
        """Return (status, body); EOFError if it is cut."""
        head = (await self.reader.readuntil(b"\r\n\r\n"))[:-2]
        status = int(head[9:12])
        lower = head.lower()
        if status == 101:
            return status, b""
        if _CHUNKED in lower:
            parts = []
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                parts.append((await self.reader.readexactly(size + 2))[:-2])
            await self.reader.readexactly(2)
            return status, b"".join(parts)
        length = _LENGTH.search(lower)
        return status, await self.reader.readexactly(int(length[1]) if length else 0)

    async def expect(self, target: str) -> None:
        """Read the answer to *target*; it must be the right one."""
        status, body = await self.answer()
        if (status, len(body)) != (200, _ANSWERS[target]):
            raise Wrong(f"/{target}: {status}, {len(body)} bytes")

    def leave(self, how: str) -> None:
        """Close, by a reset if *how* says so; whatever is under way is no longer wanted."""
        if how == "reset":
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.writer.transport.abort()


@asynccontextmanager
async def _link(world: World, *, receive_buffer_bytes: int = 0) -> AsyncIterator[Link]:
    sock = socket.socket()
    if receive_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", world.port))
        reader, writer = await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise
    try:
        yield Link(world, reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def keeping(world: World) -> None:
    """Many requests on one connection, with pauses."""
    async with _link(world) as link:
        for _ in range(world.random.randint(1, 40)):
            target = world.random.choice(_PLAIN)
            link.ask(target)
            await link.expect(target)
            await world.sleep(world.random.random() * 0.03)


async def single(world: World) -> None:
    async with _link(world) as link:
        target = world.random.choice(_PLAIN)
        link.ask(target, more="Connection: close\r\n")
        await link.expect(target)
        if await link.reader.read():
            raise Wrong("bytes behind the last answer")


async def pipelining(world: World) -> None:
    async with _link(world) as link:
        targets = world.random.choices(_PLAIN, k=6)
        for target in targets:
            link.ask(target)
        for target in targets:
            await link.expect(target)


async def uploading(world: World) -> None:
    async with _link(world) as link:
        for _ in range(4):
            count = world.random.randint(1, 300_000)
            if world.random.random() < 0.5:
                link.ask("upload", method="POST", more=f"Content-Length: {count}\r\n")
                link.writer.write(b"x" * count)
            else:
                link.ask("upload", method="POST", more="Transfer-Encoding: chunked\r\n")
                half = count // 2
                for size in filter(None, (half, count - half)):
                    link.writer.write(b"%x\r\n%b\r\n" % (size, b"x" * size))
                    await link.writer.drain()
                link.writer.write(b"0\r\n\r\n")
            status, body = await link.answer()
            if (status, body) != (200, b"%d" % count):
                raise Wrong(f"upload of {count} bytes: {status} {body!r}")


async def leaving_early(world: World) -> None:
    """Gone in the middle of the request."""
    how = world.random.choice(("close", "reset"))
    async with _link(world) as link:
        match world.random.randint(0, 3):
            case 0:
                link.writer.write(b"GET /fast HTTP/1.1\r\nHost: stea")
            case 1:
                link.ask("upload", method="POST", more="Content-Length: 100000\r\n")
                link.writer.write(b"x" * 50_000)
            case 2:
                link.ask("upload", method="POST", more="Transfer-Encoding: chunked\r\n")
                link.writer.write(b"5000\r\nxxxxx")
            case _:
                pass  # not even a beginning
        await world.sleep(world.random.random() * 0.02)
        link.leave(how)


async def leaving_late(world: World) -> None:
    """Gone before the answer, or in the middle of it."""
    async with _link(world) as link:
        link.ask(world.random.choice(("big", "slow", "fast")))
        if world.random.random() < 0.5:
            await link.reader.read(1000)
        link.leave(world.random.choice(("close", "reset")))


async def slow_reading(world: World) -> None:
    async with _link(world, receive_buffer_bytes=16_384) as link:
        link.ask("big", more="Connection: close\r\n")
        count = 0
        while data := await link.reader.read(40_000):
            count += len(data)
            await world.sleep(0.02)
        if count < BIG_BYTES:
            raise EOFError(f"{count} bytes")


async def resting(world: World) -> None:
    """Stays without a word until the proxy closes."""
    async with _link(world) as link:
        link.ask("fast")
        await link.expect("fast")
        if await link.reader.read():
            raise Wrong("bytes that nobody asked for")


async def websocket(world: World) -> None:
    """Frames without a mask, so that the echo is a frame as well; then one of many ends."""
    async with _link(world) as link:
        link.ask("ws", more=_UPGRADE)
        if (await link.answer())[0] != 101:
            raise Wrong("no WebSocket")
        for _ in range(world.random.randint(0, 30)):
            size = world.random.randint(126, 60_000)
            frame = b"\x82\x7e" + size.to_bytes(2, "big") + b"x" * size
            link.writer.write(frame)
            if await link.reader.readexactly(len(frame)) != frame:
                raise Wrong("another echo")
            await world.sleep(world.random.random() * 0.02)
        match world.random.randint(0, 2):
            case 0:
                link.writer.write(b"\x82\x7e\xff\xff" + b"x" * 1000)  # half a frame
                link.leave("reset")
            case 1:
                link.writer.write_eof()
            case _:
                pass


async def malformed(world: World) -> None:
    async with _link(world) as link:
        world.requests += 1
        link.writer.write(world.random.choice(_MALFORMED))
        status, _ = await link.answer()
        if not 400 <= status < 500:
            raise Wrong(f"{status} for what is malformed")
        if await link.reader.read():
            raise Wrong("bytes behind a refusal")


async def churning(world: World) -> None:
    """Requests to a service whose tasks come and go: it may fail, but only as the manual says."""
    with contextlib.suppress(*_GONE):
        async with _link(world) as link:
            for _ in range(20):
                target = world.random.choice(_PLAIN)
                link.ask(target, host="churn.test")
                status, body = await link.answer()
                if status == 200 and len(body) != _ANSWERS[target]:
                    raise Wrong(f"churn: /{target} with {len(body)} bytes")
                if status not in (200, 502, 503):
                    raise Wrong(f"churn: /{target}: {status}")
                await world.sleep(world.random.random() * 0.03)


async def mistreated(world: World) -> None:
    """Requests to a backend that resets, cuts and talks nonsense."""
    async with _link(world) as link:
        target = world.random.choice(("reset", "cut", "garbage"))
        link.ask(target, host="rude.test")
        try:
            status, _ = await link.answer()
        except _GONE:
            if target != "cut":
                raise
        else:
            if status != 502 or target == "cut":
                raise Wrong(f"{status} for /{target}")


# Who they are, how many at a time, and how long one waits between two visits.
CROWD: Final[tuple[tuple[Callable[[World], Awaitable[None]], int, float], ...]] = (
    (keeping, 10, 0.05), (single, 4, 0.05), (pipelining, 2, 0.2), (uploading, 3, 0.1),
    (leaving_early, 3, 0.1), (leaving_late, 3, 0.1), (slow_reading, 3, 0.1), (resting, 8, 0.05),
    (websocket, 6, 0.1), (malformed, 3, 0.1), (churning, 4, 0.05), (mistreated, 2, 0.1),
)  # fmt: skip


async def visit_again(
    world: World, visit: Callable[[World], Awaitable[None]], pause_s: float, stop: asyncio.Event
) -> None:
    """Do *visit* until *stop*, and note what went wrong."""
    name = getattr(visit, "__name__", str(visit))
    while not stop.is_set():
        age = world.age
        try:
            async with asyncio.timeout(VISIT_S):
                await visit(world)
        except _GONE as exc:  # TimeoutError is an OSError
            if world.age == age or isinstance(exc, TimeoutError):
                world.blame(f"{name}: {exc!r}")
        except (Wrong, ValueError, asyncio.LimitOverrunError) as exc:
            world.blame(f"{name}: {exc!r}")
        world.visits[name] += 1
        await world.sleep(pause_s * (0.5 + world.random.random()))
