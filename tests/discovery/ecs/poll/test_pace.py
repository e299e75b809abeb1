"""When to ask next, and what."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.ecs.poll.pace import Pace, Plan

CALM = {"eased": False, "deploying": False, "hurried": False, "in_doubt": False, "doubted": False}
TEN_THOUSAND_TASKS = {"poll_calls": 206, "audit_calls": 7}


def next_of(pace: Pace, **state: bool) -> Plan:
    return pace.next(**{**CALM, **state})


def paced(**more: Any) -> Pace:
    """A cluster that has been asked at 1000 and has answered a second later."""
    times = {"polled_s": 1000.0, "audited_s": 1000.0, "looked_s": 1000.0, "ended_s": 1001.0}
    return Pace(interval_s=5.0, confirm_s=10.0, **{**times, **more})


def test_first_of_all_everything() -> None:
    assert next_of(Pace(interval_s=5.0, confirm_s=10.0), eased=True, hurried=True) == ("poll", 0.0)


@pytest.mark.parametrize(
    ("pace", "state", "plan"),
    [
        (paced(), {}, ("poll", 1005.0)),
        (paced(jitter=0.8), {}, ("poll", 1004.0)),
        (paced(ended_s=1030.0), {}, ("poll", 1030.5)),  # never without a pause
        (paced(**TEN_THOUSAND_TASKS), {}, ("poll", 1020.6)),
        (paced(), {"hurried": True}, ("poll", 1001.5)),
        (paced(), {"in_doubt": True, "hurried": True}, ("poll", 1001.5)),  # which looks at it as well
        (paced(), {"eased": True}, ("audit", 1060.0)),
        (paced(audited_s=1290.0), {"eased": True}, ("poll", 1300.0)),
        (paced(), {"eased": True, "hurried": True}, ("audit", 1001.5)),
        (paced(), {"eased": True, "hurried": True, "in_doubt": True}, ("look", 1001.5)),
        (paced(), {"eased": True, "deploying": True}, ("audit", 1005.0)),
        (paced(), {"eased": True, "doubted": True}, ("look", 1005.0)),
        (paced(**TEN_THOUSAND_TASKS), {"eased": True}, ("audit", 1070.0)),
        (paced(**TEN_THOUSAND_TASKS, audited_s=1e9), {"eased": True}, ("poll", 1000.0 + 206 * 60)),
        (paced(**TEN_THOUSAND_TASKS), {"eased": True, "hurried": True}, ("audit", 1004.5)),
        (paced(**TEN_THOUSAND_TASKS), {"eased": True, "deploying": True}, ("audit", 1007.0)),
        (paced(**TEN_THOUSAND_TASKS), {"hurried": True}, ("audit", 1001.5)),  # an answer within a second
        (paced(**TEN_THOUSAND_TASKS), {"hurried": True, "in_doubt": True}, ("look", 1001.5)),
    ],
)
def test_next(pace: Pace, state: dict[str, bool], plan: tuple[str, float]) -> None:
    assert next_of(pace, **state) == (plan[0], pytest.approx(plan[1]))


@pytest.mark.parametrize(("poll_calls", "audit_calls"), [(1, 2), (4, 3), (30, 4), (206, 7), (2000, 60)])
def test_an_hour_in_which_events_tell_costs_at_most_seven_calls_a_minute(
    poll_calls: int, audit_calls: int
) -> None:
    now_s, calls = 1001.0, 0
    pace = paced(poll_calls=poll_calls, audit_calls=audit_calls)
    while now_s < 1001.0 + 10 * 3600:
        plan = next_of(pace, eased=True)
        now_s = max(now_s, plan.at_s)
        calls += poll_calls if plan.job == "poll" else audit_calls
        pace.audited_s = pace.looked_s = pace.ended_s = now_s
        if plan.job == "poll":
            pace.polled_s = now_s

    assert calls / 600 <= 7.1


def test_how_old_an_answer_gets() -> None:
    assert paced(poll_took_s=2.0).complete_every_s(eased=False) == 7.0
    assert paced(audit_calls=7).complete_every_s(eased=True) == pytest.approx(77.0)
