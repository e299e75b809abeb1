"""The part of the account's API budget that is ours, and what happens when AWS says no."""

from __future__ import annotations

import pytest

from discovery.ecs.aws.budget import Budget
from discovery.simulator.throttle import LIMITS, Throttle


class Time:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


def spend(budget: Budget, time: Time, calls: int, operation: str = "ListTasks") -> float:
    """Make so many calls one after another; return how long they had to wait."""
    began_s = time.now_s
    for _ in range(calls):
        time.now_s += budget.reserve(operation)
    return time.now_s - began_s


@pytest.mark.parametrize(
    ("operation", "burst", "refill_per_s"),
    [
        ("ListTasks", 100, 20),
        ("DescribeTasks", 100, 20),
        ("DescribeTaskDefinition", 50, 20),
        ("DescribeServices", 100, 20),
        ("ListClusters", 50, 20),
        ("DescribeInstances", 100, 20),
    ],
)
def test_half_of_burst_and_refill_is_ours(
    time: Time, operation: str, burst: float, refill_per_s: float
) -> None:
    budget = Budget(0.5, clock=time)

    assert spend(budget, time, int(burst / 2), operation) == 0.0
    assert spend(budget, time, 30, operation) == pytest.approx(30 / (refill_per_s / 2))


def test_calls_of_one_category_share_and_others_do_not(time: Time) -> None:
    budget = Budget(0.5, clock=time)
    spend(budget, time, 50, "ListTasks")

    assert budget.reserve("DescribeContainerInstances") > 0.0
    assert budget.reserve("DescribeTaskDefinition") == 0.0


def test_callers_that_wait_at_once_wait_one_behind_the_other(time: Time) -> None:
    budget = Budget(0.5, clock=time)
    spend(budget, time, 50)

    assert [budget.reserve("ListTasks") for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_more_is_taken_until_the_first_table_but_not_for_ever(time: Time) -> None:
    budget = Budget(0.5, clock=time)

    with budget.starting() as settled, budget.starting():
        assert spend(budget, time, 90) == 0.0
        assert spend(budget, time, 18) == pytest.approx(1.0)
        settled()
        assert budget.share == 0.9, "another cluster of the account still starts"
        time.now_s += 301
        assert budget.share == 0.5
    assert budget.share == 0.5


def test_share_above_that_of_the_start_is_kept(time: Time) -> None:
    budget = Budget(1.0, clock=time)
    with budget.starting():
        assert budget.share == 1.0


def test_a_refusal_halves_the_rate_and_time_restores_it(time: Time) -> None:
    budget = Budget(0.5, clock=time)

    assert budget.refused("ListTasks") == "cluster resource read"
    assert budget.refused("DescribeTasks") == "", "what was on its way at the same time is the same refusal"
    assert budget.reserve("ListTasks") == pytest.approx(1 / 5), "none left, and half of 10 per second"
    assert budget.answered("ListTasks") is None, "one good answer does not end it"
    time.now_s += 40
    over = budget.answered("ListTasks")

    assert over == ("cluster resource read", 40.0, 2)
    assert budget.answered("ListTasks") is None, "said once"
    assert spend(budget, time, 50) == 0.0


def test_refusals_in_one_moment_count_once_and_more_go_further_down(time: Time) -> None:
    budget = Budget(0.5, clock=time)

    said = []
    for _ in range(20):
        said += [budget.refused("ListTasks"), budget.refused("DescribeTasks")]
        time.now_s += 1.1
    assert said == ["cluster resource read", *[""] * 39], "one line per episode"
    time.now_s -= 1.1
    assert 1.0 < budget.reserve("ListTasks") < 5.0, "slow, and never at a stand"


def test_other_categories_keep_their_rate(time: Time) -> None:
    budget = Budget(0.5, clock=time)
    budget.refused("ListTasks")

    assert budget.reserve("DescribeTaskDefinition") == 0.0


def test_a_patient_client_is_never_throttled_by_the_simulated_account(time: Time) -> None:
    """Its numbers come from the same pages, and half of them leaves room for somebody else's."""
    budget, aws = Budget(0.5, clock=time), Throttle(time)
    for operation in ("ListTasks", "DescribeTaskDefinition", "DescribeServices", "DescribeInstances"):
        for _ in range(300):
            time.now_s += budget.reserve(operation)
            assert aws.admit(operation)
    others = sum(aws.admit("ListTasks") for _ in range(100))
    assert others >= LIMITS["cluster resource read"].burst / 2
