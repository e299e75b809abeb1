"""Blocking calls beside the event loop, and several calls at once."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeAlias, TypeVar

from discovery.model import DiscoveryError

T = TypeVar("T")

_KEPT_S: Final = 30.0  # how long a thread waits for another call


async def in_thread(call: Callable[[], T], *, name: str) -> T:
    """Return what `call` returns, run in a thread; cancelled, the thread's result is dropped.

    The threads are daemons, unlike those of an executor: a call that hangs for its whole timeout does
    not keep the process from ending. They are kept for a while: to start one holds the loop up for
    milliseconds while others are busy.
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

    def run() -> Callable[[], None]:
        threading.current_thread().name = name
        result, error = None, None
        try:
            result = call()
        except Exception as exc:
            error = exc

        def tell() -> None:
            loop.call_soon_threadsafe(settle, result, error)

        return tell

    _run(run)
    return await future


_Job: TypeAlias = Callable[[], Callable[[], None]]  # does its work and returns what tells of the result
_jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
_free = threading.Semaphore(0)  # threads that wait for a job, less the jobs that wait for one of them


def _run(job: _Job) -> None:
    _jobs.put(job)
    if not _free.acquire(blocking=False):
        threading.Thread(target=_work, daemon=True).start()


def _work() -> None:
    while True:
        try:
            job = _jobs.get(timeout=_KEPT_S)
        except queue.Empty:
            if _free.acquire(blocking=False):
                return  # nobody counts on this one
            continue
        tell = job()
        threading.current_thread().name = "anyport-idle"
        _free.release()  # before its result is known, or the next call would find no free thread
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            tell()
        del job, tell  # they hold what was returned


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
