"""When a task may be let go: what one proxy says of it, and what all of them do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from discovery.model import SourceStatus
from proxy.control.drained import ALONE, Drains, cluster_of, is_task_arn, takes_new
from proxy.control.status import Status
from proxy.link import scoreboard
from proxy.link.snapshots import BackendRow
from tests.kit.status import NOW_S, FakeSource, a_row, a_status

TASK = "arn:aws:ecs:eu-west-1:123456789012:task/prod/0123456789abcdef0123456789abcdef"
READY, STOPPING = a_row("other"), a_row(TASK, draining=True)


@pytest.mark.parametrize(
    ("rows", "why_not"),
    [
        ([a_row(TASK), READY], "not known to be stopping"),
        ([a_row(TASK, healthy=False), READY], "not known to be stopping"),  # its next check may pass
        ([a_row(TASK, suspended=True), READY], "not known to be stopping"),
        ([STOPPING, READY], ""),
        ([STOPPING], ""),  # nothing else is to come: stop means stop
        ([STOPPING, a_row("other", draining=True)], ""),
        ([STOPPING, a_row("next", healthy=False)], "until its successor is ready"),
        ([STOPPING, a_row("next", suspended=True)], "until its successor is ready"),
        ([a_row(TASK, draining=True, healthy=False), a_row("next", healthy=False)], "until its successor"),
        ([a_row(TASK, draining=True, suspended=True), a_row("next", healthy=False)], ""),
        ([STOPPING, a_row(TASK, container_port=81), READY], "not known to be stopping"),
    ],
)
def test_the_rule_is_that_of_the_workers(rows: list[BackendRow], why_not: str) -> None:
    mine = [row for row in rows if row.task_arn == TASK]
    found = takes_new(mine, {"web": rows})
    assert (why_not in found) if why_not else not found


def test_where_all_stop_a_task_serves_while_others_are_on_their_way() -> None:
    rows = {"web": [STOPPING, a_row("other", draining=True)]}
    assert takes_new([STOPPING], rows) == ""
    assert "until its successor is ready" in takes_new([STOPPING], rows, {"web"})
    status, _, _, drains = _proxy(STOPPING)
    assert drains.here(TASK).drained
    status.table = replace(
        status.table, services=tuple(replace(row, awaited=True) for row in status.table.services)
    )
    assert not drains.here(TASK).drained


def test_every_service_of_the_task_counts() -> None:
    rows = {"web": [STOPPING, READY], "api": [a_row(TASK, service="api", container_port=90)]}
    assert "a task of api" in takes_new([STOPPING, *rows["api"]], rows)


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


class Source(FakeSource):
    def __init__(self, name: str) -> None:
        super().__init__(name, SourceStatus())
        self.hurried: list[str] = []

    def hurry(self, task_arn: str = "") -> None:
        self.hurried.append(task_arn)


def _publish(status: Status, *rows: BackendRow, acknowledged_by: Sequence[int] = (0, 1)) -> None:
    revision = status.table.revision + 1
    status.table = replace(status.table, revision=revision, by_service={"web": rows})
    for number in acknowledged_by:
        status.board.head(number)[scoreboard.REVISION] = revision


def _proxy(*rows: BackendRow) -> tuple[Status, Source, Clock, Drains]:
    status, source, clock = a_status(), Source("ecs:prod"), Clock()
    status.sources = (source,)
    _publish(status, *rows)
    return status, source, clock, Drains(status, clock=clock)


def test_drained_once_every_worker_has_the_table_that_says_so() -> None:
    status, _, _, drains = _proxy(a_row(TASK), READY)
    assert not drains.here(TASK).drained
    _publish(status, STOPPING, READY, acknowledged_by=[0])
    assert drains.here(TASK).reason == "worker 1 still has an older table"
    status.board.head(1)[scoreboard.REVISION] = status.table.revision
    assert drains.here(TASK).drained
    # Later tables change nothing for it: whoever has not got them yet sends it nothing either.
    _publish(status, STOPPING, READY, a_row("third"), acknowledged_by=[])
    assert drains.here(TASK).drained


def test_a_worker_that_is_down_or_starting_has_acknowledged_nothing() -> None:
    status, _, _, drains = _proxy(STOPPING, READY)
    assert drains.here(TASK).drained
    status.board.head(1)[scoreboard.PID] = 0
    assert not drains.here(TASK).drained
    status.board.begin(1, 300)
    assert not drains.here(TASK).drained


def test_a_task_that_serves_again_as_the_last_resort_is_not_drained_any_more() -> None:
    status, _, _, drains = _proxy(STOPPING, READY)
    assert drains.here(TASK).drained
    _publish(status, STOPPING, a_row("other", healthy=False), acknowledged_by=[])
    assert not drains.here(TASK).drained
    _publish(status, STOPPING, READY, acknowledged_by=[0])
    assert not drains.here(TASK).drained, "worker 1 may still have the table in between"


def test_what_has_left_the_table_is_drained_once_that_is_acknowledged() -> None:
    status, _, _, drains = _proxy(a_row(TASK), READY)
    assert not drains.here(TASK).drained
    _publish(status, READY, acknowledged_by=[1])
    assert not drains.here(TASK).drained
    status.board.head(0)[scoreboard.REVISION] = status.table.revision
    found = drains.here(TASK)
    assert (found.known, found.drained) == (True, True)


def test_a_task_that_was_never_heard_of_may_still_come() -> None:
    _, source, clock, drains = _proxy(READY)
    source.status.asked_s = NOW_S - 0.1
    assert drains.here(TASK).reason == "this proxy has not heard of it"
    assert source.hurried == [TASK]
    clock.now_s += 1
    source.status.asked_s = NOW_S + 0.5
    found = drains.here(TASK)
    assert (found.known, found.drained) == (False, True)


def test_of_another_cluster_it_knows_nothing() -> None:
    _, source, _, drains = _proxy(READY)
    source.status.asked_s = NOW_S + 5
    found = drains.here(TASK.replace("/prod/", "/other/"))
    assert (found.drained, found.reason) == (False, "this proxy does not watch its cluster")


def test_without_a_table_nothing_is_drained() -> None:
    status, source, _, drains = _proxy(STOPPING)
    source.status.asked_s = NOW_S + 5
    status.table = replace(status.table, loaded=False)
    assert not drains.here(TASK).drained


def test_a_question_makes_the_source_look_at_that_task_but_not_as_often_as_it_is_asked() -> None:
    _, source, clock, drains = _proxy(a_row(TASK), READY)
    for _ in range(10):
        drains.here(TASK)
        clock.now_s += 0.1
    assert source.hurried == [TASK, TASK]
    for number in range(100):
        drains.here(f"{TASK[:-2]}{number:02}")
    assert len(source.hurried) < 30


def test_many_tasks_do_not_fill_the_memory() -> None:
    _, _, _, drains = _proxy(READY)
    for number in range(5000):
        drains.here(f"{TASK}{number}")
    assert len(drains._questions) == 2000


def test_questions_are_limited() -> None:
    _, _, clock, drains = _proxy(READY)
    assert sum(drains.admit() for _ in range(1000)) == 500
    clock.now_s += 0.5
    assert sum(drains.admit() for _ in range(1000)) == 250


class Fleet:
    """Peers that say what a test lets them say."""

    def __init__(self, **says: bool | None) -> None:
        self.says = says
        self.asked: list[str] = []
        self.known = True

    def others(self) -> Sequence[str] | None:
        return tuple(self.says) if self.known else None

    async def drained(self, other: str, task_arn: str) -> bool:
        self.asked.append(other)
        said = self.says[other]
        if said is None:  # partitioned
            await asyncio.Event().wait()
        return bool(said)


def _fleet(**says: bool | None) -> tuple[Status, Clock, Fleet, Drains]:
    status, _, clock, _ = _proxy(STOPPING, READY)
    fleet = Fleet(**says)
    return status, clock, fleet, Drains(status, peers=fleet, clock=clock)


@pytest.mark.asyncio
async def test_alone_it_speaks_for_all_only_where_it_has_been_told_so() -> None:
    status, _, _, drains = _proxy(STOPPING, READY)
    found = await drains.everywhere(TASK)
    assert (found["drained"], found["alone"], found["acknowledged"], found["reason"]) == (
        False,
        True,
        1,
        ALONE,
    )
    found = await Drains(status, alone=lambda: True).everywhere(TASK)
    assert (found["drained"], found["proxies"], found["acknowledged"]) == (True, 1, 1)
    assert "alone" not in found


@pytest.mark.asyncio
async def test_who_does_not_know_the_others_cannot_speak_for_them() -> None:
    _, _, fleet, drains = _fleet()
    fleet.known = False
    assert (await drains.everywhere(TASK))["alone"] is True


@pytest.mark.asyncio
async def test_every_proxy_must_say_so() -> None:
    _, clock, fleet, drains = _fleet(a=True, b=False)
    found = await drains.everywhere(TASK)
    assert (found["drained"], found["proxies"], found["acknowledged"]) == (False, 3, 2)
    assert found["reason"] == "b has not said that it sends nothing new"
    fleet.says["b"] = True
    clock.now_s += 1
    found = await drains.everywhere(TASK)
    assert (found["drained"], found["proxies"], found["acknowledged"]) == (True, 3, 3)
    assert fleet.asked == ["a", "b", "b"], "who has said yes is not asked again"


@pytest.mark.asyncio
async def test_a_proxy_that_cannot_be_reached_has_not_said_yes() -> None:
    _, _, _, drains = _fleet(a=True, b=None)
    found = await drains.everywhere(TASK)
    assert (found["drained"], found["acknowledged"]) == (False, 2)


@pytest.mark.asyncio
async def test_the_others_are_asked_once_however_many_ask_here_and_not_before_it_is_drained_here() -> None:
    status, clock, fleet, drains = _fleet(a=False)
    await asyncio.gather(*(drains.everywhere(TASK) for _ in range(20)))
    assert fleet.asked == ["a"]
    _publish(status, a_row(TASK), READY)
    clock.now_s += 1
    await drains.everywhere(TASK)
    assert fleet.asked == ["a"]


@pytest.mark.parametrize(
    ("text", "cluster"),
    [
        (TASK, "prod"),
        ("arn:aws-cn:ecs:cn-north-1:123456789012:task/0c8b6a1e-0000-4000-8000-0123456789ab", ""),
        ("arn:aws:ecs:eu-west-1:123456789012:service/prod/web", None),
        ("task/prod/1", None),
        ("", None),
        (TASK + "\n", None),
        (TASK + "a" * 1000, None),
    ],
)
def test_only_arns_of_tasks_are_asked_about(text: str, cluster: str | None) -> None:
    assert is_task_arn(text) is (cluster is not None)
    if cluster is not None:
        assert cluster_of(text) == cluster
