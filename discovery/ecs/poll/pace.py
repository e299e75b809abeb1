"""When to ask the API, and how much: often, or seldom while others tell of each change. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

_SHORTEST_PAUSE: Final = 0.1  # of the interval, between the end of one question and the next
_JITTER: Final = (0.8, 1.0)  # only ever sooner, so that a change is seen within one interval
# While each change is told as it happens, polling only finds what was lost on the way.
_AUDIT_EVERY_S: Final = 60.0
_AUDIT_S_PER_CALL: Final = 10.0
_POLL_EVERY_S: Final = 300.0
_POLL_S_PER_CALL: Final = 60.0
_DEPLOYMENT_S_PER_CALL: Final = 1.0
_HURRY_S_PER_CALL: Final = 0.5
_COSTLY: Final = 50  # calls of a poll, from which on an audit is worth being made before it
_LARGE_S_PER_CALL: Final = 0.1  # a large cluster is not polled more often than its account can bear

Job = Literal["poll", "audit", "look"]


class Plan(NamedTuple):
    """What to ask next, and when."""

    job: Job
    at_s: float


@dataclass(slots=True, kw_only=True)
class Pace:
    """What was asked when, and what it cost. Times are those of one monotonic clock.

    A *poll* looks at every task. An *audit* looks at how many tasks each instance has, and at the tasks of
    those instances only where that is not what is known. A *look* describes the tasks that are in doubt.
    """

    interval_s: float
    confirm_s: float
    jitter: float = 1.0
    polled_s: float | None = None  # when the last poll that was answered began; None: never
    poll_calls: int = 1
    poll_took_s: float = 0.0
    audited_s: float = 0.0  # when the last poll or audit that was answered began
    audit_calls: int = 1
    looked_s: float = 0.0  # when the last look of any kind began
    ended_s: float = 0.0  # and when the last one ended

    def next(self, *, eased: bool, deploying: bool, hurried: bool, in_doubt: bool, doubted: bool) -> Plan:
        """Return what to do next, and when.

        *eased*: others tell of each change; *deploying*: a deployment is going on; *hurried*: somebody
        wants to know soon; *in_doubt*: tasks have been named that may be gone; *doubted*: an answer has
        lacked tasks and waits to be confirmed.
        """
        soon_s = self.look().at_s
        if self.polled_s is None:
            return Plan("poll", 0.0)
        plans = [Plan("poll", max(soon_s, self.polled_s + self._poll_every_s(eased=eased)))]
        if in_doubt and (eased or self.poll_calls >= _COSTLY):  # else a poll tells as soon
            plans.append(Plan("look", soon_s))
        if doubted:
            plans.append(self.look(again=True))
        if eased:
            every_s = self._audit_every_s(deploying=deploying)
            plans.append(Plan("audit", max(soon_s, self.audited_s + every_s)))
            if hurried:
                pause_s = max(_SHORTEST_PAUSE * self.interval_s, _HURRY_S_PER_CALL * self.audit_calls)
                plans.append(Plan("audit", self.ended_s + pause_s))
        elif hurried:
            plans.append(Plan("poll", soon_s))
            if self.poll_calls >= _COSTLY:
                plans.append(Plan("audit", soon_s))
        order = ("look", "audit", "poll")
        return min(plans, key=lambda plan: (plan.at_s, order.index(plan.job)))

    def look(self, *, again: bool = False) -> Plan:
        """Return the earliest look at tasks that are in doubt; *again*: at those an answer has lacked."""
        if again:
            return Plan("look", self.looked_s + min(self.interval_s, self.confirm_s))
        return Plan("look", self.ended_s + _SHORTEST_PAUSE * self.interval_s)

    def complete_every_s(self, *, eased: bool) -> float:
        """Return how old a complete answer gets, if all goes well, before the next one replaces it."""
        if eased:
            return self._audit_every_s(deploying=False) + self.audit_calls
        return self._poll_every_s(eased=False) / self.jitter + self.poll_took_s

    def _poll_every_s(self, *, eased: bool) -> float:
        if eased:
            return max(_POLL_EVERY_S, _POLL_S_PER_CALL * self.poll_calls) * self.jitter
        if self.poll_calls >= _COSTLY:
            return max(self.interval_s, _LARGE_S_PER_CALL * self.poll_calls) * self.jitter
        return self.interval_s * self.jitter

    def _audit_every_s(self, *, deploying: bool) -> float:
        if deploying:
            return max(self.interval_s, _DEPLOYMENT_S_PER_CALL * self.audit_calls) * self.jitter
        return max(_AUDIT_EVERY_S, _AUDIT_S_PER_CALL * self.audit_calls)


def jitter(rng: random.Random) -> float:
    """Return what keeps many proxies from asking in the same second."""
    return rng.uniform(*_JITTER)
