"""The demo as plain lines, for a log or a pipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from proxy.demo.view import Event, View

_STATUS_EVERY_S: Final = 2.0


class PlainReporter:
    """A line for each event, and the numbers every two seconds."""

    def __init__(self, view: View, write: Callable[[str], None]) -> None:
        self._view, self._write = view, write
        self._next_s = 0.0

    def __enter__(self) -> PlainReporter:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def event(self, event: Event) -> None:
        self._write(event.line())

    def refresh(self) -> None:
        if self._view.elapsed_s >= self._next_s:
            self._next_s = self._view.elapsed_s + _STATUS_EVERY_S
            self._write(Event(self._view.elapsed_s, self._view.status()).line())
