"""Finds workers whose loop stands still. For the supervisor: no library, no thread, a look now and then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from proxy.link import scoreboard as sb
from proxy.link.scoreboard import Scoreboard

LOOK_S: Final = 0.5  # between two looks


@dataclass(slots=True)
class _Stillness:
    beat: tuple[int, int] = (0, 0)  # process id and heartbeat at the last look
    for_s: float = 0.0


class Watchdog:
    """Measures how long the heartbeat of each worker has stood still.

    Time counts only as far as the supervisor itself came to look: after a suspended machine or a frozen
    container everybody is late, and nobody is at fault. A worker that has not beaten yet is still
    starting, which may take as long as it takes.
    """

    def __init__(self, board: Scoreboard, now_s: float) -> None:
        self._board = board
        self._looked_s = now_s
        self._rows = [_Stillness() for _ in range(board.rows)]

    def look(self, now_s: float, running: Mapping[int, int]) -> dict[int, float]:
        """Return the rows that have stood still for too long, with the seconds beyond what is allowed.

        *running* has the process id of the worker in each row that has one.
        """
        passed_s = min(now_s - self._looked_s, 2 * LOOK_S)
        self._looked_s = now_s
        overdue: dict[int, float] = {}
        for row, pid in running.items():
            head, still = self._board.head(row), self._rows[row]
            beat = (head[sb.PID], head[sb.HEARTBEAT_MS])
            if beat != still.beat or beat[0] != pid or not beat[1]:
                still.beat, still.for_s = beat, 0.0
                continue
            still.for_s += passed_s
            beyond_s = still.for_s - head[sb.STALL_RESTART_MS] / 1000
            if beyond_s >= 0:
                overdue[row] = beyond_s
        return overdue
