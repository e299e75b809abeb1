"""The agent on a task's own instance: believed before all others, but not when it is suspiciously short."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.ecs import shapes
from discovery.ecs.ledger.ledger import Ledger, Sighting
from discovery.ecs.shapes import Binding, Container, Task
from tests.kit import ecs_json as ecs
from tests.kit.cloud import Clock

HERE = ecs.instance_arn(1)
CONFIRM_S = 10.0


def task(number: int = 1, **more: Any) -> Task:
    return shapes.task(ecs.task(number, **more))


def sighting(number: int = 1, *, port: int = 32771, known: str = "RUNNING", desired: str = "") -> Sighting:
    binding = Binding(first=8080, last=8080, host_first=port)
    container = Container(
        name="app",
        last_status=known,
        runtime_id="runtime-app" if port else "",
        bindings=(binding,) if port else (),
    )
    return Sighting(
        arn=ecs.task_arn(number),
        definition="web:42",
        known_status=known,
        desired_status=desired,
        containers=(container,),
    )


class Scene:
    """A ledger, and the agent of the instance all its tasks run on, asked five times a second."""

    def __init__(self, *tasks: Task) -> None:
        self.clock = Clock()
        self.ledger = Ledger(clock=self.clock, wall_clock=self.clock)
        for known in tasks:
            self.ledger.hear_task(known, by="api")

    def hear(self, *sightings: Sighting) -> None:
        self.clock.now += 0.2
        self.ledger.hear_agent(HERE, sightings, confirm_s=CONFIRM_S)

    def hear_again(self, for_s: float) -> None:
        until_s = self.clock.now + for_s
        while self.clock.now < until_s - 0.01:
            self.clock.now += 0.2
            self.ledger.hear_agent_again(HERE, confirm_s=CONFIRM_S)

    def pass_silently(self, for_s: float) -> None:
        self.clock.now += for_s

    @property
    def live(self) -> set[int]:
        return {int(task.arn.rpartition("/")[2], 16) for task in self.ledger.tasks()}

    def port(self, number: int = 1) -> int:
        found = self.ledger.task(ecs.task_arn(number))
        assert found is not None
        bindings = found.containers[0].bindings
        return bindings[0].host_first if bindings else 0


def test_start_is_known_before_the_api_tells_of_it() -> None:
    pending = task(
        lastStatus="PENDING", version=1, containers=[ecs.container(lastStatus="PENDING", bindings=[])]
    )
    scene = Scene(pending)

    scene.hear(sighting(port=40001))

    found = scene.ledger.task(ecs.task_arn(1))
    assert found is not None
    assert (found.last_status, found.containers[0].last_status) == ("RUNNING", "RUNNING")
    assert scene.port() == 40001


def test_start_is_not_taken_back_by_an_api_that_lags() -> None:
    scene = Scene()
    scene.hear(sighting(port=40001))

    scene.ledger.hear_task(task(lastStatus="PENDING", version=2, containers=[]), by="api")

    assert scene.port() == 40001


def test_order_to_stop_is_known_first_and_never_taken_back() -> None:
    scene = Scene(task())
    scene.hear(sighting(desired="STOPPED"))
    scene.hear(sighting(desired=""))
    scene.ledger.hear_task(task(version=9), by="api")

    found = scene.ledger.task(ecs.task_arn(1))
    assert found is not None
    assert found.desired_status == "STOPPED"


def test_stop_is_final_whatever_the_api_says() -> None:
    scene = Scene(task())

    scene.hear(sighting(known="STOPPED"))
    scene.ledger.hear_task(task(version=9), by="api")
    scene.hear(sighting())

    assert scene.live == set()


def test_agent_does_not_revive_what_the_api_has_seen_to_stop() -> None:
    scene = Scene(task())
    scene.ledger.hear_task(task(version=9, lastStatus="STOPPED", desiredStatus="STOPPED"), by="api")

    scene.hear(sighting())

    assert scene.live == set()


def test_task_that_its_agent_has_running_is_not_missing() -> None:
    scene = Scene(*(task(n) for n in (1, 2, 3)))
    scene.hear(sighting(1), sighting(2), sighting(3))

    scene.ledger.hear_missing([ecs.task_arn(1)], by="api", confirm_s=CONFIRM_S)

    assert scene.live == {1, 2, 3}


def test_silent_agent_contradicts_nobody() -> None:
    scene = Scene(*(task(n) for n in (1, 2, 3)))
    scene.hear(sighting(1), sighting(2), sighting(3))
    scene.pass_silently(60.0)

    scene.ledger.hear_missing([ecs.task_arn(1)], by="api", confirm_s=CONFIRM_S)

    assert scene.live == {2, 3}


# --- what the agent does not list -----------------------------------------------------------------


def test_one_of_several_that_is_not_listed_any_more_is_not_to_be_seen() -> None:
    scene = Scene(*(task(n) for n in (1, 2, 3)))
    scene.hear(sighting(1), sighting(2, port=2), sighting(3, port=3))

    scene.hear(sighting(2, port=2), sighting(3, port=3))

    assert scene.live == {2, 3}
    assert scene.ledger.on_instance(HERE) == {ecs.task_arn(n) for n in (1, 2, 3)}, "ECS still counts it"
    assert scene.ledger.told(ecs.task_arn(1))[0].what == "not listed"


def test_what_is_listed_again_is_back() -> None:
    scene = Scene(*(task(n) for n in (1, 2, 3)))
    scene.hear(sighting(1), sighting(2, port=2), sighting(3, port=3))
    scene.hear(sighting(2, port=2), sighting(3, port=3))

    scene.hear(sighting(1), sighting(2, port=2), sighting(3, port=3))

    assert scene.live == {1, 2, 3}


def test_agent_that_suddenly_lists_nothing_is_not_believed_at_once() -> None:
    scene = Scene(task(1), task(2))
    scene.hear(sighting(1), sighting(2, port=2))

    scene.hear()
    scene.hear_again(CONFIRM_S - 1.0)
    assert scene.live == {1, 2}

    scene.hear_again(1.0)
    assert scene.live == set()


def test_silence_is_no_confirmation() -> None:
    scene = Scene(task(1), task(2))
    scene.hear(sighting(1), sighting(2, port=2))
    scene.hear()

    scene.pass_silently(CONFIRM_S + 1.0)
    scene.hear_again(0.2)

    assert scene.live == {1, 2}


def test_agent_that_was_away_may_have_forgotten_even_one_task() -> None:
    scene = Scene(*(task(n) for n in (1, 2, 3)))
    scene.hear(sighting(1), sighting(2, port=2), sighting(3, port=3))
    scene.pass_silently(30.0)

    scene.hear(sighting(2, port=2), sighting(3, port=3))
    assert scene.live == {1, 2, 3}
    scene.hear_again(CONFIRM_S)

    assert scene.live == {2, 3}


def test_task_the_agent_has_never_listed_is_doubted_first() -> None:
    scene = Scene(task(1))
    scene.hear(sighting(2, port=2), sighting(3, port=3))
    scene.hear(sighting(2, port=2), sighting(3, port=3))
    assert scene.live == {1}

    scene.hear_again(CONFIRM_S)

    assert scene.live == set()


def test_task_on_its_way_to_the_agent_is_awaited() -> None:
    scene = Scene(task(1, lastStatus="PENDING", containers=[]))
    scene.hear()

    scene.hear_again(60.0)

    assert scene.live == {1}


# --- ports ----------------------------------------------------------------------------------------


def test_port_that_the_agent_has_given_to_one_task_is_no_other_tasks() -> None:
    """The API still says that the old task has the port; the agent does not list that one any more."""
    scene = Scene(task(1), task(2, service="other", version=1, lastStatus="PENDING", containers=[]))
    assert scene.port(1) == 32771

    scene.hear(sighting(2, port=32771))

    assert scene.live == {1, 2}, "whether the old one is gone is not certain yet"
    assert (scene.port(1), scene.port(2)) == (0, 32771)


def test_port_given_out_anew_is_noticed_when_nothing_else_changes() -> None:
    scene = Scene(
        task(1), task(2, service="other", containers=[ecs.container(bindings=[ecs.binding(8080, 2)])])
    )
    scene.hear(sighting(2, port=2))
    scene.ledger.take_dirty()

    scene.hear(sighting(2, port=32771))

    assert (scene.port(1), scene.port(2)) == (0, 32771)
    assert scene.ledger.take_dirty() == {"service:web", "service:other"}


def test_task_that_keeps_its_port_is_the_same_object_as_before() -> None:
    scene = Scene(task(1))
    scene.hear(sighting(1))
    before = scene.ledger.task(ecs.task_arn(1))

    scene.hear(sighting(1), sighting(2, port=2))

    assert scene.ledger.task(ecs.task_arn(1)) is before
    assert scene.ledger.groups["service:web"][ecs.task_arn(1)] is before


def test_ports_of_another_instance_are_another_matter() -> None:
    scene = Scene(task(1, instance=2))

    scene.hear(sighting(2, port=32771))

    assert scene.port(1) == 32771


def test_container_that_was_started_anew_has_only_the_ports_the_agent_says() -> None:
    scene = Scene(task(1, containers=[ecs.container(runtimeId="before", healthStatus="HEALTHY")]))

    scene.hear(sighting(1, port=40001))

    found = scene.ledger.task(ecs.task_arn(1))
    assert found is not None
    assert (scene.port(), found.containers[0].health) == (40001, "UNKNOWN")


def test_port_the_api_knows_is_kept_while_the_agent_does_not_say() -> None:
    scene = Scene(task(1))

    scene.hear(sighting(1, port=0))

    assert scene.port() == 32771


# --- an agent that is lost ------------------------------------------------------------------------


def test_last_words_of_a_lost_agent_stay_until_there_are_later_ones() -> None:
    scene = Scene(task(1, version=2, lastStatus="PENDING", containers=[]))
    scene.hear(sighting(1, port=40001))

    scene.ledger.hear_agent_lost(HERE)
    assert scene.port() == 40001

    anew = ecs.container(runtimeId="anew", bindings=[ecs.binding(8080, 40002)])
    scene.ledger.hear_task(task(1, version=4, containers=[anew]), by="api")
    assert scene.port() == 40002


def test_later_news_than_the_last_words_of_a_lost_agent_shows_the_task_again() -> None:
    scene = Scene(*(task(n) for n in (1, 2, 3)))
    scene.hear(sighting(1), sighting(2, port=2), sighting(3, port=3))
    scene.hear(sighting(2, port=2), sighting(3, port=3))
    scene.ledger.hear_agent_lost(HERE)
    assert scene.live == {2, 3}

    scene.ledger.hear_task(task(1, version=4), by="api")

    assert scene.live == {1, 2, 3}


# --- tasks that nobody has described --------------------------------------------------------------


def test_task_that_only_an_agent_has_seen_is_asked_for_with_its_definition() -> None:
    scene = Scene()

    scene.hear(sighting(1, known="PENDING", port=0))

    assert scene.live == set()
    assert scene.ledger.wants() == ({ecs.definition_arn("web:42")}, set(), set(), {ecs.task_arn(1)})
    assert scene.ledger.undescribed == {ecs.task_arn(1): (HERE, sighting(1, known="PENDING", port=0))}


@pytest.mark.parametrize("ends", [(), (sighting(1, known="STOPPED"),)], ids=["vanished", "stopped"])
def test_nothing_is_asked_for_a_task_that_has_gone_again(ends: tuple[Sighting, ...]) -> None:
    scene = Scene()
    scene.hear(sighting(1))

    scene.hear(*ends)

    assert not any(scene.ledger.wants())
    assert scene.ledger.undescribed == {}
    assert scene.ledger.on_instance(HERE) == set()


def test_presumed_task_is_seen_until_it_is_described() -> None:
    scene = Scene()
    scene.hear(sighting(1, port=40001))

    scene.ledger.presume(ecs.task_arn(1), "service:web")
    assert (scene.live, scene.port()) == ({1}, 40001)
    assert scene.ledger.wants().tasks == {ecs.task_arn(1)}
    assert scene.ledger.take_dirty() == {"service:web"}

    scene.ledger.hear_task(task(1, group="family:web"), by="api")
    assert set(scene.ledger.groups) == {"family:web"}
    assert scene.ledger.take_dirty() == {"service:web", "family:web"}
    assert scene.ledger.wants().tasks == set()


def test_presumed_task_does_not_vanish_with_an_agent_that_lists_nothing() -> None:
    scene = Scene()
    scene.hear(sighting(1, port=40001))
    scene.ledger.presume(ecs.task_arn(1), "service:web")

    scene.hear()
    assert scene.live == {1}
    scene.hear_again(CONFIRM_S)

    assert scene.live == set()
    assert not any(scene.ledger.wants())
