"""Sources that misbehave, reloads that change little, and parts that crash."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType

import pytest

from discovery.model import (
    Endpoint,
    HealthCheck,
    Problem,
    Service,
    Snapshot,
    Source,
    SourceStatus,
    by_service,
)
from proxy import config
from proxy.config import Config
from proxy.control import process
from proxy.control.health.check import Checker, Target
from proxy.control.plane import ControlPlane
from proxy.control.process import Inherited
from proxy.link import snapshots
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import EMPTY, TableSnapshot
from proxy.policy.verdict import CheckResult


def known(source: str, service: str, *, port: int = 1, problems: tuple[Problem, ...] = ()) -> Snapshot:
    endpoint = Endpoint(
        service=service, task_arn=f"arn:task/{service}", container="app", container_port=80,
        host="127.0.0.1", port=port,
    )  # fmt: skip
    check = HealthCheck(kind="none")
    services = {service: Service(name=service, hosts=(f"{service}.test",), health=check)}
    return Snapshot(
        source=source,
        services=MappingProxyType(services),
        by_service=by_service((endpoint,)),
        problems=problems,
    )


class Told:
    """A source that knows what it is told, and fails when it is told so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = SourceStatus()
        self.watched = 0
        self._news: asyncio.Queue[Snapshot | Exception] = asyncio.Queue()

    def tell(self, news: Snapshot | Exception) -> None:
        self._news.put_nowait(news)

    async def watch(self) -> AsyncIterator[Snapshot]:
        self.watched += 1
        while True:
            news = await self._news.get()
            if isinstance(news, Exception):
                raise news
            yield news


@dataclass(slots=True)
class Stage:
    plane: ControlPlane
    sources: tuple[Told, ...]

    @property
    def table(self) -> TableSnapshot:
        return self.plane.status.table

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():  # noqa: ASYNC110 - the plane has no event for "all is quiet"
                await asyncio.sleep(0)


@pytest.fixture
def link() -> Iterator[socket.socket]:
    near, far = snapshots.make_link()
    yield near
    left = snapshots.receive_newest(far)
    if left is not None:
        os.close(left[1])
    near.close()
    far.close()


async def play(
    link: socket.socket, act: Callable[[Stage], Awaitable[None]], inherited: TableSnapshot = EMPTY
) -> None:
    told = (Told("one"), Told("two"))

    def build(_: Config) -> tuple[Source, ...]:
        return told

    async def no_check(_: Target) -> CheckResult | None:
        return None

    async def no_sleep(_: float) -> None:
        await asyncio.sleep(0)

    class Over(Exception):
        pass

    try:
        async with asyncio.TaskGroup() as group:
            plane = ControlPlane(
                Config(), group=group, check=no_check, links=[], supervisor=link, board=Scoreboard.create(1),
                inherited=inherited, build=build, sleep=no_sleep,
            )  # fmt: skip
            with plane.running():
                await act(Stage(plane, told))
            raise Over
    except* Over:
        pass


@pytest.mark.asyncio
async def test_the_first_snapshot_carries_settings_and_admits_to_knowing_nothing(link: socket.socket) -> None:
    async def act(stage: Stage) -> None:
        assert (stage.table.revision, stage.table.loaded) == (1, False)
        assert stage.table.settings == Config().worker_settings()

    await play(link, act)


@pytest.mark.asyncio
async def test_the_table_serves_what_is_known_and_is_loaded_with_the_last_source(link: socket.socket) -> None:
    async def act(stage: Stage) -> None:
        one, two = stage.sources
        one.tell(known("one", "web"))
        await stage.until(lambda: len(stage.table.backends) == 1)
        assert not stage.table.loaded
        assert stage.plane.status.pending == {"two"}
        two.tell(known("two", "api", port=2))
        await stage.until(lambda: stage.table.loaded)
        assert [row.name for row in stage.table.services] == ["api", "web"]

    await play(link, act)


@pytest.mark.asyncio
async def test_a_source_that_raises_is_asked_again_and_the_others_go_on(
    link: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(stage: Stage) -> None:
        one, two = stage.sources
        one.tell(known("one", "web"))
        await stage.until(lambda: len(stage.table.backends) == 1)
        one.tell(RuntimeError("a bug"))
        two.tell(known("two", "api", port=2))
        await stage.until(lambda: stage.table.loaded and one.watched == 2)
        assert len(stage.table.backends) == 2
        assert one.status.errors["other"] == 1
        assert "internal error" in one.status.last_error

    await play(link, act)
    assert "source one failed" in caplog.text


@pytest.mark.asyncio
async def test_a_problem_is_said_once(link: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    problem = Problem("task-definition/web:42, container app, label anyport.port", "is not a port")

    async def act(stage: Stage) -> None:
        one, _ = stage.sources
        for port in (1, 2, 3):
            one.tell(known("one", "web", port=port, problems=(problem,)))
            await stage.until(lambda port=port: [row.port for row in stage.table.backends] == [port])  # type: ignore[misc]
        assert stage.plane.status.problems == (problem,)

    await play(link, act)
    assert caplog.text.count("is not a port") == 1


@pytest.mark.asyncio
async def test_a_reload_that_leaves_discovery_alone_does_not_start_it_anew(link: socket.socket) -> None:
    async def act(stage: Stage) -> None:
        for source, service, port in zip(stage.sources, ("web", "api"), (1, 2), strict=True):
            source.tell(known(source.name, service, port=port))
        await stage.until(lambda: stage.table.loaded)
        stage.plane.reload(Config(trusted_proxies=("10.0.0.0/8",)))
        await stage.until(lambda: stage.table.settings.trusted_proxies == ("10.0.0.0/8",))
        assert [source.watched for source in stage.sources] == [1, 1]
        before = stage.table.backends

        stage.plane.reload(Config(health=config.Health(interval_s=9.0)))
        await stage.until(lambda: [source.watched for source in stage.sources] == [2, 2])
        assert stage.table.backends == before, "until the new sources have spoken, the old knowledge stands"
        assert stage.table.loaded

    await play(link, act)


@pytest.mark.asyncio
async def test_a_crash_of_one_part_is_logged_and_ends_the_process(
    link: socket.socket, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(self: Checker, target: Target) -> CheckResult:
        raise RuntimeError("a bug in a check")

    monkeypatch.setattr(Checker, "check", crash)
    sockets = [socket.socket() for _ in range(2)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    lifeline, held = os.pipe()
    given = Inherited(
        links=[], supervisor_link=link, board=Scoreboard.create(1), table=EMPTY,
        metrics_socket=sockets[0], admin_socket=sockets[1], lifeline_fd=lifeline,
    )  # fmt: skip
    settings = Config(service=(config.Service(name="web", hosts=("*",), static=("127.0.0.1:1",)),))

    assert await process.run(given, settings, reload=lambda: settings) == 1

    os.close(lifeline)
    os.close(held)
    assert "the control process cannot go on" in caplog.text
    assert "a bug in a check" in caplog.text


@pytest.mark.asyncio
async def test_which_sources_are_stale_is_said(link: socket.socket) -> None:
    async def act(stage: Stage) -> None:
        one, _ = stage.sources
        one.tell(known("one", "web"))
        await stage.until(lambda: len(stage.table.backends) == 1)
        assert stage.plane.status.stale == frozenset()
        one.status.stale_after_s = -1.0
        await stage.until(lambda: stage.plane.status.stale == {"one"})
        one.status.stale_after_s = 60.0
        await stage.until(lambda: not stage.plane.status.stale)

    await play(link, act)
