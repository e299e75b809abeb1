"""Which ready task takes a request that belongs to no session."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.policy.backends import Backend


def pick(ready: tuple[Backend, ...], now_s: float, random: Callable[[], float]) -> Backend:
    """Return the less loaded of two random backends of *ready*, which is not empty.

    Power of two choices: O(1), and no herd on a new or a fast-failing task. A backend that has just
    refused a connection loses against any other one.
    """
    count = len(ready)
    if count == 1:
        return ready[0]
    first = int(random() * count)
    # The second from the others, so that every pair is equally likely.
    second = int(random() * (count - 1))
    if second >= first:
        second += 1
    a, b = ready[first], ready[second]
    if a.suspect_until_s > now_s or b.suspect_until_s > now_s:
        return a if a.suspect_until_s < b.suspect_until_s else b
    return a if a.in_flight <= b.in_flight else b


def pick_another(
    answering: Sequence[Backend], tried: Sequence[Backend], now_s: float, random: Callable[[], float]
) -> Backend | None:
    """Return a backend of *answering* for a further attempt, or None if all of them have been tried.

    Rather a ready one than one that drains, then rather one on another instance: where one dial was
    refused, the instance's other tasks are likely to refuse too (they die together).
    """
    untried = [b for b in answering if b not in tried]
    choice = [b for b in untried if b.ready] or untried
    if not choice:
        return None
    instances = {b.row.instance for b in tried if b.row.instance}
    elsewhere = [b for b in choice if b.row.instance not in instances]
    return pick(tuple(elsewhere or choice), now_s, random)
