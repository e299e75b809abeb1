"""The demo as a live screen: the table anyport routes by, the numbers, and what happened last."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from proxy.demo.table import Row
from proxy.demo.view import Event, View

_STATE_STYLE: Final = {"ready": "green", "draining": "yellow", "down": "red"}
_EVENT_STYLE: Final = {
    "story": "bold cyan",
    "table": "",
    "failed": "bold red",
    "excused": "yellow",
    "note": "magenta",
}
_COLUMNS: Final = (
    ("service", 8),
    ("task", 8),
    ("container port -> host port", 27),
    ("instance", 8),
    ("zone", 10),
    ("release", 8),
)
_FIXED_LINES: Final = 8  # the two panels' frames, the numbers, the addresses, the table's head
_EVENTS_AT_LEAST: Final = 6


class ScreenReporter:
    """Draws the whole screen on each refresh; the terminal is as before when it ends."""

    def __init__(self, view: View, console: Console) -> None:
        self._view, self._console = view, console
        # The alternate screen: redrawn in place from the top, so nothing scrolls and nothing flickers.
        self._live = Live(console=console, screen=True, auto_refresh=False, transient=True)

    def __enter__(self) -> ScreenReporter:
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.__exit__(None, None, None)

    def event(self, event: Event) -> None:
        """Nothing to do: the next refresh shows it."""

    def refresh(self) -> None:
        width, height = self._console.size
        self._live.update(render(self._view, width, height), refresh=True)


def render(view: View, width: int, height: int) -> RenderableType:
    """Return the screen for a terminal of *width* x *height* characters."""
    room = max(1, height - _FIXED_LINES - _EVENTS_AT_LEAST)
    rows = sorted(view.rows, key=lambda row: (row.service, row.release, row.task_arn))
    hidden = max(0, len(rows) - room)
    shown = rows[: room - 1] if hidden else rows
    table = _table(view, shown)
    if hidden:
        table.add_row("...", "", f"{len(rows) - len(shown)} more", style="dim")
    lines = max(1, height - _FIXED_LINES - min(len(rows), room))
    return Group(_numbers(view, width), table, _events(view, lines))


def _numbers(view: View, width: int) -> RenderableType:
    score = view.score
    recent = score.recent_latency()
    clock = f"{view.elapsed_s:.0f} s" + (f" of {view.for_s:g} s" if view.for_s is not None else "")
    failed = len(score.failures)
    numbers = Text.assemble(
        (f"{score.rate():.0f}", "bold"),
        " requests/s   ",
        (f"{failed} failed", "bold red" if failed else "bold green"),
        f" of {score.requests}   p50 {recent.percentile_s(50) * 1e3:.1f} ms"
        f"   p99 {recent.percentile_s(99) * 1e3:.1f} ms   {score.sockets} WebSockets",
        no_wrap=True,
        overflow="ellipsis",
    )
    happened = Text.assemble(
        f"{view.deploys} deploys   {view.kills} kills   {view.replacements} task replacements   ",
        (view.where_to_look()[0], "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )
    return Panel(
        Group(numbers, happened),
        title=f"[bold]anyport[/] on {view.url}",
        subtitle=f"{clock} - Ctrl-C ends",
        box=box.ROUNDED,
        width=width,
    )


def _table(view: View, rows: list[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), pad_edge=False, show_edge=False)
    # The last column takes what is left, so that a long reason never squeezes the others.
    for name, width in _COLUMNS:
        table.add_column(name, width=width, no_wrap=True, overflow="ellipsis")
    table.add_column("state", ratio=1, no_wrap=True, overflow="ellipsis")
    for row in rows:
        # Why a task drains is in the events: the story stopped it.
        state = f"{row.state}: {row.reason}" if row.state == "down" and row.reason else row.state
        table.add_row(
            row.service,
            row.task,
            f"{row.container_port} -> {row.address}",
            row.instance[-8:],
            row.zone,
            view.release_of(row.task_arn) or row.release[-6:],
            Text(state, style=_STATE_STYLE.get(row.state, "")),
        )
    return table


def _events(view: View, lines: int) -> RenderableType:
    text = Text("\n", no_wrap=True, overflow="ellipsis").join(
        Text(event.line(), style=_EVENT_STYLE[event.kind]) for event in view.events[-lines:]
    )
    text.no_wrap, text.overflow = True, "ellipsis"
    return Panel(text, title="events", title_align="left", box=box.ROUNDED, height=lines + 2)
