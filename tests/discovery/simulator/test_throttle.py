"""The token buckets of the ECS API."""

from discovery.simulator.operations import OPERATIONS
from discovery.simulator.throttle import CATEGORY, LIMITS, Throttle


def test_burst_then_refill() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    assert sum(throttle.admit("DescribeTasks") for _ in range(150)) == 100
    now[0] += 1.0
    assert sum(throttle.admit("DescribeTasks") for _ in range(150)) == 20
    now[0] += 3600.0  # never more than the burst
    assert sum(throttle.admit("DescribeTasks") for _ in range(150)) == 100


def test_operations_of_one_category_share_a_bucket() -> None:
    throttle = Throttle(lambda: 0.0)
    assert sum(throttle.admit("ListTasks") for _ in range(60)) == 60
    assert sum(throttle.admit("DescribeContainerInstances") for _ in range(60)) == 40
    assert throttle.admit("DescribeServices")


def test_every_operation_has_a_category() -> None:
    assert set(OPERATIONS) <= set(CATEGORY)
    assert set(CATEGORY.values()) == set(LIMITS)


def test_what_has_no_category_passes() -> None:
    throttle = Throttle(lambda: 0.0)
    assert all(throttle.admit("ReceiveMessage") for _ in range(1000))
