"""Thresholds in both directions, and what a new identity starts from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.model import HealthCheck
from proxy.policy.verdict import NOT_CHECKED, CheckResult, Verdict, carried, judge, rechecked, unchecked

CHECK = HealthCheck(healthy_threshold=2, unhealthy_threshold=3)
PASS, FAIL = CheckResult(True, "HTTP 200"), CheckResult(False, "HTTP 503")


def after(results: list[CheckResult], verdict: Verdict | None = None) -> Verdict:
    verdict = verdict or unchecked(CHECK, 0.0)
    for now_s, result in enumerate(results, start=1):
        verdict = judge(verdict, result, CHECK, float(now_s))
    return verdict


def test_a_new_task_waits_for_its_first_success_and_no_longer() -> None:
    assert not unchecked(CHECK, 0.0).healthy
    assert unchecked(CHECK, 0.0).reason == NOT_CHECKED
    assert after([FAIL, FAIL]).reason == "health check: HTTP 503"
    assert after([FAIL, PASS]).healthy


def test_without_a_check_it_is_healthy_at_once() -> None:
    assert unchecked(HealthCheck(kind="none"), 0.0).healthy
    assert rechecked(after([FAIL]), HealthCheck(kind="none"), 9.0).healthy


@pytest.mark.parametrize(
    ("results", "healthy"),
    [
        ([PASS, FAIL, FAIL], True),
        ([PASS, FAIL, FAIL, FAIL], False),
        ([PASS, FAIL, FAIL, PASS, FAIL, FAIL], True),
        ([PASS, FAIL, FAIL, FAIL, PASS], False),
        ([PASS, FAIL, FAIL, FAIL, PASS, FAIL, PASS], False),
        ([PASS, FAIL, FAIL, FAIL, PASS, PASS], True),
    ],
)
def test_only_results_in_a_row_count(results: list[CheckResult], healthy: bool) -> None:
    assert after(results).healthy is healthy


def test_it_says_since_when_and_why() -> None:
    lost = after([PASS, FAIL, FAIL, FAIL])

    assert (lost.since_s, lost.reason, lost.last) == (4.0, "health check: HTTP 503", "HTTP 503")
    assert after([PASS, FAIL]).reason == "", "while it is healthy there is nothing to explain"
    assert after([PASS, FAIL]).last == "HTTP 503"


def test_an_inherited_verdict_stands_until_checks_say_otherwise() -> None:
    assert after([FAIL, FAIL], carried(True, "", 0.0)).healthy
    assert not after([FAIL] * 3, carried(True, "", 0.0)).healthy
    assert carried(False, "health check: HTTP 500", 0.0).reason == "health check: HTTP 500"


FOREIGN = CheckResult(False, 'identity mismatch: answered as "shop"', foreign=True)


def test_where_somebody_else_answers_there_is_no_threshold() -> None:
    out = after([PASS, PASS, FOREIGN])

    assert (out.healthy, out.since_s) == (False, 3.0)
    assert out.reason == 'identity mismatch: answered as "shop"'
    assert not after([FAIL, FAIL], out).healthy
    assert after([PASS], out).healthy, "one proof is enough: nobody else could have given it"
    assert after([FOREIGN, FOREIGN], out).since_s == 3.0


@given(results=st.lists(st.booleans(), max_size=40), up=st.integers(1, 4), down=st.integers(1, 4))
def test_any_history_agrees_with_the_plain_reading(results: list[bool], up: int, down: int) -> None:
    check = HealthCheck(healthy_threshold=up, unhealthy_threshold=down)
    verdict = unchecked(check, 0.0)
    healthy, proven = False, False
    for number, ok in enumerate(results, start=1):
        verdict = judge(verdict, CheckResult(ok, "x"), check, float(number))
        needed = down if healthy else (up if proven else 1)
        tail = results[max(0, number - needed) : number]
        changed = len(tail) == needed and all(one != healthy for one in tail)
        if changed:
            healthy, proven = not healthy, True
        assert verdict.healthy is healthy
        assert bool(verdict.reason) is not healthy
