"""A port that refused a connection may be another task's next: only discovery can say whose it is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from discovery.model import BackendKey, Snapshot, SourceStatus
from proxy.control.doubts import UNCONFIRMED, Doubts
from proxy.policy.verdict import Verdict

CHECK = ("web", BackendKey("arn:aws:ecs:eu-west-1:111122223333:task/prod/4d59", "app", 8080))
HEALTHY = Verdict(healthy=True, reason="", since_s=1.0, proven=True)


class _Source:
    name = "ecs:prod"

    def __init__(self) -> None:
        self.status = SourceStatus()

    def watch(self) -> AsyncIterator[Snapshot]:
        raise NotImplementedError

    def hurry(self, task_arn: str = "") -> None:
        raise NotImplementedError


class _Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


RUNNING = {CHECK: False}


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


def test_a_passed_check_is_not_enough_while_the_source_has_not_been_asked_again(clock: _Clock) -> None:
    """The check may have been answered by the port's next owner."""
    doubts, source = Doubts(clock), _Source()
    source.status.asked_s = 99.0
    doubts.add(CHECK, source)
    clock.now_s = 101.0

    assert not doubts.settle(RUNNING)
    found = doubts.apply(CHECK, HEALTHY)
    assert found is not None
    assert (found.healthy, found.reason) == (False, UNCONFIRMED)


def test_a_complete_answer_to_a_later_question_ends_the_doubt(clock: _Clock) -> None:
    doubts, source = Doubts(clock), _Source()
    doubts.add(CHECK, source)
    source.status.asked_s = 100.5

    assert doubts.settle(RUNNING)
    assert not doubts
    assert doubts.apply(CHECK, HEALTHY) is HEALTHY


def test_a_source_that_does_not_answer_does_not_hold_a_backend_for_ever(clock: _Clock) -> None:
    """No news is not bad news: in an outage of the API a task that answers again serves again."""
    doubts, source = Doubts(clock), _Source()
    doubts.add(CHECK, source)
    clock.now_s = 111.0

    assert doubts.settle(RUNNING)
    assert doubts.apply(CHECK, HEALTHY) is HEALTHY


def test_where_others_serve_only_an_answer_ends_the_doubt(clock: _Clock) -> None:
    """Whoever answers at its port in an outage of the API may be somebody else, and nobody needs him."""
    doubts, source = Doubts(clock), _Source()
    doubts.add(CHECK, source)
    clock.now_s = 1000.0

    assert not doubts.settle(RUNNING, lambda check_id: check_id == CHECK)
    source.status.asked_s = 1000.0
    assert doubts.settle(RUNNING, lambda check_id: check_id == CHECK)


def test_a_stopping_task_that_refuses_has_stopped(clock: _Clock) -> None:
    """For a while the API still shows it, draining; whoever answers at its port now is somebody else."""
    doubts, source = Doubts(clock), _Source()
    doubts.add(CHECK, source)
    source.status.asked_s = clock.now_s = 200.0

    assert not doubts.settle({CHECK: True})
    found = doubts.apply(CHECK, HEALTHY)
    assert found is not None
    assert not found.healthy
    assert doubts.settle({}), "gone from the table, it needs no doubt any more"


def test_others_are_not_touched(clock: _Clock) -> None:
    doubts = Doubts(clock)
    doubts.add(CHECK, _Source())

    assert doubts.apply(("api", CHECK[1]), HEALTHY) is HEALTHY
    assert doubts.apply(CHECK, None) is None
