"""Long computations in short steps."""

from __future__ import annotations

import pytest

from proxy.steps import ROWS_PER_STEP, Steps, finish, release, spread


def counting(to: int, seen: list[int]) -> Steps[str]:
    for number in range(to):
        seen.append(number)
        yield
    return "done"


def test_steps_in_one_go_give_their_result() -> None:
    seen: list[int] = []
    assert finish(counting(5, seen)) == "done"
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.asyncio
async def test_the_loop_has_a_turn_after_each_slice() -> None:
    """A slice is half a millisecond; here each look at the clock finds 0.2 ms gone."""
    seen: list[int] = []
    turns: list[int] = []
    now_s = 0.0

    def clock() -> float:
        nonlocal now_s
        now_s += 0.0002
        return now_s

    async def pause() -> None:
        turns.append(len(seen))

    assert await spread(counting(10, seen), clock=clock, pause=pause) == "done"
    assert turns == [3, 6, 9]


@pytest.mark.asyncio
async def test_a_short_computation_does_not_wait_for_the_loop() -> None:
    async def pause() -> None:
        pytest.fail("nobody needs a turn within a slice")

    assert await spread(counting(10, []), clock=lambda: 0.0, pause=pause) == "done"


@pytest.mark.asyncio
async def test_what_a_step_raises_reaches_the_caller() -> None:
    def broken() -> Steps[None]:
        yield
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await spread(broken())
    with pytest.raises(ZeroDivisionError):
        finish(broken())


def test_garbage_goes_a_few_objects_at_a_time() -> None:
    garbage = [object() for _ in range(3 * ROWS_PER_STEP)]
    left = [len(garbage) for _ in release(garbage)]
    assert left == [3 * ROWS_PER_STEP, 2 * ROWS_PER_STEP, ROWS_PER_STEP]
    assert garbage == []
