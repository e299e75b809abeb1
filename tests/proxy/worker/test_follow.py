"""A worker and its tables: taken between requests, the newest first, and never half."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from proxy.link import scoreboard as sb
from proxy.link import snapshots
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import TableSnapshot
from proxy.worker.accesslog import AccessLogWriter
from proxy.worker.follow import Follower
from proxy.worker.state import WorkerState
from tests.kit.eventually import eventually
from tests.kit.stage import staged
from tests.kit.wire import request
from tests.kit.workers import WorkerProcess, backend, service, wait_for

TABLE = TableSnapshot(revision=1, loaded=True, services=(service(),), by_service={"web": (backend(1001),)})


@dataclass
class _World:
    state: WorkerState
    near: socket.socket
    far: socket.socket

    def send(self, table: TableSnapshot) -> None:
        fd = snapshots.seal(snapshots.encode(table))
        assert snapshots.send(self.near, table.revision, fd)
        os.close(fd)


@asynccontextmanager
async def _world() -> AsyncIterator[_World]:
    board = Scoreboard.create(1)
    sink = os.open(os.devnull, os.O_WRONLY)
    log = AccessLogWriter(sink, board.head(0))
    near, far = snapshots.make_link()
    async with asyncio.TaskGroup() as tasks:
        state = WorkerState(
            loop=asyncio.get_running_loop(),
            tasks=tasks,
            board=board,
            row=0,
            log=log,
            report=lambda _: None,
        )
        yield _World(state, near, far)
    near.close()
    far.close()
    log.close()
    os.close(sink)
    os.close(board.fd)


@asynccontextmanager
async def _running(follower: Follower) -> AsyncIterator[None]:
    task = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _open_snapshots() -> int:
    with os.scandir("/proc/self/fd") as entries:
        return sum("anyport-snapshot" in os.readlink(entry) for entry in entries)


@pytest.mark.asyncio
async def test_a_worker_starts_with_the_newest_table_there_is() -> None:
    async with _world() as world:
        first = snapshots.seal(snapshots.encode(TABLE))
        world.send(replace(TABLE, revision=3))
        world.send(replace(TABLE, revision=4))
        Follower(world.state, world.far, first).begin()
        assert world.state.table.revision == 4
        assert world.state.head[sb.REVISION] == 4
        assert _open_snapshots() == 0


@pytest.mark.asyncio
async def test_of_tables_that_came_meanwhile_only_the_newest_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the one that had been begun is finished, or a busy control process would never get one through."""
    taken: list[int] = []
    real = snapshots.Decoder.file

    def file(decoder: snapshots.Decoder, fd: int) -> Any:
        found = yield from real(decoder, fd)
        taken.append(found.revision)
        return found

    monkeypatch.setattr(snapshots.Decoder, "file", file)
    async with _world() as world:
        follower = Follower(world.state, world.far, -1)
        rows = tuple(backend(port) for port in range(1, 2_001))
        async with _running(follower):
            world.send(replace(TABLE, revision=2, by_service={"web": rows}))
            follower.on_link()
            await asyncio.sleep(0)  # it has begun
            for revision in range(3, 8):
                world.send(replace(TABLE, revision=revision))
                follower.on_link()
            await eventually(lambda: world.state.table.revision == 7)
        assert taken == [2, 7]
        assert _open_snapshots() == 0


@pytest.mark.asyncio
async def test_a_bug_in_one_table_leaves_the_one_before_and_takes_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with _world() as world:
        follower = Follower(world.state, world.far, -1)
        async with _running(follower):
            with monkeypatch.context() as broken:
                broken.setattr("proxy.policy.backends.compiled", lambda *_: 1 // 0)
                world.send(TABLE)
                follower.on_link()
                await eventually(lambda: any(world.state.no_service[sb.FAILURES :]))
            assert world.state.table.revision == 0
            world.send(replace(TABLE, revision=2))
            follower.on_link()
            await eventually(lambda: world.state.table.revision == 2)


@pytest.mark.asyncio
async def test_what_it_could_not_take_stands_on_the_scoreboard(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _world() as world:
        follower = Follower(world.state, world.far, -1)
        async with _running(follower):
            monkeypatch.setattr("proxy.policy.backends.compiled", lambda *_: 1 // 0)
            world.send(replace(TABLE, revision=3))
            follower.on_link()
            await eventually(lambda: world.state.head[sb.BROKE_ON] == 3)
        assert world.state.head[sb.TAKING] == 0
        assert world.state.head[sb.SNAPSHOTS_REJECTED] == 1


@pytest.mark.asyncio
async def test_an_older_table_does_not_push_out_a_newer_one_that_waits() -> None:
    """One is tried here while the one in force still waits for room in the link."""
    async with _world() as world:
        follower = Follower(world.state, world.far, -1)
        for revision in (5, 4):
            world.send(replace(TABLE, revision=revision))
            follower.on_link()
        async with _running(follower):
            await eventually(lambda: world.state.table.revision == 5)
        assert _open_snapshots() == 0


def test_requests_are_answered_while_a_large_table_comes() -> None:
    """Each of these tables takes a worker many slices; a request between any two of them sees a whole one."""
    with WorkerProcess() as worker, staged(worker, 1) as stage:
        made = stage.serve()
        web = service(slot=1)
        client = stage.client()
        for turn in range(6):
            others = [backend(port, of="other", healthy=turn % 2 == 0) for port in range(2_000, 5_000)]
            other = service("other", slot=2, hosts=["other.example.com"])
            table = TableSnapshot(
                revision=worker.revision + 1,
                loaded=True,
                services=(web, other),
                by_service={"web": (backend(made.port),), "other": tuple(others)},
                settings=worker.settings,
            )
            worker.revision += 1
            fd = snapshots.seal(snapshots.encode(table))
            assert snapshots.send(worker.near, table.revision, fd)
            os.close(fd)
            for _ in range(20):
                client.send(request("/x"))
                assert client.read_response().body == b"/x"
            wait_for(lambda now=table.revision: worker.head(sb.REVISION) == now, "the table is taken")
