"""Durations, counted by how long they were."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

BOUNDS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, math.inf)


@dataclass(slots=True)
class Histogram:
    """Written by who measures, read by metrics."""

    counts: list[int] = field(default_factory=lambda: [0] * len(BOUNDS_S))  # by bound; not summed up
    sum_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration. One below zero, as two clocks may have it, is none at all."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, how many were no longer), as Prometheus has it."""
        names = [*(f"{bound:g}" for bound in BOUNDS_S[:-1]), "+Inf"]
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))
