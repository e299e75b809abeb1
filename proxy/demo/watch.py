"""The table of the running anyport, asked for again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final

import aiohttp

from proxy.demo import table as tables
from proxy.demo.table import Row

_ASK_EVERY_S: Final = 0.25


class TableWatch:
    """What `/api/v1/table` said last, as `rows`."""

    def __init__(self, admin_url: str) -> None:
        self.rows: tuple[Row, ...] = ()
        self._url = admin_url + "/api/v1/table"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> TableWatch:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def running(self, on_change: Callable[[str], None] = lambda _: None) -> AsyncIterator[None]:
        """Keep `rows` up to date while the context lasts, and tell of each change."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._watch(on_change))
            try:
                yield
            finally:
                task.cancel()

    async def _watch(self, on_change: Callable[[str], None]) -> None:
        assert self._session is not None
        while True:
            try:
                async with self._session.get(self._url, raise_for_status=True) as response:
                    rows = tables.read(await response.json())
            except (aiohttp.ClientError, TimeoutError):
                pass  # not there yet, or its control process is being restarted: the last table stands
            else:
                for line in tables.changes(self.rows, rows):
                    on_change(line)
                self.rows = rows
            await asyncio.sleep(_ASK_EVERY_S)
