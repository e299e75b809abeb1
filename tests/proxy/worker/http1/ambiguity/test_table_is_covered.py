"""Each row of the table of ambiguities has a test that bears its name, and a line in the manual."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kit import desync, desync_bodies

_HERE = Path(__file__).parent
_MANUAL = Path(__file__).parents[5] / "docs" / "http.md"
# S53 is about the way from HTTP/2 to HTTP/1.1, and HTTP/2 is not spoken here.
_ROWS = [f"S{number}" for number in range(1, 55) if number != 53]


def _named() -> set[str]:
    cases = [*desync.REFUSED, *desync_bodies.REFUSED, *desync_bodies.ACCEPTED]
    rows = {name.split()[0] for name in cases}
    for file in _HERE.glob("test_*.py"):
        for function in re.findall(r"^def test_((?:s\d+_)+)", file.read_text(), re.MULTILINE):
            rows |= {row.upper() for row in re.findall(r"s\d+", function)}
    return rows


@pytest.mark.parametrize("row", _ROWS)
def test_every_row_has_a_test(row: str) -> None:
    assert row in _named()


@pytest.mark.parametrize("row", _ROWS)
def test_every_row_has_a_line_in_the_manual(row: str) -> None:
    """An operator who sees a 400 finds the rule behind it."""
    listed: set[int] = set()
    for cell in re.findall(r"^\| ((?:S\d+(?:-S\d+)?(?:, )?)+) \|", _MANUAL.read_text(), re.MULTILINE):
        for first, last in re.findall(r"S(\d+)(?:-S(\d+))?", cell):
            listed |= set(range(int(first), int(last or first) + 1))
    assert int(row[1:]) in listed
