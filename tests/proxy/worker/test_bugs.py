"""A mistake of ours ends one request, is counted and logged as P01, and leaves the worker standing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from proxy.errors import INTERNAL
from proxy.link import scoreboard as sb
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import TableSnapshot, make_link
from proxy.link.sockets import listen
from proxy.worker.accesslog import AccessLogWriter
from proxy.worker.http1 import exchange, pool
from proxy.worker.http1.downstream import ClientConnection
from proxy.worker.process import Inheritance, Worker
from proxy.worker.sockets import Listener
from proxy.worker.state import WorkerState
from tests.kit.eventually import eventually
from tests.kit.workers import backend, service

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
_GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_OK)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


_NOTHING = Inheritance(row=0, listeners=(), link=-1, scoreboard=-1, snapshot=-1, lifeline=-1)


class _Bench:
    """A worker's inside, in this process, so that a test can break it."""

    def __init__(self, state: WorkerState, port: int, log_fd: int) -> None:
        self.state = state
        self.port = port
        self._log_fd = log_fd

    async def get(self) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(_GET)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    @property
    def bugs(self) -> int:
        return self.state.no_service[sb.FAILURES + INTERNAL.slot]

    def logged(self) -> list[dict[str, Any]]:
        self.state.log.flush()
        return [orjson.loads(line) for line in os.read(self._log_fd, 1 << 20).splitlines()]


@asynccontextmanager
async def _bench() -> AsyncIterator[_Bench]:
    loop = asyncio.get_running_loop()
    board = Scoreboard.create(1)
    log_fd, log_end = os.pipe()
    log = AccessLogWriter(log_end, board.head(0))
    upstream = await asyncio.start_server(_answer, "127.0.0.1", 0)
    async with asyncio.TaskGroup() as tasks:
        state = WorkerState(loop=loop, tasks=tasks, board=board, row=0, log=log, report=lambda _: None)
        port = upstream.sockets[0].getsockname()[1]
        state.table.apply(
            TableSnapshot(
                revision=1, loaded=True, services=(service(),), by_service={"web": (backend(port),)}
            )
        )
        sock = listen("127.0.0.1", 0)
        listener = Listener(state.poller, sock, lambda: ClientConnection(state), lambda: None)
        near, far = make_link()
        loop.set_exception_handler(Worker(state, _NOTHING, far).on_bug)
        yield _Bench(state, sock.getsockname()[1], log_fd)
        listener.close()
        upstream.close()
        near.close()
        far.close()
        for item in list(state.watched):
            item.abort()
        await eventually(lambda: not state.watched and not state.clients)
        await asyncio.sleep(0)  # the loop closes a socket one turn after it has said so
        await upstream.wait_closed()
        state.poller.close()
    log.close()
    for fd in (log_fd, log_end, board.fd):
        os.close(fd)


@pytest.mark.asyncio
async def test_a_bug_while_dialling_is_a_500_and_the_next_request_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The dials share a task group with everything else: what one raises must not reach it."""
    async with _bench() as bench:
        with monkeypatch.context() as broken:
            broken.setattr(pool, "connect", lambda *_: 1 // 0)
            answer = await bench.get()

        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"X-Anyport-Error: P01 internal; " in answer
        assert b"ZeroDivisionError" not in answer, "a client learns nothing of our code"
        assert bench.bugs == 1
        assert "ZeroDivisionError" in bench.logged()[0]["trace"]
        assert (await bench.get()).endswith(b"ok")


@pytest.mark.asyncio
async def test_a_bug_in_a_callback_costs_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _bench() as bench:
        with monkeypatch.context() as broken:
            broken.setattr(exchange, "pick", lambda *_: 1 // 0)
            assert await bench.get() == b""

        assert bench.bugs == 1
        assert (await bench.get()).endswith(b"ok")
