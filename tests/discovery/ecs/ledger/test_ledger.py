"""Words out of order, stale, repeated or suspiciously few: what a ledger may and may not forget."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.ecs import shapes
from discovery.ecs.ledger.ledger import REMEMBER_S, Ledger
from discovery.ecs.ledger.waiting import Change
from discovery.ecs.shapes import Task
from tests.kit import ecs_json as ecs
from tests.kit.cloud import Clock

CONFIRM_S = 10.0
OLD_S = 3600.0  # long enough for a task not to be new


def task(number: int = 1, **more: Any) -> Task:
    return shapes.task(ecs.task(number, **more))


class Scene:
    """A ledger that has known some tasks for long, with its clock."""

    def __init__(self, *tasks: Task) -> None:
        self.clock = Clock()
        self.ledger = Ledger(clock=self.clock, wall_clock=self.clock)
        for known in tasks:
            self.ledger.hear_task(known, by="api")
        self.clock.now += OLD_S

    def hear(self, *words: Task, by: str = "api") -> None:
        for word in words:
            self.ledger.hear_task(word, by=by)

    def miss(self, *numbers: int, agreed: tuple[str, ...] = ()) -> set[str]:
        return self.ledger.hear_missing(
            [ecs.task_arn(n) for n in numbers],
            by="api",
            confirm_s=CONFIRM_S,
            agreed={f"service:{name}" for name in agreed},
        )

    @property
    def live(self) -> set[str]:
        return {task.arn for task in self.ledger.tasks()}

    @property
    def one(self) -> Task:
        (found,) = self.ledger.tasks()
        return found


def arns(*numbers: int) -> set[str]:
    return {ecs.task_arn(number) for number in numbers}


# --- versions and stops ---------------------------------------------------------------------------


def test_older_word_does_not_overwrite_a_newer_one() -> None:
    scene = Scene(task(version=3))

    scene.hear(task(version=2, lastStatus="PENDING"))

    assert (scene.one.last_status, scene.one.version) == ("RUNNING", 3)


@pytest.mark.parametrize("version", [3, 4, 9, None], ids=["older", "same", "newer", "none"])
def test_stop_is_never_taken_back(version: int | None) -> None:
    """Whatever the version says, or if it says nothing: ECS does not revive a task."""
    scene = Scene(task(version=4, desiredStatus="STOPPED"))

    scene.hear(task(version=version))

    assert scene.one.desired_status == "STOPPED"


@pytest.mark.parametrize("version", [1, 3, None])
def test_late_word_of_a_stop_counts_whatever_its_version(version: int | None) -> None:
    scene = Scene(task(version=3))

    scene.hear(task(version=version, desiredStatus="STOPPED"))

    assert scene.one.desired_status == "STOPPED"


@pytest.mark.parametrize("last_status", ["STOPPED", "DELETED"])
def test_task_seen_stopped_never_returns(last_status: str) -> None:
    """Not by a newer version either, nor when the stop itself is the older word."""
    scene = Scene(task(version=3))

    scene.hear(task(version=2, lastStatus=last_status, desiredStatus="STOPPED"))
    scene.hear(task(version=9), task(version=None))

    assert scene.live == set()
    assert scene.ledger.buried(ecs.task_arn(1))


def test_stop_heard_before_all_else_is_remembered() -> None:
    scene = Scene()

    scene.hear(task(version=6, lastStatus="STOPPED", desiredStatus="STOPPED"), by="events")
    scene.hear(task(version=3))

    assert scene.live == set()


def test_tombstone_outlives_every_delivery() -> None:
    scene = Scene(task())
    scene.ledger.hear_gone(ecs.task_arn(1), by="events")

    scene.clock.now += REMEMBER_S - 1
    scene.ledger.hear_gone(ecs.task_arn(2), by="events")
    scene.hear(task())

    assert scene.live == set()


def test_tombstones_are_not_kept_for_ever() -> None:
    scene = Scene()
    scene.ledger.hear_gone(ecs.task_arn(1), by="events")
    scene.clock.now += REMEMBER_S

    scene.ledger.hear_gone(ecs.task_arn(2), by="events")

    assert not scene.ledger.buried(ecs.task_arn(1))
    assert scene.ledger.since(0) == [Change("gone", ecs.task_arn(2))]


@pytest.mark.parametrize("api_first", [True, False])
def test_one_version_told_twice_is_the_same_in_either_order(api_first: bool) -> None:
    """An event leaves health and port ranges out; the API may answer from a copy that lags in both."""
    ranged = {"containerPortRange": "7000-7002", "hostPortRange": "32800-32802", "protocol": "tcp"}
    full = [ecs.binding(8080, 32771), ranged]
    api = task(containers=[ecs.container(healthStatus="HEALTHY", bindings=full)])
    event = task(containers=[ecs.container(healthStatus=None)])
    scene = Scene()

    scene.hear(*((api, event) if api_first else (event, api)))

    assert scene.one == api


@pytest.mark.parametrize("statuses", [("ACTIVATING", "RUNNING"), ("RUNNING", "ACTIVATING")])
def test_no_task_lives_backwards_within_one_version(statuses: tuple[str, str]) -> None:
    """Not every step of its life has a version of its own."""
    scene = Scene()

    for status in statuses:
        scene.hear(task(version=3, lastStatus=status))

    assert scene.one.last_status == "RUNNING"


def test_health_may_change_without_a_new_version() -> None:
    scene = Scene(task(containers=[ecs.container(healthStatus="HEALTHY")]))

    scene.hear(task(containers=[ecs.container(healthStatus="UNHEALTHY")]))

    assert scene.one.containers[0].health == "UNHEALTHY"


@pytest.mark.parametrize("version", [3, 4])
def test_health_once_known_is_not_forgotten_when_the_agent_is_lost(version: int) -> None:
    scene = Scene(task(containers=[ecs.container(healthStatus="HEALTHY")]))

    scene.hear(task(version=version, containers=[ecs.container(healthStatus="UNKNOWN")]))

    assert scene.one.containers[0].health == "HEALTHY"


def test_older_word_fills_in_what_a_newer_one_leaves_out() -> None:
    scene = Scene(task(version=4, containers=[ecs.container(bindings=[])], startedAt=None))

    scene.hear(task(version=3, containers=[ecs.container(healthStatus="HEALTHY")]))

    container = scene.one.containers[0]
    assert (container.health, container.bindings[0].host_first) == ("HEALTHY", 32771)
    assert (scene.one.started_at, scene.one.version) == (ecs.STARTED.timestamp(), 4)


def test_when_the_stop_was_ordered_stays_known() -> None:
    scene = Scene(task(version=4, desiredStatus="STOPPED", stoppingAt=ecs.STARTED))

    scene.hear(task(version=5, desiredStatus="STOPPED"), by="agent")

    assert (scene.one.stopping_at, scene.one.version) == (ecs.STARTED.timestamp(), 5)


def test_bindings_of_a_running_container_do_not_vanish() -> None:
    scene = Scene(task())

    scene.hear(task(version=4, containers=[ecs.container(bindings=[])]))

    assert scene.one.containers[0].bindings[0].host_first == 32771


@pytest.mark.parametrize("restarted_first", [True, False])
def test_restarted_container_starts_from_nothing(restarted_first: bool) -> None:
    """A restart policy puts a new container in the place of the old one, with other host ports."""
    before = task(containers=[ecs.container(healthStatus="HEALTHY")])
    anew = ecs.container(bindings=[], runtimeId="another", healthStatus="UNKNOWN")
    after = task(version=5, containers=[anew])
    scene = Scene()

    scene.hear(*((after, before) if restarted_first else (before, after)))

    assert (scene.one.containers[0].bindings, scene.one.containers[0].health) == ((), "UNKNOWN")


# --- what is missing ------------------------------------------------------------------------------


def test_few_missing_tasks_are_gone_at_once() -> None:
    scene = Scene(task(1), task(2), task(3))

    assert scene.miss(1) == set()

    assert scene.live == arns(2, 3)
    assert scene.ledger.buried(ecs.task_arn(1))


def test_most_of_a_service_missing_needs_a_second_answer_later_and_its_service_to_agree() -> None:
    scene = Scene(task(1), task(2), task(3, service="other"))

    assert scene.miss(1, 2, agreed=("web",)) == set(), "nothing is asked before the second answer"
    assert scene.live == arns(1, 2, 3)
    assert scene.ledger.doubted == arns(1, 2)

    scene.clock.now += CONFIRM_S - 0.1
    scene.miss(1, 2, agreed=("web",))
    assert scene.live == arns(1, 2, 3), "two answers in a row may come from one stale copy"

    scene.clock.now += 0.1
    assert scene.miss(1, 2) == {"service:web"}
    assert scene.live == arns(1, 2, 3)

    assert scene.miss(1, 2, agreed=("web",)) == set()
    assert scene.live == arns(3)
    assert not scene.ledger.doubted


def test_tasks_of_no_service_are_gone_after_the_second_answer() -> None:
    """There is nobody to ask how many should run."""
    scene = Scene(task(1, group="family:web"))

    scene.miss(1)
    scene.clock.now += CONFIRM_S

    assert scene.miss(1) == set()
    assert scene.live == set()


def test_doubt_ends_when_the_task_is_heard_of_again() -> None:
    scene = Scene(task(1))

    scene.miss(1)
    scene.clock.now += 5.0
    scene.hear(task(1))
    scene.clock.now += 7.0
    scene.miss(1, agreed=("web",))

    assert scene.live == arns(1), "the second doubt starts from its own beginning"


def test_missing_is_no_surprise_for_a_task_that_was_stopping() -> None:
    scene = Scene(task(desiredStatus="STOPPED", version=4))

    scene.miss(1)

    assert scene.live == set()


def test_new_task_that_a_lagging_copy_does_not_know_yet_is_not_buried() -> None:
    """An event is faster than the copy of the ECS database that answers the next poll."""
    scene = Scene(task(1), task(2))
    scene.hear(task(3, startedAt=scene.clock.now), by="events")

    scene.miss(3)
    assert scene.live == arns(1, 2, 3)

    scene.clock.now += CONFIRM_S
    scene.miss(3, agreed=("web",))
    assert scene.live == arns(1, 2)


def test_task_that_has_run_for_long_is_not_new_because_it_is_first_heard_of() -> None:
    """From the disk, after a restart."""
    scene = Scene(task(1), task(2))
    scene.hear(task(3), by="disk")

    scene.miss(3)

    assert scene.live == arns(1, 2)


def test_all_tasks_of_a_service_seen_to_stop_are_gone_at_once() -> None:
    """Positive evidence is never doubted, however many tasks it ends."""
    scene = Scene(task(1), task(2))
    over = {"version": 6, "lastStatus": "STOPPED", "desiredStatus": "STOPPED"}

    scene.hear(task(1, **over), task(2, **over))

    assert scene.live == set()


# --- who must look again --------------------------------------------------------------------------


def test_what_has_not_changed_is_the_same_object_and_makes_nobody_look() -> None:
    scene = Scene(task(1), task(2, service="other"))
    before = {task.arn: task for task in scene.ledger.tasks()}
    scene.ledger.take_dirty()
    revision = scene.ledger.revision

    scene.hear(task(1), task(2, service="other"))
    scene.hear(task(1, version=2, lastStatus="PENDING"))
    assert (scene.ledger.take_dirty(), scene.ledger.revision) == (set(), revision)

    scene.hear(task(1, version=4, desiredStatus="STOPPED"))
    assert scene.ledger.take_dirty() == {"service:web"}
    assert scene.ledger.task(ecs.task_arn(2)) is before[ecs.task_arn(2)]


def test_what_has_changed_since_a_revision_is_told_once_oldest_first() -> None:
    scene = Scene(task(1), task(2))
    revision = scene.ledger.revision

    scene.hear(task(2, version=4), task(1, version=4, desiredStatus="STOPPED"), task(2, version=5))
    scene.ledger.hear_gone(ecs.task_arn(1), by="events")

    assert scene.ledger.since(revision) == [
        Change("task", ecs.task_arn(2)),
        Change("gone", ecs.task_arn(1)),
    ]
    assert scene.ledger.since(scene.ledger.revision) == []


def test_newest_word_of_each_informant_is_told_newest_first() -> None:
    scene = Scene(task(version=3))
    heard_s = scene.clock.now - OLD_S

    scene.hear(task(version=4, desiredStatus="STOPPED"), by="events")

    newest, oldest = scene.ledger.told(ecs.task_arn(1))
    assert newest == ("events", "RUNNING, to be STOPPED, version 4", scene.clock.now)
    assert oldest == ("api", "RUNNING, version 3", heard_s)
    assert scene.ledger.told(ecs.task_arn(2)) == ()
