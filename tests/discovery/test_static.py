"""Addresses from the config."""

from __future__ import annotations

import asyncio

import pytest

from discovery.model import Service
from discovery.static import StaticSource


@pytest.mark.asyncio
async def test_addresses_are_known_at_once_and_stay() -> None:
    web = Service(name="web", hosts=("a.io",))
    source = StaticSource([(web, [("10.0.0.2", 80), ("::1", 8080), ("10.0.0.2", 80)])], clock=lambda: 7.0)
    watch = source.watch()

    snapshot = await anext(watch)

    assert snapshot.source == source.name == "static"
    assert snapshot.services == {"web": web}
    assert [(e.task_arn, e.container, e.address) for e in snapshot.endpoints] == [
        ("static:10.0.0.2:80", "static", "10.0.0.2:80"),
        ("static:[::1]:8080", "static", "[::1]:8080"),
    ]
    assert (source.status.refreshes, source.status.last_success_s) == (1, 7.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(watch)
