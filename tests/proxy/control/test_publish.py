"""Snapshots reach every link, in order, and a full link gets the newest one later."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from proxy.control.publish import Publisher
from proxy.link import snapshots
from proxy.link.snapshots import EMPTY, TableSnapshot


@pytest.fixture
def link() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = snapshots.make_link()
    yield near, far
    snapshots_left = snapshots.receive_newest(far)
    if snapshots_left is not None:
        os.close(snapshots_left[1])
    near.close()
    far.close()


def newest(far: socket.socket) -> TableSnapshot | None:
    found = snapshots.receive_newest(far)
    if found is None:
        return None
    revision, fd = found
    table = snapshots.decode(snapshots.read(fd))
    os.close(fd)
    assert table.revision == revision
    return table


def test_revisions_rise_from_the_inherited_one_and_equal_tables_are_not_sent(
    link: tuple[socket.socket, socket.socket],
) -> None:
    publisher = Publisher([link[0]], inherited=replace(EMPTY, revision=41))

    assert publisher.publish(EMPTY), "the first is always sent: a predecessor may have died in the middle"
    assert not publisher.publish(EMPTY)
    first = newest(link[1])
    assert first is not None
    assert first.revision == 42
    assert newest(link[1]) is None
    assert publisher.publish(replace(EMPTY, loaded=True))
    second = newest(link[1])
    publisher.close()

    assert second == replace(EMPTY, revision=43, loaded=True)


@pytest.mark.asyncio
async def test_a_full_link_holds_nobody_up_and_gets_the_newest_later(
    link: tuple[socket.socket, socket.socket],
) -> None:
    other_near, other_far = snapshots.make_link()
    pauses: list[float] = []

    async def sleep(delay_s: float) -> None:
        pauses.append(delay_s)
        await asyncio.sleep(0)

    publisher = Publisher([link[0], other_near], inherited=EMPTY, sleep=sleep)
    loaded = False
    for _ in range(2000):
        loaded = not loaded
        publisher.publish(replace(EMPTY, loaded=loaded))
        current = newest(other_far)
        assert current is not None
        assert current.revision == publisher.newest.revision

    async with asyncio.TaskGroup() as group:
        retrying = group.create_task(publisher.retry_forever())
        stale = newest(link[1])
        for _ in range(10):
            await asyncio.sleep(0)
        caught_up = newest(link[1])
        retrying.cancel()
    publisher.close()
    other_near.close()
    other_far.close()

    assert stale is not None
    assert stale.revision < 2000
    assert caught_up is not None
    assert caught_up.revision == 2000
    assert pauses
