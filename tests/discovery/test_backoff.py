"""What has failed is tried again soon at first, and then ever later."""

from __future__ import annotations

import random

from discovery.backoff import retry_delay_s


def test_retries_start_soon_and_end_at_a_minute() -> None:
    rng = random.Random(1)
    delays = [retry_delay_s(failures, rng) for failures in range(1, 40)]

    assert delays[0] <= 0.5
    assert all(delay <= 60.0 for delay in delays)
    assert min(delays[10:]) >= 30.0
    assert len(set(delays)) == len(delays)
