"""How many examples a property test tries: the same ones in every run, more of them on request."""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

# `TEST_EFFORT=20 make test ARGS=-k properties` tries twenty times as many, other ones in every run.
EFFORT: Final = int(os.environ.get("TEST_EFFORT", "1"))


def bounded(examples: int) -> settings:
    """Return settings for *examples* examples: the same ones every time, unless more is asked for."""
    return settings(
        max_examples=examples * EFFORT,
        deadline=None,
        derandomize=EFFORT == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
