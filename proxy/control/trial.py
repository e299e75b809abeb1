"""One worker tries each new table before the others get it: who, and what came of it. Reads, never writes.

A table that kills the worker that takes it must not kill them all. A worker says on the scoreboard which
table it is taking, and which one it refused or its predecessor was taking when it ended: so a death that has
nothing to do with the table is told apart from one that has. No two trials have the same revision.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Final, Literal

from proxy.link import scoreboard as sb
from proxy.link.scoreboard import Scoreboard

Outcome = Literal[
    "taken",  # it routes by this table
    "waiting",
    "late",  # it has not taken it for a second, and still lives
    "lost",  # it ended, of something else
    "killed",  # it ended while it took the table
    "stalled",  # it stands still over the table
    "refused",  # it cannot read the table, or failed over it
]
FAILURES: Final[Collection[Outcome]] = ("killed", "stalled", "refused")

LIVE_S: Final = 3.0  # since its last heartbeat
_STALL_S: Final = 1.0
_LATE_S: Final = 1.0
# Time counts only as far as the control process itself came to look: on a machine that was suspended, or is
# short of time, everybody is late, and no table is at fault.
_STEP_S: Final = 0.05


def is_alive(pid: int) -> bool:
    """Return whether there is a process *pid*."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def beats(head: memoryview[int], now_s: float) -> bool:
    """Return whether a worker has shown a sign of life lately."""
    return bool(head[sb.PID]) and now_s - head[sb.HEARTBEAT_MS] / 1000 < LIVE_S


def choose(
    board: Scoreboard,
    *,
    turn: int,
    besides: Collection[int],
    now_s: float,
    only_live: bool = False,
    alive: Callable[[int], bool] = is_alive,
) -> int | None:
    """Return the row of the worker to try a table next; None if there is none besides those.

    One that serves, else one that lives, else, unless *only_live*, one that is still to start. *turn* makes
    it another one each time.
    """
    rows = [(turn + n) % board.rows for n in range(board.rows)]
    rows = [row for row in rows if row not in besides]

    def rank(row: int) -> int:
        head = board.head(row)
        if not beats(head, now_s) or not alive(head[sb.PID]):
            return 2
        return 1 if head[sb.DRAINING] or not head[sb.ACCEPTING] else 0

    found = min(rows, key=rank, default=None)
    return None if found is None or (only_live and rank(found) == 2) else found


class Canary:
    """A worker that has been given a table before the others."""

    def __init__(
        self,
        board: Scoreboard,
        row: int,
        revision: int,
        *,
        now_s: float,
        alive: Callable[[int], bool] = is_alive,
    ) -> None:
        self.row = row
        self._head = board.head(row)
        self._revision = revision
        self._alive = alive
        pid = self._head[sb.PID]
        self._former = pid  # of one that has ended; what waits in its link its successor takes first
        self._pid = pid if pid and alive(pid) else 0  # 0: none yet
        self._starts = self._head[sb.STARTS]
        self._beat = self._head[sb.HEARTBEAT_MS]
        self._looked_s = now_s
        self._still_s = 0.0
        self._waited_s = 0.0

    def judge(self, now_s: float) -> Outcome:
        """Return what has come of it by *now_s*."""
        head, revision = self._head, self._revision
        step_s, self._looked_s = min(now_s - self._looked_s, _STEP_S), now_s
        pid = head[sb.PID]
        if not self._pid and pid != self._former:
            self._pid = pid
            if head[sb.BROKE_ON] == revision:
                return "refused" if head[sb.STARTS] == self._starts + 1 else "killed"
        if self._pid and pid != self._pid:
            return "killed" if head[sb.BROKE_ON] == revision else "lost"
        if self._pid and head[sb.REVISION] >= revision:
            return "taken"
        if self._pid and not self._alive(pid):
            # In this order: a successor that begins meanwhile writes the second before it clears the first.
            return "killed" if revision in (head[sb.TAKING], head[sb.BROKE_ON]) else "lost"
        if self._pid and head[sb.BROKE_ON] == revision:
            return "refused"
        self._waited_s += step_s
        beat = head[sb.HEARTBEAT_MS]
        if beat != self._beat:
            self._beat, self._still_s = beat, 0.0
        else:
            self._still_s += step_s
        if head[sb.TAKING] == revision and self._still_s >= _STALL_S and beat:
            return "stalled"
        return "late" if self._waited_s >= _LATE_S else "waiting"
