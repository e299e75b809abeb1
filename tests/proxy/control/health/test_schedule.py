"""When backends are checked: at once, eagerly until the first success, then at their interval."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

import pytest

from discovery.model import BackendKey, HealthCheck
from proxy.control.health.check import Target
from proxy.control.health.schedule import Monitor, pause_s
from proxy.policy.verdict import CheckResult, carried, unchecked

CHECK = HealthCheck(interval_s=5.0, unhealthy_threshold=1)


def a_target(task: str = "one", *, port: int = 1, check: HealthCheck = CHECK, service: str = "web") -> Target:
    key = BackendKey(task, "app", 80)
    return Target(service=service, key=key, host="127.0.0.1", port=port, check=check, host_header="web")


class World:
    """A clock that moves only when everybody sleeps, and backends that answer as told."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.ok: dict[str, bool | None] = {}
        self.asked: list[tuple[float, str]] = []
        self.changes = 0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def check(self, target: Target) -> CheckResult | None:
        self.asked.append((round(self.now_s, 3), target.key.task_arn))
        ok = self.ok.get(target.key.task_arn, True)
        return None if ok is None else CheckResult(ok, "HTTP 200" if ok else "HTTP 503")

    async def sleep(self, delay_s: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now_s + delay_s, future))
        await future

    def change(self, service: str) -> None:
        self.changes += 1

    async def pass_time(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        await self._settle()
        while due := [wake for wake in self._sleepers if wake[0] <= end_s and not wake[1].done()]:
            wake_s, future = min(due, key=lambda wake: wake[0])
            self._sleepers.remove((wake_s, future))
            self.now_s = max(self.now_s, wake_s)
            future.set_result(None)
            await self._settle()
        self.now_s = end_s

    async def _settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    def monitor(self, group: asyncio.TaskGroup) -> Monitor:
        return Monitor(
            group, self.check, on_change=self.change,
            clock=lambda: self.now_s, sleep=self.sleep, rng=random.Random(1),
        )  # fmt: skip


async def within(world: World, play: Callable[[Monitor], Awaitable[None]]) -> None:
    """Run *play* with a monitor and end the monitor's tasks after it."""
    async with asyncio.TaskGroup() as group:
        monitor = world.monitor(group)
        await play(monitor)
        for service in ("web", "a", "b"):
            monitor.watch(service, [], {})


@pytest.mark.asyncio
async def test_a_new_backend_is_checked_at_once_and_eagerly_until_it_passes() -> None:
    world = World()

    async def play(monitor: Monitor) -> None:
        world.ok["one"] = False
        monitor.watch("web", [a_target()], {})
        await world.pass_time(0.0)
        assert world.asked == [(0.0, "one")]
        await world.pass_time(0.9)
        assert len(world.asked) >= 4
        world.ok["one"] = True
        await world.pass_time(0.3)
        verdict = monitor.verdict("web", a_target().key)
        assert verdict is not None
        assert verdict.healthy
        settled = len(world.asked)
        await world.pass_time(4.0)
        assert len(world.asked) == settled, "then it is left alone for its interval"

    await within(world, play)


@pytest.mark.asyncio
async def test_a_changed_verdict_is_announced_once() -> None:
    world = World()

    async def play(monitor: Monitor) -> None:
        monitor.watch("web", [a_target()], {})
        await world.pass_time(30.0)
        assert world.changes == 1
        world.ok["one"] = False
        await world.pass_time(30.0)
        assert world.changes == 2
        assert monitor.results["web", "success"] > 1
        assert monitor.results["web", "failure"] > 1

    await within(world, play)


@pytest.mark.asyncio
async def test_removed_backends_are_left_alone_and_a_new_task_starts_from_nothing() -> None:
    """A host port given to another task: the dead task's health must not pass to its heir."""
    world = World()

    async def play(monitor: Monitor) -> None:
        monitor.watch("web", [a_target("one")], {})
        await world.pass_time(1.0)
        before = len(world.asked)
        world.ok["two"] = None
        monitor.watch("web", [a_target("two")], {})
        await world.pass_time(20.0)
        assert {task for _, task in world.asked[before:]} == {"two"}
        assert monitor.verdict("web", a_target("one").key) is None
        verdict = monitor.verdict("web", a_target("two").key)
        assert verdict is not None
        assert not verdict.healthy

    await within(world, play)


@pytest.mark.asyncio
async def test_a_check_this_machine_could_not_make_says_nothing() -> None:
    world = World()

    async def play(monitor: Monitor) -> None:
        monitor.watch("web", [a_target()], {("web", a_target().key): carried(True, "", 0.0)})
        world.ok["one"] = None
        await world.pass_time(60.0)
        verdict = monitor.verdict("web", a_target().key)
        assert verdict is not None
        assert verdict.healthy
        assert world.changes == 0

    await within(world, play)


@pytest.mark.asyncio
async def test_a_changed_check_keeps_the_verdict_and_a_changed_address_does_not() -> None:
    world = World()

    async def play(monitor: Monitor) -> None:
        monitor.watch("web", [a_target()], {})
        await world.pass_time(1.0)
        world.ok["one"] = None
        monitor.watch("web", [a_target(check=HealthCheck(interval_s=9.0))], {})
        verdict = monitor.verdict("web", a_target().key)
        assert verdict is not None
        assert verdict.healthy
        monitor.watch("web", [a_target(port=2)], {})
        verdict = monitor.verdict("web", a_target().key)
        assert verdict is not None
        assert not verdict.healthy

    await within(world, play)


@pytest.mark.asyncio
async def test_one_task_is_judged_for_each_service_it_serves() -> None:
    world = World()

    async def play(monitor: Monitor) -> None:
        none = HealthCheck(kind="none")
        world.ok["one"] = False
        monitor.watch("a", [a_target(service="a")], {})
        monitor.watch("b", [a_target(service="b", check=none)], {})
        await world.pass_time(1.0)
        a, b = monitor.verdict("a", a_target().key), monitor.verdict("b", a_target().key)
        assert a is not None
        assert b is not None
        assert (a.healthy, b.healthy) == (False, True)

    await within(world, play)


PROVING = HealthCheck(interval_s=5.0, identity_header="x-service")


@pytest.mark.asyncio
async def test_a_backend_that_is_somebody_else_is_out_until_it_proves_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    check_id = ("web", a_target().key)

    async def play(monitor: Monitor) -> None:
        monitor.watch("web", [a_target(check=PROVING)], {})
        await world.pass_time(1.0)
        world.ok["one"] = None  # nothing is known from checks
        for _ in range(3):  # one report of each worker
            monitor.mistaken(check_id, "identity not proven")
        await world.pass_time(20.0)
        verdict = monitor.verdict(*check_id)
        assert verdict is not None
        assert (verdict.healthy, verdict.reason) == (False, "identity not proven")
        world.ok["one"] = True
        await world.pass_time(5.5)
        verdict = monitor.verdict(*check_id)
        assert verdict is not None
        assert verdict.healthy
        assert monitor.foreign == {"web": 3}

    with caplog.at_level(logging.WARNING):
        await within(world, play)
    assert [record.getMessage() for record in caplog.records] == [
        "service web, task one: identity not proven"
    ]


@pytest.mark.asyncio
async def test_nobody_is_mistaken_for_another_where_no_proof_is_asked_for() -> None:
    world = World()

    async def play(monitor: Monitor) -> None:
        monitor.watch("web", [a_target()], {})
        await world.pass_time(1.0)
        monitor.mistaken(("web", a_target().key), "identity not proven")
        verdict = monitor.verdict("web", a_target().key)
        assert verdict is not None
        assert verdict.healthy

    await within(world, play)


def test_the_pause_grows_with_the_time_a_task_takes_to_start() -> None:
    new = unchecked(CHECK, 0.0)

    assert pause_s(new, a_target(), 0.0, 0.5) == pytest.approx(0.02)
    assert pause_s(new, a_target(), 0.1, 0.5) == pytest.approx(0.1)
    assert pause_s(new, a_target(), 1.0, 0.5) == pytest.approx(0.25)
    assert pause_s(new, a_target(), 20.0, 0.5) == pytest.approx(2.0)
    assert pause_s(new, a_target(), 999.0, 0.5) == pytest.approx(5.0)
    assert pause_s(carried(True, "", 0.0), a_target(), 0.0, 0.0) == pytest.approx(4.5)
