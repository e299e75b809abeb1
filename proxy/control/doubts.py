"""Backends that refused a connection, until their source has said again that they run.

A port that nobody listens on may be another task's a moment later, and that task's answer to a health
check proves nothing about this one. So a check alone does not bring a refused backend back: the source
must have been asked after the refusal, too, and still want it to run. A source that cannot be asked (an
outage) does not hold the only backend of a service for ever; where others serve it waits for the answer. A
task that was told to stop and refuses has stopped: it stays out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from discovery.model import Source
from proxy.control.health.schedule import CheckId
from proxy.policy.verdict import REFUSED, Verdict

_HELD_S: Final = 10.0  # at most, where the source gives no answer and nobody else serves

UNCONFIRMED: Final = f"{REFUSED}; waiting until discovery confirms the task"


class Doubts:
    """Which backends are in doubt since when. Pure but for its clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[CheckId, tuple[float, Source]] = {}

    def __bool__(self) -> bool:
        return bool(self._since)

    def add(self, check_id: CheckId, source: Source) -> None:
        """Doubt a backend that *source* names."""
        self._since[check_id] = (self._clock(), source)

    def __iter__(self) -> Iterator[CheckId]:
        return iter(self._since)

    def __contains__(self, check_id: CheckId) -> bool:
        return check_id in self._since

    def settle(
        self, draining: Mapping[CheckId, bool], spared: Callable[[CheckId], bool] = lambda _: False
    ) -> Sequence[CheckId]:
        """Drop the doubts that have been answered or have lasted too long; return which those were.

        *draining* says of each doubted backend that discovery still knows whether it was told to stop.
        *spared* says whether others serve in its place: then it waits for an answer however long that takes.
        """
        now_s = self._clock()
        settled = []
        for check_id, (since_s, source) in self._since.items():
            asked_s = source.status.asked_s
            answered = asked_s is not None and asked_s > since_s
            gone, stopping = check_id not in draining, draining.get(check_id, False)
            lasted = now_s - since_s > _HELD_S and not spared(check_id)
            if gone or (not stopping and (answered or lasted)):
                settled.append(check_id)
        for check_id in settled:
            del self._since[check_id]
        return settled

    def apply(self, check_id: CheckId, verdict: Verdict | None) -> Verdict | None:
        """Return *verdict*, or "not healthy" while the backend is in doubt."""
        if verdict is None or not verdict.healthy or check_id not in self._since:
            return verdict
        return replace(verdict, healthy=False, reason=UNCONFIRMED)
