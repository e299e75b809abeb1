"""How fast the body of a request arrives."""

from __future__ import annotations

from proxy.settings import WorkerSettings


class BodyProgress:
    """Made for a body that has not come with its head; knows when its client is too slow.

    A client that sends one byte now and then never falls silent, and yet holds a connection, a task's
    too. The time in which we do not read, because the task is behind, is not the client's.
    """

    __slots__ = ("_paused_at_s", "_since_s")

    def __init__(self) -> None:
        self._since_s = 0.0  # its first byte, moved on by every pause
        self._paused_at_s = 0.0

    def too_slow(self, now_s: float, received_bytes: int, settings: WorkerSettings) -> bool:
        """Return whether the *received_bytes* so far are fewer than the settings ask for by now."""
        if not self._since_s:
            self._since_s = now_s
        elapsed_s = now_s - self._since_s
        if elapsed_s <= settings.timeouts.request_body_grace_s:
            return False
        return received_bytes < settings.limits.request_body_bytes_per_s * elapsed_s

    def pause(self, now_s: float) -> None:
        self._paused_at_s = now_s

    def resume(self, now_s: float) -> None:
        if self._since_s:
            self._since_s += now_s - self._paused_at_s
