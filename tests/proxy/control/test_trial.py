"""Who tries a table, and what the scoreboard says came of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from proxy.control.trial import Canary, choose
from proxy.link import scoreboard as sb
from proxy.link.scoreboard import Scoreboard

_NOW_S = 1000.0
_REVISION = 7


class _Row:
    """One worker and the canary it is taken for."""

    def __init__(self, board: Scoreboard, *, started: bool = True) -> None:
        self.board = board
        self.head = board.head(0)
        self.alive = {100}
        self.now_s = _NOW_S
        if started:
            self.board.begin(0, 100)
            self.beat()
        self.canary = self.give()

    def give(self) -> Canary:
        return Canary(self.board, 0, _REVISION, now_s=self.now_s, alive=self.alive.__contains__)

    def beat(self) -> None:
        self.head[sb.HEARTBEAT_MS] = int(self.now_s * 1000)

    def restart(self, pid: int) -> None:
        self.alive = {pid}
        self.canary._alive = self.alive.__contains__
        self.board.begin(0, pid)

    def end(self) -> None:
        self.alive.clear()

    def judge(self) -> str:
        return self.canary.judge(self.now_s)

    def looks(self, seconds: float, *, beating: bool, step_s: float = 0.01) -> str:
        for _ in range(round(seconds / step_s)):
            self.now_s += step_s
            if beating:
                self.beat()
            last = self.judge()
        return last


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    made = Scoreboard.create(3)
    yield made
    os.close(made.fd)


def test_it_has_taken_it_once_it_routes_by_it(board: Scoreboard) -> None:
    row = _Row(board)
    assert row.judge() == "waiting"
    row.head[sb.TAKING] = _REVISION
    assert row.judge() == "waiting"
    row.head[sb.REVISION], row.head[sb.TAKING] = _REVISION, 0
    assert row.judge() == "taken"


def test_a_death_counts_against_the_table_only_if_it_was_being_taken(board: Scoreboard) -> None:
    row = _Row(board)
    row.head[sb.TAKING] = _REVISION - 1
    row.end()
    assert row.judge() == "lost"
    row.head[sb.TAKING] = _REVISION
    assert row.judge() == "killed"


@pytest.mark.parametrize(("taking", "outcome"), [(0, "lost"), (_REVISION - 1, "lost"), (_REVISION, "killed")])
def test_so_it_is_if_another_was_started_between_two_looks(
    board: Scoreboard, taking: int, outcome: str
) -> None:
    row = _Row(board)
    row.head[sb.TAKING] = taking
    row.restart(101)
    row.head[sb.REVISION] = _REVISION  # of the other; not what we gave
    assert row.judge() == outcome


def test_a_successor_that_begins_in_the_middle_of_a_look_hides_nothing(board: Scoreboard) -> None:
    row = _Row(board)
    row.head[sb.TAKING] = _REVISION

    def alive(_: int) -> bool:
        # The first thing that `begin` does, and the second; the process id comes last.
        row.head[sb.BROKE_ON], row.head[sb.TAKING] = row.head[sb.TAKING], 0
        return False

    row.canary._alive = alive
    assert row.judge() == "killed"


def test_one_that_refuses_it_is_told_from_one_that_refuses_another(board: Scoreboard) -> None:
    row = _Row(board)
    row.head[sb.SNAPSHOTS_REJECTED] += 1
    row.head[sb.BROKE_ON] = _REVISION - 1  # one that came before ours
    assert row.judge() == "waiting"
    row.head[sb.BROKE_ON] = _REVISION
    assert row.judge() == "refused"


def test_it_stands_still_if_the_heart_does_while_it_takes_it(board: Scoreboard) -> None:
    row = _Row(board)
    row.head[sb.TAKING] = _REVISION
    assert row.looks(0.9, beating=False) == "waiting"
    assert row.looks(0.2, beating=False) == "stalled"


def test_a_large_table_may_take_its_time(board: Scoreboard) -> None:
    row = _Row(board)
    row.head[sb.TAKING] = _REVISION
    assert row.looks(0.9, beating=True) == "waiting"
    assert row.looks(5.0, beating=True) == "late"


def test_one_that_stood_still_before_it_took_it_is_late(board: Scoreboard) -> None:
    assert _Row(board).looks(5.0, beating=False) == "late"


def test_time_in_which_nobody_looked_does_not_count(board: Scoreboard) -> None:
    """The machine was suspended, or the control process had no turn."""
    row = _Row(board)
    row.head[sb.TAKING] = _REVISION
    assert row.looks(30.0, beating=False, step_s=10.0) == "waiting"


@pytest.mark.parametrize("started", [False, True])
def test_a_row_without_a_worker_waits_for_one(board: Scoreboard, started: bool) -> None:
    """It has not begun yet, or has ended: the next one finds the table in its link."""
    row = _Row(board, started=started)
    row.end()
    row.canary = row.give()
    assert row.judge() == "waiting"
    assert row.looks(1.1, beating=False) == "late"
    row.restart(101)
    assert row.judge() == "late"
    row.head[sb.REVISION] = _REVISION
    assert row.judge() == "taken"


def test_what_kills_the_one_that_was_waited_for_is_seen_at_its_successor_too(board: Scoreboard) -> None:
    row = _Row(board)
    row.end()
    row.canary = row.give()
    row.restart(101)
    row.head[sb.TAKING] = _REVISION
    row.restart(102)
    assert row.judge() == "killed"


def test_what_the_one_that_was_waited_for_refuses_did_not_kill_it(board: Scoreboard) -> None:
    row = _Row(board)
    row.end()
    row.canary = row.give()
    row.restart(101)
    row.head[sb.BROKE_ON] = _REVISION
    assert row.judge() == "refused"


# Who


def _three(board: Scoreboard) -> None:
    for row in range(3):
        board.begin(row, 100 + row)
        board.head(row)[sb.HEARTBEAT_MS] = int(_NOW_S * 1000)
        board.head(row)[sb.ACCEPTING] = 1


def _choose(board: Scoreboard, turn: int = 0, *besides: int, only_live: bool = False) -> int | None:
    return choose(
        board, turn=turn, besides=besides, now_s=_NOW_S, only_live=only_live, alive=lambda pid: pid != 666
    )


def test_each_has_its_turn(board: Scoreboard) -> None:
    _three(board)
    assert [_choose(board, turn) for turn in range(4)] == [0, 1, 2, 0]
    assert _choose(board, 0, 0) == 1
    assert _choose(board, 0, 0, 1, 2) is None


def test_one_that_serves_comes_before_one_that_drains_and_that_before_one_that_is_gone(
    board: Scoreboard,
) -> None:
    _three(board)
    board.head(0)[sb.PID] = 666  # ended; its last heartbeat is young still
    board.head(1)[sb.DRAINING] = 1
    assert _choose(board) == 2
    assert _choose(board, 0, 2) == 1
    assert _choose(board, 0, 1, 2) == 0
    assert _choose(board, 0, 1, 2, only_live=True) is None
    board.head(2)[sb.HEARTBEAT_MS] -= 10_000
    assert _choose(board) == 1
    board.head(1)[sb.DRAINING] = board.head(1)[sb.ACCEPTING] = 0
    assert _choose(board) == 1, "one that does not accept yet is better than one that is silent"
