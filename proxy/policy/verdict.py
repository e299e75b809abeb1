"""Check results and thresholds in, a verdict out: may this backend be used, since when, and why not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from discovery.model import HealthCheck

NOT_CHECKED: Final = "not checked yet"
REFUSED: Final = "connection refused"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one health check saw."""

    ok: bool
    reason: str  # short, for the operator: "HTTP 503", "timeout after 2 s", "connection refused"
    foreign: bool = False  # somebody else answered, or nobody who could prove to be the one who was asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Healthy or not. It belongs to an identity: a new task on a used address starts from nothing."""

    healthy: bool
    reason: str  # why it is not healthy; "" while it is
    since_s: float  # when `healthy` last changed
    proven: bool  # it has been healthy before, so one lucky success is not enough to bring it back
    streak: int = 0  # consecutive results that contradict `healthy`
    last: str = ""  # what the newest check said; "" before the first


def unchecked(check: HealthCheck, now_s: float) -> Verdict:
    """Return the verdict on a backend nobody has looked at yet."""
    if check.kind == "none":
        return Verdict(healthy=True, reason="", since_s=now_s, proven=True)
    return Verdict(healthy=False, reason=NOT_CHECKED, since_s=now_s, proven=False)


def carried(healthy: bool, reason: str, now_s: float) -> Verdict:
    """Return the verdict a previous control process left behind: it stands until checks say otherwise."""
    if healthy:
        return Verdict(healthy=True, reason="", since_s=now_s, proven=True)
    return Verdict(healthy=False, reason=reason or NOT_CHECKED, since_s=now_s, proven=False)


def refused(verdict: Verdict, now_s: float) -> Verdict:
    """Return the verdict on a backend that has just refused a connection: its next success counts."""
    since_s = now_s if verdict.healthy else verdict.since_s
    return Verdict(healthy=False, reason=REFUSED, since_s=since_s, proven=False, last=verdict.last)


def foreign(verdict: Verdict, reason: str, now_s: float) -> Verdict:
    """Return the verdict on a backend in whose place somebody else answers: out at once, until it proves
    itself again."""
    since_s = now_s if verdict.healthy else verdict.since_s
    return Verdict(healthy=False, reason=reason, since_s=since_s, proven=False, last=reason)


def rechecked(verdict: Verdict, check: HealthCheck, now_s: float) -> Verdict:
    """Return *verdict* under a changed check: it stands, unless nothing is checked any more."""
    if check.kind == "none" and not verdict.healthy:
        return unchecked(check, now_s)
    return replace(verdict, streak=0)


def judge(verdict: Verdict, result: CheckResult, check: HealthCheck, now_s: float) -> Verdict:
    """Return the verdict after one more check.

    As on an ALB, the first success makes a new backend healthy at once; one that has lost its health
    needs `healthy_threshold` successes in a row to get it back. Where the wrong task answers there is no
    threshold: one request to it would be too many.
    """
    if result.foreign:
        return foreign(verdict, result.reason, now_s)
    if result.ok == verdict.healthy:
        reason = "" if result.ok else _failed(result)
        return replace(verdict, reason=reason, streak=0, last=result.reason)
    streak = verdict.streak + 1
    if streak < _needed(verdict, check):
        return replace(verdict, streak=streak, last=result.reason)
    return Verdict(
        healthy=result.ok,
        reason="" if result.ok else _failed(result),
        since_s=now_s,
        proven=True,
        last=result.reason,
    )


def _needed(verdict: Verdict, check: HealthCheck) -> int:
    if verdict.healthy:
        return check.unhealthy_threshold
    return check.healthy_threshold if verdict.proven else 1


def _failed(result: CheckResult) -> str:
    return f"health check: {result.reason}"
