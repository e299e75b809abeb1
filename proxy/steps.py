"""Long computations in short steps, so that a worker's loop serves everybody else in between.

`Steps` are a generator that yields wherever it may be interrupted and returns the result. The same
generator runs in one go (`finish`) or a slice at a time (`spread`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]

ROWS_PER_STEP: Final = 32  # each a few microseconds: far below a slice
_SLICE_S: Final = 0.0005  # at a time; what a request waits for it at most, a step more or less


def finish(steps: Steps[T]) -> T:
    """Return the result of *steps*, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


async def spread(
    steps: Steps[T],
    *,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0),
) -> T:
    """Return the result of *steps*, with a turn of the loop after each slice of half a millisecond."""
    until_s = clock() + _SLICE_S
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if clock() >= until_s:
            await pause()
            until_s = clock() + _SLICE_S


def release(garbage: list[Any]) -> Steps[None]:
    """Empty *garbage* in steps: freeing a hundred thousand objects at once is a stall too."""
    while garbage:
        yield
        del garbage[-ROWS_PER_STEP:]
