"""What there is to see of a running demo, and the two ways to tell it share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from proxy.demo.table import Row
from proxy.demo.tally import Score


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, at *at_s* seconds after the users began."""

    at_s: float
    text: str
    kind: str = "story"  # or "table", "failed", "excused", "note"

    def line(self) -> str:
        return f"{self.at_s:6.1f}s  {self.text}"


@dataclass(slots=True)
class View:
    """Everything a reporter shows; kept up to date by the demo."""

    url: str  # the fixed port
    metrics_url: str
    admin_url: str
    hosts: tuple[str, ...]
    score: Score
    release_of: Callable[[str], str]  # a task's ARN -> "web:3"
    for_s: float | None = None
    elapsed_s: float = 0.0
    rows: tuple[Row, ...] = ()
    deploys: int = 0
    kills: int = 0
    replacements: int = 0
    events: list[Event] = field(default_factory=list)

    def status(self) -> str:
        """Return the numbers of this moment in one line."""
        recent = self.score.recent_latency()
        states = [row.state for row in self.rows]
        return (
            f"{self.score.rate():5.0f} requests/s  {len(self.score.failures)} failed"
            f"  p50 {recent.percentile_s(50) * 1e3:.1f} ms  p99 {recent.percentile_s(99) * 1e3:.1f} ms"
            f"  {self.score.sockets} WebSockets"
            f"  tasks: {states.count('ready')} ready, {states.count('draining')} draining, "
            f"{states.count('down')} down"
        )

    def where_to_look(self) -> Sequence[str]:
        """Return the lines that invite to join the users."""
        return (
            f"curl -H 'Host: {self.hosts[0]}' {self.url}/",
            f"curl {self.metrics_url}/metrics",
            f"anyport table --url {self.admin_url}",
        )


class Reporter(Protocol):
    """Shows a demo while it runs; used as a context manager around it."""

    def __enter__(self) -> Reporter: ...

    def __exit__(self, *exc: object) -> None: ...

    def event(self, event: Event) -> None:
        """Show something that happened; it is in the view's events already."""
        ...

    def refresh(self) -> None:
        """Show the view as it is now; called four times a second."""
        ...
