"""The table and the status, for a terminal or for a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click

from proxy.cli.local import printable

_COLUMNS: Final = (
    "service",
    "state",
    "address",
    "container",
    "task",
    "zone",
    "instance",
    "release",
    "reason",
)
_PROVENANCE: Final = ("source", "told")
_STYLES: Final = {"ready": "green", "draining": "yellow", "down": "red"}
_ORDER: Final = {"ready": 0, "draining": 1, "down": 2}


def print_table(rows: Sequence[Mapping[str, Any]], *, told: bool = False) -> None:
    """Print *rows* of the admin API: coloured on a terminal, else aligned plain text.

    With *told* it also says where they come from.
    """
    if not rows:
        click.echo("no task: the table is empty (`anyport status` says what each source knows)")
        return
    ordered = sorted(
        rows,
        key=lambda row: (
            str(row.get("service")),
            _ORDER.get(str(row.get("state")), 3),
            str(row.get("task_arn")),
        ),
    )
    columns = (*_COLUMNS, *_PROVENANCE) if told else _COLUMNS
    cells = [_cells(row, columns) for row in ordered]
    shown = [
        i
        for i, name in enumerate(columns)
        if name in ("service", "state", "address") or any(c[i] for c in cells)
    ]
    _print([columns[i] for i in shown], [[row[i] for i in shown] for row in cells])


def print_status(answer: Any) -> None:  # noqa: ANN401 - JSON of any shape
    """Print the status object of the admin API as indented lines."""
    for line in _lines(answer, 0):
        click.echo(line)


def _cells(row: Mapping[str, Any], columns: Iterable[str]) -> list[str]:
    task = str(row.get("task_arn", "")).rpartition("/")[2]
    container = str(row.get("container", ""))
    port = row.get("container_port")
    values = {
        **row,
        "task": task[:8] if len(task) == 32 else task,  # enough to tell tasks of one cluster apart
        "container": f"{container}:{port}" if port else container,
        "told": _told(row.get("told")),
    }
    return [printable(str(values.get(name) or "")) for name in columns]


def _told(words: Any) -> str:  # noqa: ANN401 - JSON of any shape
    found = [word for word in words if isinstance(word, dict)] if isinstance(words, list) else []
    return "; ".join(f"{word.get('by')}: {word.get('what')} ({word.get('at')})" for word in found)


def _print(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*header, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _lines(value: Any, depth: int) -> Iterable[str]:  # noqa: ANN401 - JSON of any shape
    pad = "  " * depth
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list) and item:
                yield f"{pad}{printable(str(key))}:"
                yield from _lines(item, depth + 1)
            else:
                yield f"{pad}{printable(str(key))}: {_scalar(item)}"
    elif isinstance(value, list):
        for item in value:
            inner = list(_lines(item, depth + 1))
            yield f"{pad}- {inner[0].strip()}" if inner else f"{pad}-"
            yield from inner[1:]
    else:
        yield f"{pad}{_scalar(value)}"


def _scalar(value: Any) -> str:  # noqa: ANN401 - JSON of any shape
    if value in ([], {}, None, ""):
        return "-"
    return ("no", "yes")[value] if isinstance(value, bool) else printable(str(value))
