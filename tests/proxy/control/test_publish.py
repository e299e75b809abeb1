"""A new table goes to one worker first; what kills it, stalls it or is refused goes no further."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import replace

import pytest

from proxy.control.publish import Publisher
from proxy.link import scoreboard as sb
from proxy.link.snapshots import EMPTY
from tests.kit.tried import Manner, World, table, world

GOOD, BETTER, BEST, POISON = table("good"), table("better"), table("best"), table("poison")
_WORDS = {"dies": "died while it took it", "stalls": "stood still over it", "refuses": "could not take it"}


async def _settled(w: World, revision: int) -> None:
    """Return once every worker and the supervisor have table *revision*."""
    await w.until(lambda: {w.revision(hand.row) for hand in w.hands} == {revision} and w.kept == revision)


async def _quarantined(w: World, manner: Manner = "dies") -> None:
    """Bring GOOD in force, then POISON into quarantine."""
    w.publisher.publish(GOOD)
    await _settled(w, 1)
    for hand in w.hands:
        hand.manner = manner
    w.publisher.publish(POISON)
    await w.until(lambda: w.publisher.quarantine)


def _start_again(w: World) -> None:
    for row in w.deaths:
        w.start(row)
    w.deaths.clear()


# When all is well


@pytest.mark.asyncio
async def test_revisions_rise_from_the_highest_known_and_equal_tables_are_not_sent() -> None:
    async with world(inherited=replace(EMPTY, revision=41)) as w:
        assert w.publisher.publish(EMPTY), "the first is always sent: a predecessor may have died midway"
        assert not w.publisher.publish(EMPTY)
        await _settled(w, 42)
        assert not w.publisher.publish(EMPTY)
        assert w.publisher.publish(GOOD)
        await _settled(w, 43)
        assert w.publisher.in_force == replace(GOOD, revision=43)


@pytest.mark.parametrize("cell", [sb.REVISION, sb.TAKING, sb.BROKE_ON])
@pytest.mark.asyncio
async def test_a_successor_counts_on_from_what_was_only_tried(cell: int) -> None:
    """The supervisor never had that table; a worker has it, or would pass over one of the same revision."""
    async with world() as w:
        w.board.head(1)[cell] = 9
        successor = Publisher(
            w.near, supervisor=w.near[0], board=w.board, inherited=EMPTY, alive=lambda _: True
        )
        successor.publish(GOOD)
        assert successor.newest.revision == 10
        successor.close()


@pytest.mark.asyncio
async def test_one_worker_has_it_before_the_others_and_the_supervisor_before_those() -> None:
    async with world(3) as w:
        w.publisher.publish(GOOD)
        await _settled(w, 1)
        await w.until(lambda: len(w.given) == 5)  # who tried it is given it once more
        first = w.given[0][0]
        assert first.startswith("worker")
        assert w.given[1] == ("supervisor", 1)
        await w.until(lambda: w.acknowledged)
        assert w.publisher.counts == {"sent": 1, "released": 1, "acknowledged": 1}


@pytest.mark.asyncio
async def test_another_worker_is_the_first_each_time() -> None:
    async with world(3) as w:
        firsts = set()
        for revision, one in enumerate((GOOD, BETTER, BEST), 1):
            w.given.clear()
            w.publisher.publish(one)
            await _settled(w, revision)
            firsts.add(w.given[0][0])
        assert len(firsts) == 3


@pytest.mark.asyncio
async def test_it_takes_milliseconds() -> None:
    async with world() as w:
        begun_s = w.now_s
        w.publisher.publish(GOOD)
        await _settled(w, 1)
        assert w.now_s - begun_s < 0.02


@pytest.mark.asyncio
async def test_the_newest_supersedes_those_that_wait_and_not_the_one_that_is_tried() -> None:
    async with world() as w:
        for one in (GOOD, BETTER, BEST):
            w.publisher.publish(one)
        await _settled(w, 3)
        assert {revision for _, revision in w.given} == {1, 3}
        assert w.publisher.counts["superseded"] == 1
        assert w.publisher.counts["released"] == 2


@pytest.mark.asyncio
async def test_it_is_acknowledged_when_no_living_worker_routes_by_an_older_one() -> None:
    async with world(3) as w:
        w.hands[0].reading = False
        w.publisher.publish(GOOD)
        await w.until(lambda: w.revision(1) == w.revision(2) == 1)
        await w.pass_s(1)
        assert w.acknowledged == []
        w.hands[0].reading = True
        await w.until(lambda: w.acknowledged)
        assert w.acknowledged == [1]
        w.die(0)
        w.publisher.publish(BETTER)
        await w.until(lambda: w.acknowledged == [1, 2])


# A table that goes wrong


@pytest.mark.parametrize("manner", ["dies", "stalls", "refuses"])
@pytest.mark.asyncio
async def test_only_one_worker_suffers_and_the_next_table_is_tried_after_a_second(
    manner: Manner, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(3) as w:
        await _quarantined(w, manner)
        before_s = w.now_s
        assert w.publisher.quarantine == f"table 2 is not used: worker 2 {_WORDS[manner]}"
        assert [r.levelno for r in caplog.records] == [logging.ERROR]
        assert "the others go on with table 1, and the next one is tried in 1 s" in caplog.text
        assert w.publisher.in_force.services == GOOD.services
        _start_again(w)
        for hand in w.hands:
            if not hand.beating:
                w.die(hand.row)  # by the watchdog
        _start_again(w)
        w.publisher.publish(BETTER)
        await _settled(w, 3)
        assert 1.0 <= w.now_s - before_s < 1.2
        assert [who for who, revision in w.given if revision == 2] == ["worker 2"]
        assert w.publisher.quarantine == ""
        assert w.publisher.counts["quarantined"] == 1
        await w.until(lambda: w.acknowledged == [1, 3])


@pytest.mark.asyncio
async def test_whoever_died_of_it_begins_with_the_one_before() -> None:
    async with world() as w:
        await _quarantined(w)
        [row] = w.deaths
        _start_again(w)
        await w.pass_s(5)
        assert w.revision(row) == 1
        assert w.deaths == []


@pytest.mark.asyncio
async def test_so_it_is_with_one_worker_only() -> None:
    async with world(1) as w:
        await _quarantined(w)
        _start_again(w)
        w.publisher.publish(BETTER)
        await _settled(w, 3)
        assert w.deaths == []


@pytest.mark.asyncio
async def test_the_pause_doubles_to_a_minute_and_one_success_ends_that() -> None:
    async with world() as w:
        await _quarantined(w)
        pauses = []
        for number in range(8):
            failed_s = w.now_s
            _start_again(w)
            w.publisher.publish(table("poison", str(number)))
            await w.until(lambda: w.deaths)
            await w.until(lambda n=number: w.publisher.counts["quarantined"] == n + 2)
            pauses.append(w.now_s - failed_s)
        assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60], abs=0.2)
        _start_again(w)
        w.publisher.publish(GOOD)
        await _settled(w, 11)
        failed_s = w.now_s
        w.publisher.publish(POISON)
        await w.until(lambda: w.publisher.quarantine)
        w.publisher.publish(BETTER)
        _start_again(w)
        await _settled(w, 13)
        assert w.now_s - failed_s < 1.5


@pytest.mark.asyncio
async def test_the_same_table_again_waits_a_minute_and_has_a_revision_of_its_own() -> None:
    async with world() as w:
        await _quarantined(w)
        failed_s = w.now_s
        _start_again(w)
        assert not w.publisher.publish(POISON)
        await w.pass_s(59)
        assert w.publisher.newest.revision == 2
        for hand in w.hands:
            hand.manner = "takes"  # what was wrong with it is over
        await _settled(w, 3)
        assert 60 <= w.now_s - failed_s < 61
        assert w.publisher.quarantine == ""


@pytest.mark.asyncio
async def test_from_another_and_back_to_it_is_the_same_table() -> None:
    async with world() as w:
        await _quarantined(w)
        _start_again(w)
        w.publisher.publish(BETTER)
        w.publisher.publish(POISON)
        await w.pass_s(30)
        assert w.deaths == []
        assert w.publisher.counts["quarantined"] == 1


@pytest.mark.asyncio
async def test_one_that_stood_still_and_takes_it_after_all_clears_it() -> None:
    """A machine that had no time for it: nothing is wrong with the table."""
    async with world() as w:
        await _quarantined(w, "stalls")
        [still] = [hand for hand in w.hands if not hand.beating]
        for hand in w.hands:
            hand.manner = "takes"
        w.come_round(still.row)
        await _settled(w, 2)
        assert w.publisher.quarantine == ""
        await w.until(lambda: w.acknowledged == [1, 2])


@pytest.mark.asyncio
async def test_quarantine_is_left_by_the_clock_also_while_nothing_is_published() -> None:
    async with world() as w:
        await _quarantined(w)
        _start_again(w)
        w.publisher.publish(table("poison", "more"))
        await w.until(lambda: w.deaths)
        _start_again(w)
        w.publisher.publish(BETTER)
        await _settled(w, 4)


# What is not the table's fault


@pytest.mark.asyncio
async def test_a_worker_that_ends_of_something_else_is_no_reason() -> None:
    async with world() as w:
        for hand in w.hands:
            hand.manner = "takes"
        w.hands[1].manner = "leaves"
        w.publisher.publish(POISON)
        await w.until(lambda: w.revision(0) == 1)
        assert w.deaths == [1]
        assert w.publisher.counts["quarantined"] == 0
        w.hands[1].manner = "takes"
        _start_again(w)
        await _settled(w, 1)


@pytest.mark.asyncio
async def test_one_that_took_it_and_ended_in_the_same_moment_leaves_its_successor_not_behind() -> None:
    async with world() as w:
        w.publisher.publish(GOOD)
        await w.until(lambda: w.revision(1) == 1)
        w.die(1)
        w.hands[1].pid = 0
        kept, w._keep = w._keep, lambda: None  # it is started before the supervisor has the new table
        w.start(1)
        w._keep = kept
        assert w.revision(1) == 0
        await _settled(w, 1)


@pytest.mark.asyncio
async def test_one_that_is_late_has_another_try_it_after_a_second() -> None:
    async with world() as w:
        w.hands[1].reading = False
        begun_s = w.now_s
        w.publisher.publish(GOOD)
        await w.until(lambda: w.revision(0) == 1)
        assert 1 <= w.now_s - begun_s < 1.2
        w.hands[1].reading = True
        await _settled(w, 1)


@pytest.mark.asyncio
async def test_one_that_nobody_takes_makes_room_for_a_newer_one() -> None:
    async with world() as w:
        for hand in w.hands:
            hand.manner = "ignores"
        w.publisher.publish(POISON)
        w.publisher.publish(GOOD)
        await _settled(w, 2)
        assert w.publisher.counts == {"sent": 2, "superseded": 1, "released": 1}


@pytest.mark.asyncio
async def test_one_that_stood_still_before_is_passed_over() -> None:
    async with world() as w:
        w.hands[1].beating = False
        await w.pass_s(4)
        begun_s = w.now_s
        w.publisher.publish(GOOD)
        await w.until(lambda: w.revision(0) == 1)
        assert w.now_s - begun_s < 0.1


@pytest.mark.asyncio
async def test_workers_that_have_not_started_find_it_in_their_links() -> None:
    async with world(started=False) as w:
        w.publisher.publish(GOOD)
        await w.pass_s(3)
        w.start(0)
        w.start(1)
        await _settled(w, 1)
        await w.until(lambda: w.acknowledged == [1])


@pytest.mark.asyncio
async def test_one_that_is_waited_for_gets_it_once() -> None:
    """Its only worker has ended: one copy waits in the link, not one for each look."""
    async with world(1) as w:
        w.die(0)
        w.publisher.publish(GOOD)
        await w.pass_s(10)
        far = w.hands[0].far
        message, [fd], _, _ = socket.recv_fds(far, 64, 1)
        os.close(fd)
        assert message
        with pytest.raises(BlockingIOError):
            far.recv(64)
        assert w.publisher.counts["sent"] == 1


@pytest.mark.asyncio
async def test_without_workers_the_supervisor_has_it_at_once() -> None:
    async with world(0) as w:
        w.publisher.publish(GOOD)
        assert w.acknowledged == [1]
        await w.until(lambda: w.kept == 1)


# Full links


@pytest.mark.asyncio
async def test_a_full_link_holds_nobody_up_and_gets_the_newest_later() -> None:
    async with world(3) as w:
        w.hands[0].reading = False
        revision = 0
        for number in range(700):
            revision += 1
            w.publisher.publish(table(str(number)))
            await w.until(lambda r=revision: w.revision(1) == w.revision(2) == w.kept == r)
        assert w.revision(0) == 0
        w.hands[0].reading = True
        await _settled(w, revision)
        assert w.publisher.quarantine == ""


@pytest.mark.asyncio
async def test_what_is_in_force_does_not_overtake_what_is_tried() -> None:
    async with world() as w:
        for number in range(300):
            w.hands[number % 2].reading = not w.hands[number % 2].reading
            w.publisher.publish(table(str(number)))
            await w.pass_s(0.003)
        for hand in w.hands:
            hand.reading = True
        await _settled(w, 300)
        for who in ("worker 0", "worker 1", "supervisor"):
            read = [revision for reader, revision in w.given if reader == who]
            assert read == sorted(read)


@pytest.mark.asyncio
async def test_no_descriptor_is_left_open() -> None:
    before = _open_snapshots()
    async with world() as w:
        await _quarantined(w)
        _start_again(w)
        w.publisher.publish(BETTER)
        await _settled(w, 3)
        w.publisher.publish(table("poison", "again"))
        await w.until(lambda: w.publisher.quarantine)
        assert _open_snapshots() - before == 2, "the one in force and the one in quarantine"
    assert _open_snapshots() == before


def _open_snapshots() -> int:
    with os.scandir("/proc/self/fd") as entries:
        return sum("anyport-snapshot" in os.readlink(entry) for entry in entries)
