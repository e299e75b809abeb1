"""Counting: what the users saw, and which failures a proxy could not have prevented. Pure, no I/O."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

_GROWTH: Final = 1.05  # each bucket of the histogram is 5 % wider than the one before


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A request or WebSocket that did not get what it asked for. Times are CLOCK_MONOTONIC seconds."""

    started_s: float
    ended_s: float
    user: str  # "http-7", "socket-2"
    service: str
    method: str  # "GET", "POST", or "WS" for a WebSocket
    path: str
    expected: str
    got: str
    status: int = 0  # 0: no response head arrived
    code: str = ""  # X-Anyport-Error, if it was sent
    task: str = ""  # X-Task, if a response head arrived
    cut: bool = False  # the connection ended where a response, or the rest of one, was due


@dataclass(slots=True)
class Kill:
    """One kill -9: requests in flight on the task between the two times may be lost."""

    service: str
    task_arn: str
    started_s: float
    ended_s: float = math.inf  # until the process is known to be gone


def excuse(failure: Failure, kills: Iterable[Kill], *, begun_answers: bool = False) -> str:
    """Return why no proxy could have saved this request, or "" if anyport should have.

    Only a kill -9 excuses, only while it happened, and only a request that must not be sent twice
    (POST). With *begun_answers* also an answer cut after its first byte whatever the method: it
    cannot be taken back and begun anew.
    """
    lost = failure.cut or failure.status == 502
    once = failure.method == "POST" or (begun_answers and failure.cut and failure.status != 0)
    if not lost or not once:
        return ""
    for kill in kills:
        overlaps = failure.started_s <= kill.ended_s and failure.ended_s >= kill.started_s
        if overlaps and failure.service == kill.service and failure.task in ("", kill.task_arn):
            return "in flight on a task killed with -9"
    return ""


@dataclass(slots=True)
class Histogram:
    """Durations to within 5 %, small enough to send as JSON."""

    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, duration_s: float) -> None:
        self.buckets[int(math.log(max(duration_s, 1e-6) * 1e6, _GROWTH))] += 1

    def merge(self, buckets: Mapping[int, int]) -> None:
        self.buckets.update(buckets)

    def percentile_s(self, percent: float) -> float:
        """Return the duration in seconds that *percent* of all stay below; 0 if there is none."""
        rank = math.ceil(self.buckets.total() * percent / 100)
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return float(_GROWTH ** (bucket + 1)) / 1e6
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What the users did since their last report."""

    requests: int = 0
    sockets: int = 0  # WebSockets open now
    messages: int = 0  # echoed over WebSockets
    reconnects: int = 0  # WebSockets lost and opened anew
    latency: Mapping[int, int] = field(default_factory=dict)  # of a `Histogram`


class Score:
    """Everything the users reported so far, judged."""

    def __init__(self, *, window_s: float = 10.0, begun_answers: bool = False) -> None:
        self.requests = 0
        self.sockets = 0
        self.messages = 0
        self.reconnects = 0
        self.latency = Histogram()
        self.failures: list[Failure] = []
        self.excused: Counter[str] = Counter()
        self.kills: list[Kill] = []
        self._begun_answers = begun_answers
        self._window_s = window_s
        self._recent: deque[tuple[float, Tick]] = deque()

    def tick(self, tick: Tick, now_s: float) -> None:
        self.requests += tick.requests
        self.messages += tick.messages
        self.reconnects += tick.reconnects
        self.sockets = tick.sockets
        self.latency.merge(tick.latency)
        self._recent.append((now_s, tick))
        while self._recent[0][0] < now_s - self._window_s:
            self._recent.popleft()

    def judge(self, failure: Failure) -> str:
        """Count *failure* as failed or excused; return the excuse, "" if there is none."""
        reason = excuse(failure, self.kills, begun_answers=self._begun_answers)
        if reason:
            self.excused[reason] += 1
        else:
            self.failures.append(failure)
        return reason

    def rate(self) -> float:
        """Return requests per second over the last reports."""
        if len(self._recent) < 2:
            return 0.0
        span_s = self._recent[-1][0] - self._recent[0][0]
        # The first report covers the time before it, which is outside the span.
        return sum(tick.requests for _, tick in list(self._recent)[1:]) / span_s if span_s > 0 else 0.0

    def recent_latency(self) -> Histogram:
        """Return the durations of the last reports."""
        histogram = Histogram()
        for _, tick in self._recent:
            histogram.merge(tick.latency)
        return histogram


def last_line(score: Score, *, deploys: int, replacements: int) -> str:
    """Return the summary that ends a demo."""
    line = (
        f"{score.requests} requests, {len(score.failures)} failed, "
        f"{deploys} deploys, {replacements} task replacements"
    )
    reasons = "; ".join(f"{count} {reason}" for reason, count in score.excused.items())
    return f"{line}, {score.excused.total()} excused ({reasons})" if reasons else line


def ended_well(score: Score) -> bool:
    """Return whether the demo showed what it promises: something was asked, and nothing failed."""
    return score.requests > 0 and not score.failures
