"""Blocking calls beside the loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from discovery.ecs.aws.threads import all_of, in_thread, together
from discovery.model import DiscoveryError
from tests.kit.eventually import eventually


@pytest.mark.asyncio
async def test_result_and_error_come_back() -> None:
    assert await in_thread(lambda: 7, name="seven") == 7
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0, name="bad")


@pytest.mark.asyncio
async def test_calls_at_once_do_not_wait_for_each_other() -> None:
    barrier = threading.Barrier(20, timeout=10)

    await asyncio.gather(*(in_thread(barrier.wait, name="meet") for _ in range(20)))


@pytest.mark.asyncio
async def test_threads_are_used_again_and_named_for_what_they_do() -> None:
    await in_thread(threading.get_ident, name="one")
    before = threading.active_count()
    for _ in range(50):
        await in_thread(threading.get_ident, name="two")

    assert threading.active_count() <= before + 1
    assert await in_thread(lambda: threading.current_thread().name, name="three") == "three"
    assert await in_thread(lambda: threading.current_thread().daemon, name="four")


@pytest.mark.asyncio
async def test_a_call_that_hangs_holds_nobody_up() -> None:
    end = threading.Event()
    hanging = [asyncio.create_task(in_thread(end.wait, name="hang")) for _ in range(5)]
    await asyncio.sleep(0)
    for task in hanging:
        task.cancel()
    await asyncio.wait(hanging)

    assert await in_thread(lambda: "here", name="next") == "here"
    end.set()
    await eventually(lambda: not any(thread.name == "hang" for thread in threading.enumerate()))


@pytest.mark.asyncio
async def test_of_several_calls_the_first_error_counts() -> None:
    async def fail() -> None:
        raise DiscoveryError("throttled", "slow down")

    with pytest.raises(DiscoveryError, match="slow down"):
        await all_of([fail(), fail()])


@pytest.mark.asyncio
async def test_an_error_ends_what_goes_on_beside_it() -> None:
    async def go() -> None:
        async with together() as group:
            waiting.append(group.create_task(asyncio.Event().wait()))
            raise DiscoveryError("throttled", "slow down")

    waiting: list[asyncio.Task[bool]] = []
    with pytest.raises(DiscoveryError, match="slow down"):
        await go()
    assert waiting[0].cancelled()


@pytest.mark.asyncio
async def test_a_bug_is_not_taken_for_an_error_of_discovery() -> None:
    async def fail() -> None:
        raise KeyError("a bug")

    with pytest.raises(BaseExceptionGroup):
        await all_of([fail()])
