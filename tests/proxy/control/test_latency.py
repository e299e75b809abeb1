"""From the start of a task to its first request, from its stop to its last: what is measured, and of whom."""

from __future__ import annotations

import pytest

from discovery.model import Endpoint
from proxy.control.histogram import Histogram
from proxy.control.latency import Latency
from proxy.link.snapshots import ServiceRow, TableSnapshot
from tests.kit.status import a_row

STARTED_S = 1_700_000_000.0
SOURCE = "ecs:prod"
NOBODY: frozenset[str] = frozenset()


def endpoint(task: str = "a", **more: object) -> Endpoint:
    values: dict[str, object] = {
        "service": "web", "task_arn": task, "container": "app", "container_port": 80,
        "host": "10.0.0.1", "port": 32768, "source": SOURCE, "started_at": STARTED_S,
    }  # fmt: skip
    return Endpoint(**{**values, **more})  # type: ignore[arg-type]


class Course:
    """What happens to one service, with a clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = STARTED_S
        self.routable, self.quiet = Histogram(), Histogram()
        self.latency = Latency(self.routable, self.quiet, wall_clock=lambda: self.now_s)

    def hear(self, *endpoints: Endpoint, at_s: float = 0.0, pending: frozenset[str] = NOBODY) -> None:
        """Learn *endpoints*, *at_s* after the start of the tasks."""
        self.latency.learn({"web"}, {"web": endpoints}, heard_s=STARTED_S + at_s, pending=pending)

    def acknowledge(self, at_s: float, *tasks: str, awaited: bool = False, **more: object) -> None:
        """Let all workers take a table with *tasks* (ready ones, but for *more*)."""
        self.now_s = STARTED_S + at_s
        rows = tuple(a_row(task, **{"started_at": STARTED_S, **more}) for task in tasks)
        service = ServiceRow(name="web", slot=1, hosts=(), path="/", awaited=awaited)
        self.latency.acknowledged(
            TableSnapshot(revision=1, loaded=True, services=(service,), by_service={"web": rows})
        )

    @property
    def starts(self) -> tuple[int, float]:
        return sum(self.routable.counts), round(self.routable.sum_s, 3)

    @property
    def stops(self) -> tuple[int, float]:
        return sum(self.quiet.counts), round(self.quiet.sum_s, 3)


def serving(*tasks: str) -> Course:
    """Return a course in which *tasks* have been ready for long."""
    course = Course()
    course.latency.begin_anew(frozenset({SOURCE}))
    course.hear(*map(endpoint, tasks))
    course.acknowledge(1, *tasks)
    assert course.starts == (0, 0)
    return course


def test_a_start_counts_until_the_first_table_in_which_it_is_ready() -> None:
    course = Course()
    course.hear(endpoint())
    course.acknowledge(0.2, "a", healthy=False)
    assert course.starts == (0, 0)
    course.acknowledge(0.7, "a")
    assert course.starts == (1, 0.7)
    course.acknowledge(1, "a", healthy=False)
    course.acknowledge(2, "a")
    assert course.starts == (1, 0.7), "once in its life"


def test_what_a_first_answer_holds_may_have_run_for_hours() -> None:
    course = Course()
    course.latency.begin_anew(frozenset({SOURCE, "other"}))
    course.hear(endpoint("a"), pending=frozenset({SOURCE}))
    course.hear(endpoint("a"), endpoint("b"))
    course.acknowledge(3600, "a", "b")
    assert course.starts == (0, 0)
    course.hear(endpoint("a"), endpoint("b"), endpoint("c"))
    course.acknowledge(3601, "a", "b", "c")
    assert course.starts == (1, 3601), "what comes later counts, however late"


def test_a_start_that_ecs_tells_of_after_the_agent_has() -> None:
    course = Course()
    course.hear(endpoint(started_at=0.0))
    course.acknowledge(0.3, "a", started_at=0.0)
    assert course.starts == (0, 0)
    course.hear(endpoint())
    assert course.starts == (1, 0.3)
    course.hear(endpoint(started_at=STARTED_S + 1))
    assert course.starts == (1, 0.3)


def test_a_task_that_was_never_ready_never_started_for_us() -> None:
    course = Course()
    course.hear(endpoint())
    course.acknowledge(1, "a", healthy=False)
    course.hear()
    course.acknowledge(2)
    assert (course.starts, course.stops) == ((0, 0), (0, 0)), "and had nothing to lose when it stopped"


def test_a_stop_counts_from_the_order_to_the_table_that_drains_it() -> None:
    course = serving("a", "b")
    course.hear(endpoint("a", draining=True, stopping_at=STARTED_S + 9.5), endpoint("b"), at_s=10)
    assert course.stops == (0, 0)
    course.now_s = STARTED_S + 10.1
    rows = (a_row("a", draining=True), a_row("b"))
    table = TableSnapshot(revision=2, loaded=True, by_service={"web": rows})
    course.latency.acknowledged(table)
    assert course.stops == (1, 0.6)
    course.hear(endpoint("b"), at_s=20)
    course.acknowledge(20, "b")
    assert course.stops == (1, 0.6), "its end is no second stop"


@pytest.mark.parametrize("told_s", [0.0, 99.0])
def test_a_stop_of_which_no_time_is_told_counts_from_when_we_heard(told_s: float) -> None:
    course = serving("a", "b")
    stopping_at = STARTED_S + told_s if told_s else 0.0  # a clock that is ahead, or none
    course.hear(endpoint("a", draining=True, stopping_at=stopping_at), endpoint("b"), at_s=10)
    course.acknowledge(10.25, "b")
    assert course.stops == (1, 0.25)


def test_a_task_that_is_simply_gone() -> None:
    course = serving("a", "b")
    course.hear(endpoint("b"), at_s=10)
    course.acknowledge(10.1, "a", "b")  # one that was on its way
    assert course.stops == (0, 0)
    course.acknowledge(10.4, "b")
    assert course.stops == (1, 0.4)


def test_a_task_that_serves_until_its_successor_is_ready_is_not_quiet() -> None:
    course = serving("a")
    course.hear(endpoint("a", draining=True), at_s=10)
    course.acknowledge(10.1, "a", draining=True, awaited=True)
    assert course.stops == (0, 0)
    course.acknowledge(12, "a", draining=True, awaited=False)
    assert course.stops == (1, 2)


@pytest.mark.parametrize(("ordered_s", "found"), [(9.5, (1, 0.7)), (10.5, (0, 0))])
def test_a_task_that_is_down_before_we_hear_of_its_stop(ordered_s: float, found: tuple[int, float]) -> None:
    course = serving("a")
    course.acknowledge(10.2, "a", healthy=False)
    course.acknowledge(11, "a", healthy=False, reason="another")
    stop = endpoint("a", draining=True, stopping_at=STARTED_S + ordered_s)
    course.hear(stop, at_s=12)
    course.acknowledge(12.1)
    assert course.stops == found, "only if it had requests when the stop was ordered"


def test_a_stop_that_is_taken_back_is_none() -> None:
    course = serving("a", "b")
    course.hear(endpoint("a", draining=True), endpoint("b"), at_s=10)
    course.hear(endpoint("a"), endpoint("b"), at_s=11)
    course.acknowledge(12, "b")
    assert course.stops == (0, 0)


def test_other_sources_are_no_news() -> None:
    course = serving("a")
    course.hear(endpoint("a"), endpoint("b"))
    course.latency.begin_anew(frozenset({SOURCE}))
    course.hear(pending=frozenset({SOURCE}))
    course.acknowledge(1)
    course.hear(endpoint("a"), endpoint("b"))
    course.acknowledge(2, "a", "b")
    assert (course.starts, course.stops) == ((0, 0), (0, 0))


def test_nothing_is_kept_of_what_is_gone() -> None:
    course = Course()
    course.hear(endpoint("a"), endpoint("b", started_at=0.0))
    course.acknowledge(1, "b", started_at=0.0)
    course.hear()
    course.acknowledge(2)
    latency = course.latency
    kept = latency._known, latency._starting, latency._routable_s, latency._stopping, latency._down
    assert not any(kept)


def test_a_histogram_as_prometheus_has_it() -> None:
    found = Histogram()
    for seconds in (-3.0, 0.05, 0.051, 59.0, 61.0):
        found.observe(seconds)
    buckets = dict(found.buckets())
    assert (buckets["0.05"], buckets["0.1"], buckets["60"], buckets["+Inf"]) == (2, 3, 4, 5)
    assert found.sum_s == pytest.approx(120.101)
