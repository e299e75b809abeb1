"""What the table shows of where it comes from."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.cli.show import print_table

ROW: dict[str, Any] = {
    "service": "web", "state": "ready", "address": "10.0.0.1:32768", "task_arn": "t",
    "source": "ecs:prod",
    "told": [
        {"by": "events", "what": "RUNNING, version 3", "at": "2026-01-02T03:04:05.500Z"},
        {"by": "api", "what": "PENDING\x1b[2J", "at": "2026-01-02T03:04:04.000Z"},
    ],
}  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], *rows: dict[str, Any], told: bool) -> list[str]:
    print_table(rows, told=told)
    return capsys.readouterr().out.splitlines()


def test_who_told_what_is_shown_to_who_asks(capsys: pytest.CaptureFixture[str]) -> None:
    header, row = shown(capsys, ROW, told=True)
    assert header.split() == ["service", "state", "address", "task", "source", "told"]
    assert row.endswith(
        "ecs:prod  events: RUNNING, version 3 (2026-01-02T03:04:05.500Z); "
        "api: PENDING?[2J (2026-01-02T03:04:04.000Z)"
    )


def test_it_is_left_out_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    header, row = shown(capsys, ROW, told=False)
    assert header.split() == ["service", "state", "address", "task"]
    assert "ecs:prod" not in row


@pytest.mark.parametrize("told", [None, "x", 7, [], ["x", None], {"by": "api"}])
def test_an_anyport_that_says_it_differently_or_not_at_all(
    told: object, capsys: pytest.CaptureFixture[str]
) -> None:
    header, _ = shown(capsys, {**ROW, "told": told}, told=True)
    assert header.split() == ["service", "state", "address", "task", "source"]
