"""Container health: a task is healthy once it has answered for a while, and never before."""

from __future__ import annotations

import asyncio
import socket

import pytest

from proxy.demo.checks import HEALTHY_AFTER_S, Address, accepts, check

WEB, API = Address("arn:web", "127.0.0.1", 1), Address("arn:api", "127.0.0.1", 2)


class Ended(Exception):
    pass


@pytest.mark.asyncio
async def test_healthy_only_after_answering_for_a_while() -> None:
    now_s = 0.0
    unhealthy = [WEB, API]
    healthy: list[tuple[str, float]] = []
    asked: list[str] = []

    def say_healthy(arn: str) -> None:
        healthy.append((arn, round(now_s, 3)))
        unhealthy.remove(WEB if arn == WEB.task_arn else API)

    async def answers(address: Address) -> bool:
        asked.append(address.task_arn)
        return address is WEB and now_s >= 1.0

    async def pass_time(pause_s: float) -> None:
        nonlocal now_s
        now_s += pause_s
        if now_s > 10:
            raise Ended

    with pytest.raises(Ended):
        await check(lambda: unhealthy, say_healthy, answers=answers, clock=lambda: now_s, sleep=pass_time)
    [(arn, at_s)] = healthy
    assert arn == WEB.task_arn
    assert at_s == pytest.approx(1.0 + HEALTHY_AFTER_S, abs=0.2)
    assert asked.count(WEB.task_arn) in (11, 12), "not asked again once it has answered"


@pytest.mark.asyncio
async def test_a_task_that_is_gone_meanwhile_is_not_spoken_of() -> None:
    now_s = 0.0

    async def answers(address: Address) -> bool:
        return True

    async def pass_time(pause_s: float) -> None:
        nonlocal now_s
        now_s += pause_s
        if now_s > 5:
            raise Ended

    said: list[str] = []
    with pytest.raises(Ended):
        await check(
            lambda: [WEB] if now_s < 1 else [],
            said.append,
            answers=answers,
            clock=lambda: now_s,
            sleep=pass_time,
        )
    assert said == []


@pytest.mark.asyncio
async def test_accepting_is_what_counts() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert not await accepts(Address("arn", "127.0.0.1", port))
        listener.listen()
        assert await accepts(Address("arn", "127.0.0.1", port))
        await asyncio.sleep(0)
