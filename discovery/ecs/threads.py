"""Blocking calls beside the event loop, and several calls at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from discovery.model import DiscoveryError

T = TypeVar("T")


async def in_thread(call: Callable[[], T], *, name: str) -> T:
    """Return what `call` returns, run in a thread of its own; cancelled, the thread's result is dropped.

    The threads are daemons, unlike those of an executor: a call that hangs for its whole timeout does
    not keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as exc:
            error = exc
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future


async def all_of(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results in order; the first `DiscoveryError` ends the rest and is raised as it is."""
    async with together() as group:
        tasks = [group.create_task(call) for call in calls]
    return [task.result() for task in tasks]


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """Give a group of tasks, of which the first `DiscoveryError` ends the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        if errors.split(DiscoveryError)[1] is not None:
            raise
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
