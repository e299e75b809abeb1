"""Request throttling of the ECS API: token buckets per account and Region, one per category.

Numbers from "Request throttling for the Amazon ECS API" and, for DescribeInstances, its EC2 sister page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple


class Limit(NamedTuple):
    burst: float
    refill_per_s: float


LIMITS: Final = {
    "cluster read": Limit(50, 20),
    "cluster modify": Limit(20, 1),
    "cluster resource read": Limit(100, 20),
    "cluster resource modify": Limit(100, 40),
    "service read": Limit(100, 20),
    "service modify": Limit(50, 5),
    "task definition read": Limit(50, 20),
    "task definition modify": Limit(20, 1),
    "tag read": Limit(50, 20),
    "tag modify": Limit(50, 5),
    "task protection": Limit(200, 80),
    "ec2 read": Limit(100, 20),
}

CATEGORY: Final = {
    "DescribeClusters": "cluster read",
    "ListClusters": "cluster read",
    "CreateCluster": "cluster modify",
    "DeleteCluster": "cluster modify",
    "DescribeTasks": "cluster resource read",
    "ListTasks": "cluster resource read",
    "DescribeContainerInstances": "cluster resource read",
    "ListContainerInstances": "cluster resource read",
    "RunTask": "cluster resource modify",
    "StartTask": "cluster resource modify",
    "StopTask": "cluster resource modify",
    "UpdateContainerInstancesState": "cluster resource modify",
    "DeregisterContainerInstance": "cluster resource modify",
    "DescribeServices": "service read",
    "ListServices": "service read",
    "CreateService": "service modify",
    "UpdateService": "service modify",
    "DeleteService": "service modify",
    "DescribeTaskDefinition": "task definition read",
    "ListTaskDefinitions": "task definition read",
    "ListTaskDefinitionFamilies": "task definition read",
    "RegisterTaskDefinition": "task definition modify",
    "DeregisterTaskDefinition": "task definition modify",
    "ListTagsForResource": "tag read",
    "TagResource": "tag modify",
    "UntagResource": "tag modify",
    "GetTaskProtection": "task protection",
    "UpdateTaskProtection": "task protection",
    "DescribeInstances": "ec2 read",
}


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class Throttle:
    """Who may call now. The clock is monotonic seconds and never sped up: clients pace in real time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def admit(self, operation: str) -> bool:
        """Take one token of the operation's category; False: throttled. Operations without one pass."""
        category = CATEGORY.get(operation)
        if category is None:
            return True
        limit, now_s = LIMITS[category], self._clock()
        bucket = self._buckets.setdefault(category, _Bucket(limit.burst, now_s))
        elapsed_s = max(0.0, now_s - bucket.at_s)
        bucket.tokens = min(limit.burst, bucket.tokens + elapsed_s * limit.refill_per_s)
        bucket.at_s = now_s
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True
