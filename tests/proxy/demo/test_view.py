"""What is shown: changes of the table, plain lines, and the screen at its size."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from proxy.demo.plain import PlainReporter
from proxy.demo.screen import ScreenReporter, render
from proxy.demo.table import Row, changes, read, ready
from proxy.demo.tally import Histogram, Score, Tick
from proxy.demo.view import Event, View

ROW = Row(
    service="web",
    task_arn="arn:aws:ecs:eu-west-1:111122223333:task/demo/1a2b3c4d5e6f708192a3b4c5d6e7f809",
    container="app",
    container_port=8080,
    address="127.0.1.1:32768",
    state="ready",
    reason="",
    zone="eu-west-1a",
    instance="i-0123456789abcdef0",
    release="ecs-svc/4494157735923160523",
)


def rows(count: int) -> tuple[Row, ...]:
    return tuple(replace(ROW, task_arn=f"arn:x/{number:032x}") for number in range(count))


def view(table: tuple[Row, ...] = (), events: int = 0) -> View:
    score = Score()
    latency = Histogram()
    latency.add(0.002)
    for second in range(5):
        score.tick(Tick(requests=250, sockets=12, latency=latency.buckets), float(second))
    return View(
        url="http://127.0.0.1:8080",
        metrics_url="http://127.0.0.1:9180",
        admin_url="http://127.0.0.1:9181",
        hosts=("web.demo.localhost",),
        score=score,
        release_of=lambda arn: "web:3",
        for_s=60.0,
        elapsed_s=12.3,
        rows=table,
        events=[Event(float(number), f"event number {number} " + "x" * 120) for number in range(events)],
    )


def test_rows_are_read_from_the_admin_api_whatever_else_it_says() -> None:
    fields = {name: getattr(ROW, name) for name in Row.__dataclass_fields__}
    assert read([{**fields, "revision": 7, "new": "field"}]) == (ROW,)
    assert ROW.task == "1a2b3c4d"


def test_ready_are_the_tasks_of_one_service_that_take_new_requests() -> None:
    other = replace(ROW, service="api", task_arn="arn:x/2")
    gone = replace(ROW, state="draining", task_arn="arn:x/3")
    assert ready([ROW, other, gone], "web") == {ROW.task_arn}


def test_changes_are_one_line_per_service() -> None:
    new = replace(ROW, task_arn="arn:x/22222222ffff", address="127.0.1.2:32769", state="down")
    api = replace(ROW, service="api", task_arn="arn:x/33333333ffff")
    assert changes([ROW, api], [replace(ROW, state="draining"), new]) == [
        "api: - 33333333 gone",
        "web: 1a2b3c4d ready -> draining, + 22222222 down on 127.0.1.2:32769",
    ]
    assert changes([ROW], [ROW]) == []


def test_plain_lines_are_events_and_a_status_every_two_seconds() -> None:
    lines: list[str] = []
    shown = view(rows(2))
    with PlainReporter(shown, lines.append) as reporter:
        for quarter in range(17):
            shown.elapsed_s = quarter / 4
            reporter.refresh()
        reporter.event(Event(4.2, "KILL -9 web task 1a2b3c4d"))
    assert len(lines) == 4
    assert "250 requests/s  0 failed" in lines[0]
    assert "12 WebSockets" in lines[0]
    assert "2 ready, 0 draining, 0 down" in lines[0]
    assert lines[-1] == "   4.2s  KILL -9 web task 1a2b3c4d"


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (60, 15), (200, 60)])
@pytest.mark.parametrize("tasks", [0, 7, 14, 100])
def test_the_screen_fits_the_terminal_exactly_or_in_less(width: int, height: int, tasks: int) -> None:
    console = Console(file=StringIO(), width=width, height=height, force_terminal=False)
    with console.capture() as capture:
        console.print(render(view(rows(tasks), events=50), width, height))
    lines = capture.get().rstrip("\n").split("\n")
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    if (width, height) == (100, 30):
        text = "\n".join(lines)
        assert "event number 49" in text, "the newest event is always in sight"
        for word in ("250 requests/s", "0 failed", "p50", "p99", "12 WebSockets"):
            assert word in text
        if tasks:
            assert "8080 -> 127.0.1.1:32768" in text
            assert "web:3" in text
        if tasks == 100:
            assert "more" in text


def test_the_live_screen_leaves_the_terminal_as_it_was() -> None:
    out = StringIO()
    console = Console(file=out, width=100, height=30, force_terminal=True)
    shown = view(rows(3), events=3)
    with ScreenReporter(shown, console) as reporter:
        reporter.event(shown.events[0])
        reporter.refresh()
    assert out.getvalue().startswith("\x1b[?1049h")
    assert "\x1b[?1049l" in out.getvalue()


def test_a_long_reason_squeezes_no_other_column() -> None:
    console = Console(file=StringIO(), width=100, height=30)
    down = replace(ROW, state="down", reason="the health check GET /health was answered with HTTP 503 " * 3)
    with console.capture() as capture:
        console.print(render(view((down,)), 100, 30))
    for word in ("1a2b3c4d", "8080 -> 127.0.1.1:32768", "9abcdef0"[-8:], "eu-west-1a", "web:3", "down: the"):
        assert word in capture.get()
