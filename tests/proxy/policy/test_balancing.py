"""Power of two choices: fair, cheap, and away from what has just refused."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.link.cells import Cells
from proxy.policy.backends import Backend, Service
from proxy.policy.balancing import pick, pick_another
from tests.kit.workers import backend

SERVICE = Service("web", 1, Cells(memoryview(bytearray(8 * 128)).cast("q")))


def ready(count: int, **row: object) -> tuple[Backend, ...]:
    return tuple(Backend(replace(backend(i + 1), **row), SERVICE) for i in range(count))  # type: ignore[arg-type]


def test_equal_backends_get_equal_shares() -> None:
    """Every pair is equally likely, so no position in the list is preferred."""
    backends = ready(5)
    rng = random.Random(7)
    shares = Counter(pick(backends, 0.0, rng.random).port for _ in range(20_000))
    assert all(abs(share - 4_000) < 400 for share in shares.values())


def test_requests_spread_by_load_not_by_number() -> None:
    """Taken but never finished, they differ by a few at most: two choices keep the fullest near the mean."""
    backends = ready(10)
    rng = random.Random(7)
    for _ in range(10_000):
        pick(backends, 0.0, rng.random).in_flight += 1
    loads = [b.in_flight for b in backends]
    assert max(loads) - min(loads) <= 8


def test_a_stuck_backend_gets_almost_nothing() -> None:
    """Its requests stay in flight; the others' end at once. It loses every comparison."""
    backends = ready(3)
    backends[0].in_flight = 50
    rng = random.Random(7)
    shares = Counter(pick(backends, 0.0, rng.random).port for _ in range(3_000))
    assert shares[backends[0].port] == 0


def test_the_newcomer_is_not_run_over() -> None:
    """Least-loaded of all would send it every request; of two it gets at most its pairs' share."""
    backends = ready(10)
    for old in backends[1:]:
        old.in_flight = 20
    rng = random.Random(7)
    shares = Counter(pick(backends, 0.0, rng.random).port for _ in range(5_000))
    assert 0.15 < shares[backends[0].port] / 5_000 < 0.25


def test_who_has_just_refused_is_a_last_resort() -> None:
    """It loses against any load; between two such the longer ago wins, and alone it is asked again."""
    backends = ready(2)
    backends[0].suspect_until_s = 10.0
    backends[1].in_flight = 1_000
    rng = random.Random(7)
    assert {pick(backends, 9.0, rng.random) for _ in range(50)} == {backends[1]}
    assert {pick(backends, 10.0, rng.random) for _ in range(50)} == {backends[0]}
    backends[1].suspect_until_s = 9.5
    assert {pick(backends, 9.0, rng.random) for _ in range(50)} == {backends[1]}
    assert pick(backends[:1], 9.0, rng.random) is backends[0]


@given(st.integers(1, 6), st.floats(0, 0.999999), st.floats(0, 0.999999))
def test_any_randomness_picks_one_of_them(count: int, first: float, second: float) -> None:
    """Also at the ends of the interval."""
    numbers = iter([first, second])
    backends = ready(count)
    assert pick(backends, 0.0, lambda: next(numbers)) in backends


def test_a_further_attempt_goes_to_another_one_and_rather_to_another_instance() -> None:
    """Tasks of one instance die together."""
    here, there = ready(2, instance="i-1"), ready(2, instance="i-2")
    rng = random.Random(7)
    everyone = here + there
    assert {pick_another(everyone, here[:1], 0.0, rng.random) for _ in range(50)} == set(there)
    assert pick_another(here, here[:1], 0.0, rng.random) is here[1]
    assert pick_another(everyone, everyone, 0.0, rng.random) is None
    assert pick_another([], [], 0.0, rng.random) is None


def test_a_further_attempt_prefers_a_ready_one() -> None:
    """A draining task is better than none, not better than another."""
    steady, leaving = ready(2), ready(2, draining=True)
    rng = random.Random(7)
    everyone = steady + leaving
    assert {pick_another(everyone, steady[:1], 0.0, rng.random) for _ in range(50)} == {steady[1]}
    assert pick_another(everyone, steady, 0.0, rng.random) in leaving
