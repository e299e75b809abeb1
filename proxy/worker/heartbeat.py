"""Shows on the scoreboard that the worker's loop runs, how smoothly, and how long it may stand still."""

from __future__ import annotations

from typing import Final

from proxy.link import scoreboard as sb
from proxy.link.cells import Cells
from proxy.settings import Timeouts

_WINDOW_S: Final = 15.0  # the longest stall is that of this window or the one before: no scrape misses it


class Heartbeat:
    """Beats once a tick into the *head* of the worker's row; the first at *now_s* (monotonic)."""

    def __init__(self, head: Cells, now_s: float) -> None:
        self._head = head
        self._window_since_s = now_s
        self._longest_us = 0
        self._longest_before_us = 0

    def beat(self, now_s: float, late_s: float, timeouts: Timeouts) -> None:
        """Note a beat that comes *late_s* after it was due."""
        head, late_us = self._head, max(0, int(late_s * 1e6))
        head[sb.HEARTBEAT_MS] = int(now_s * 1000)
        head[sb.DRAIN_MS] = int(timeouts.drain_s * 1000)
        head[sb.STALL_RESTART_MS] = int(timeouts.stall_restart_s * 1000)
        if late_us > sb.STALL_US:
            head[sb.STALLS] += 1
        if now_s - self._window_since_s > _WINDOW_S:
            self._window_since_s = now_s
            self._longest_before_us, self._longest_us = self._longest_us, 0
        self._longest_us = max(self._longest_us, late_us)
        head[sb.LOOP_LAG_MAX_US] = max(self._longest_us, self._longest_before_us)
