"""How often this process may ask AWS: a share of what its whole account may.

AWS gives each account, in each Region, one token bucket for each category of calls ("Request throttling for
the Amazon ECS API", and its EC2 sister page). The console, deployments and every other tool draw from the
same buckets, so this process leaves the larger part to them. No I/O.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

START_SHARE: Final = 0.9  # until the first complete table: seconds in which nothing is served count more
_START_S: Final = 300.0  # but not for longer: a cluster that never answers is no reason to take it all
_RECOVERY_S: Final = 30.0  # from half the rate to the whole takes half as long; so it never comes to a stand
_ONE_CUT_S: Final = 1.0  # refusals this close together are one


class _Limit(NamedTuple):
    burst: float
    refill_per_s: float


_LIMITS: Final = {
    "cluster read": _Limit(50, 20),
    "cluster resource read": _Limit(100, 20),
    "service read": _Limit(100, 20),
    "task definition read": _Limit(50, 20),
    "ec2 read": _Limit(100, 20),
}
_CATEGORY: Final = {
    "ListClusters": "cluster read",
    "ListTasks": "cluster resource read",
    "DescribeTasks": "cluster resource read",
    "ListContainerInstances": "cluster resource read",
    "DescribeContainerInstances": "cluster resource read",
    "DescribeServices": "service read",
    "DescribeTaskDefinition": "task definition read",
    "DescribeInstances": "ec2 read",
}


class Refusals(NamedTuple):
    """A while in which AWS throttled calls of one category, now over."""

    category: str
    lasted_s: float
    calls: int


@dataclass(slots=True)
class _Bucket:
    limit: _Limit
    tokens: float
    at_s: float
    pace: float = 1.0  # of the rate that its share allows; less after refusals
    cut_s: float = 0.0  # when it was last made less
    since_s: float = 0.0  # when the present refusals began
    refusals: int = 0  # 0: none at present


class Budget:
    """The calls of all sources of one account and Region in this process.

    `share` of the burst and of the refill is theirs. `clock` is monotonic seconds.
    """

    def __init__(self, share: float = 0.5, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._starting: dict[object, float] = {}  # who, and since when
        self._buckets: dict[str, _Bucket] = {}

    @contextmanager
    def starting(self) -> Iterator[Callable[[], None]]:
        """Take more than the share until the function this gives is called, or five minutes have passed."""
        who = object()
        self._starting[who] = self._clock()

        def settled() -> None:
            self._starting.pop(who, None)

        try:
            yield settled
        finally:
            settled()

    @property
    def share(self) -> float:
        """The part of the account's budget that may be taken now."""
        now_s = self._clock()
        if any(now_s - since_s < _START_S for since_s in self._starting.values()):
            return max(self._share, START_SHARE)
        return self._share

    def reserve(self, operation: str) -> float:
        """Take one call of *operation*, and return how many seconds to wait before it may be made."""
        bucket = self._bucket(operation)
        bucket.tokens -= 1.0
        if bucket.tokens >= 0.0:
            return 0.0
        return -bucket.tokens / (bucket.limit.refill_per_s * self.share * bucket.pace)

    def refused(self, operation: str) -> str:
        """Halve the rate: AWS has throttled *operation*. Return its category if this is the first refusal."""
        bucket, now_s = self._bucket(operation), self._clock()
        bucket.refusals += 1
        bucket.tokens = min(bucket.tokens, 0.0)  # whatever was counted here, AWS has none left
        if bucket.refusals == 1:
            bucket.since_s = now_s
        elif now_s - bucket.cut_s < _ONE_CUT_S:
            return ""
        bucket.cut_s = now_s
        bucket.pace /= 2
        return category(operation) if bucket.refusals == 1 else ""

    def answered(self, operation: str) -> Refusals | None:
        """Take it that *operation* was not throttled; return the refusals before it if they are over."""
        bucket = self._bucket(operation)
        if not bucket.refusals or bucket.pace < 1.0:
            return None
        over = Refusals(category(operation), self._clock() - bucket.since_s, bucket.refusals)
        bucket.refusals = 0
        return over

    def _bucket(self, operation: str) -> _Bucket:
        """Return the bucket as it is now."""
        name, now_s, share = category(operation), self._clock(), self.share
        bucket = self._buckets.get(name)
        if bucket is None:
            limit = _LIMITS[name]
            bucket = self._buckets[name] = _Bucket(limit, limit.burst * share, now_s)
        passed_s = max(0.0, now_s - bucket.at_s)
        bucket.at_s = now_s
        bucket.pace = min(1.0, bucket.pace + passed_s / _RECOVERY_S)
        gained = passed_s * bucket.limit.refill_per_s * share * bucket.pace
        bucket.tokens = min(bucket.limit.burst * share, bucket.tokens + gained)
        return bucket


def category(operation: str) -> str:
    """Return the category of calls that *operation* is throttled with."""
    return _CATEGORY.get(operation, "cluster read")
