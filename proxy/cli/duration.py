"""Durations as people type them."""

from __future__ import annotations

import re
from typing import Any, Final

import click

_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """Return the seconds in "20s", "2m", "500ms", "1h" or "20"; raise `ValueError` for anything else."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f'"{text}" is not a duration such as 20s, 2m or 500ms')
    return float(found[1]) * _SECONDS[found[2]]


class Duration(click.ParamType[float]):
    """A duration option, positive or *or_none* at all; the command gets seconds."""

    name = "duration"

    def __init__(self, *, or_none: bool = False) -> None:
        self._or_none = or_none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's signature
        """Return *value* in seconds."""
        try:
            length_s = seconds(value) if isinstance(value, str) else float(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if length_s <= 0 and not self._or_none:
            self.fail("a duration is longer than nothing", param, ctx)
        return length_s
