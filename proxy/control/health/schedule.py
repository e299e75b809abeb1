"""When which backend is checked, and what is known of each."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from discovery.model import BackendKey
from proxy.control.health.check import Target, proves_identity
from proxy.policy.verdict import CheckResult, Verdict, foreign, judge, rechecked, refused, unchecked

log = logging.getLogger("anyport.control")

CheckId = tuple[str, BackendKey]  # one task may serve two services, each with a check of its own

_EAGER_S: Final = 0.25
_EAGEREST_S: Final = 0.02  # ECS calls a container RUNNING before its program listens, often a moment before
_SETTLE_S: Final = 1.0  # inherited verdicts are confirmed within this, not all in one instant
_AT_ONCE: Final = 256  # checks in flight


@dataclass(slots=True, eq=False)
class _Watched:
    target: Target
    verdict: Verdict
    task: asyncio.Task[None] | None = None


def pause_s(verdict: Verdict, target: Target, age_s: float, jitter: float) -> float:
    """Return the time from the start of one check to the start of the next; *jitter* is in [0, 1).

    A task that has never passed is asked eagerly, then ever less often: it becomes ready within twice
    the time it took to start, at most a quarter of a second later, or within a tenth of that time.
    """
    interval_s = target.check.interval_s
    if not verdict.proven:
        eager_s = min(_EAGER_S, max(_EAGEREST_S, age_s))
        interval_s = min(interval_s, max(eager_s, age_s * 0.1))
    return interval_s * (0.9 + 0.2 * jitter)


class Monitor:
    """Checks whatever `watch` was last given. Its tasks belong to *group* and end with it."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        check: Callable[[Target], Awaitable[CheckResult | None]],
        *,
        on_change: Callable[[str], None],  # called with the name of a service
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random,
    ) -> None:
        self._group = group
        self._check = check
        self._on_change = on_change
        self._clock = clock
        self._sleep = sleep
        self._rng = rng
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._watched: dict[str, dict[BackendKey, _Watched]] = {}  # by service
        self.results: Counter[tuple[str, str]] = Counter()  # by (service, "success" or "failure")
        self.foreign: Counter[str] = Counter()  # by service: answers of somebody else, or without a proof

    def verdict(self, service: str, key: BackendKey) -> Verdict | None:
        """Return what is known of a watched backend, None of any other."""
        watched = self._find((service, key))
        return watched.verdict if watched else None

    def target(self, check_id: CheckId) -> Target | None:
        """Return what is being watched under *check_id*."""
        watched = self._find(check_id)
        return watched.target if watched else None

    def watch(self, service: str, targets: Iterable[Target], known: Mapping[CheckId, Verdict]) -> None:
        """Watch exactly *targets* of *service*; a backend new to this monitor starts from *known*, else from
        nothing."""
        wanted = {target.key: target for target in targets}
        current = self._watched.setdefault(service, {})
        for key in current.keys() - wanted.keys():
            self._stop(current.pop(key))
        for key, target in wanted.items():
            watched = current.get(key)
            if watched is not None and watched.target == target:
                continue
            now_s = self._clock()
            if watched is None:
                verdict = known.get((service, key)) or unchecked(target.check, now_s)
            elif (watched.target.host, watched.target.port) != (target.host, target.port):
                verdict = unchecked(target.check, now_s)  # the container was started anew elsewhere
            else:
                verdict = watched.verdict
            if watched is not None:
                self._stop(watched)
            current[key] = self._start(target, rechecked(verdict, target.check, now_s))
        if not current:
            del self._watched[service]

    def _find(self, check_id: CheckId) -> _Watched | None:
        service, key = check_id
        return self._watched.get(service, {}).get(key)

    def refused(self, check_id: CheckId) -> None:
        """Take it that nobody listens there, until a check of now says otherwise."""
        watched = self._find(check_id)
        if watched is None or watched.target.check.kind == "none":
            return
        self._replace(watched, refused(watched.verdict, self._clock()))

    def mistaken(self, check_id: CheckId, reason: str) -> None:
        """Take it that somebody else answers there (*reason*), until a check of now proves otherwise."""
        watched = self._find(check_id)
        if watched is None or not proves_identity(watched.target.check):
            return
        verdict = foreign(watched.verdict, reason, self._clock())
        self._note_foreign(check_id, watched.verdict, verdict)
        if (watched.verdict.healthy, watched.verdict.reason) == (verdict.healthy, verdict.reason):
            return  # several workers say so: the check that is under way already shall come to its end
        self._replace(watched, verdict)

    def _note_foreign(self, check_id: CheckId, before: Verdict, after: Verdict) -> None:
        self.foreign[check_id[0]] += 1
        if before.reason != after.reason:  # once, and not at each check
            log.warning("service %s, task %s: %s", check_id[0], check_id[1].task_arn, after.reason)

    def _replace(self, watched: _Watched, verdict: Verdict) -> None:
        """Begin anew with *verdict*: whatever a check that is under way will say is of before."""
        self._stop(watched)
        target = watched.target
        self._watched[target.service][target.key] = self._start(target, verdict)
        self._on_change(target.service)

    def _start(self, target: Target, verdict: Verdict) -> _Watched:
        watched = _Watched(target, verdict)
        if target.check.kind != "none":
            name = f"check {target.service} {target.key.task_arn}"
            watched.task = self._group.create_task(self._check_forever(watched), name=name)
        return watched

    def _stop(self, watched: _Watched) -> None:
        if watched.task is not None:
            watched.task.cancel()

    async def _check_forever(self, watched: _Watched) -> None:
        target, first_s = watched.target, self._clock()
        if watched.verdict.healthy:
            await self._sleep(self._rng.random() * min(_SETTLE_S, target.check.interval_s))
        while True:
            async with self._free:
                started_s = self._clock()
                result = await self._check(target)
            now_s = self._clock()
            if result is not None:
                self.results[target.service, "success" if result.ok else "failure"] += 1
                before = watched.verdict
                watched.verdict = judge(before, result, target.check, now_s)
                if result.foreign:
                    self._note_foreign((target.service, target.key), before, watched.verdict)
                if (before.healthy, before.reason) != (watched.verdict.healthy, watched.verdict.reason):
                    self._on_change(target.service)
            pause = pause_s(watched.verdict, target, started_s - first_s, self._rng.random())
            await self._sleep(max(0.0, pause - (now_s - started_s)))
