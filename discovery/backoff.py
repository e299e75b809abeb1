"""How long to wait before something that has failed is tried again. Pure."""

from __future__ import annotations

import random
from typing import Final

_BACKOFF_MAX_S: Final = 60.0
_FIRST_RETRY_S: Final = 0.5


def retry_delay_s(failures: int, rng: random.Random) -> float:
    """Return how long to wait after so many failures in a row: half a second at first, at most a minute."""
    longest = min(_FIRST_RETRY_S * 2.0 ** min(failures - 1, 10), _BACKOFF_MAX_S)
    return rng.uniform(0.5, 1.0) * longest
