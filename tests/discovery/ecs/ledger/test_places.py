"""Instances, addresses, definitions and notices: what is asked for, believed and let go."""

from __future__ import annotations

from typing import Any

from discovery.ecs import shapes
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.shapes import ContainerInstance
from tests.kit import ecs_json as ecs
from tests.kit.cloud import Clock

HOURS_S = 3 * 3600.0


class Scene:
    def __init__(self) -> None:
        self.clock = Clock()
        self.ledger = Ledger(clock=self.clock, wall_clock=self.clock)

    def run(self, number: int = 1, **more: Any) -> None:
        self.ledger.hear_task(shapes.task(ecs.task(number, **more)), by="api")
        self.ledger.take_dirty()

    def know(self, instance: ContainerInstance) -> None:
        self.ledger.hear_instance(instance)
        self.ledger.hear_address(instance.ec2_id, "10.0.1.5")
        self.ledger.take_dirty()

    def grow_old(self) -> None:
        """Let hours pass with now and then a task that ends."""
        for _ in range(20):
            self.clock.now += HOURS_S / 20
            self.ledger.hear_gone(ecs.task_arn(int(self.clock.now)), by="api")


def instance(number: int = 1, **more: Any) -> ContainerInstance:
    return shapes.container_instance(ecs.instance(number, **more))


def definition(short: str = "web:42") -> shapes.TaskDefinition:
    return shapes.task_definition(ecs.definition(short))


def test_what_a_task_needs_is_wanted_step_by_step() -> None:
    scene = Scene()
    scene.run(lastStatus="PENDING", containers=[])
    assert scene.ledger.wants() == (
        {ecs.definition_arn("web:42")},
        {ecs.instance_arn(1)},
        set(),
        set(),
    ), "before it runs, so that nothing is left to ask when it does"

    scene.ledger.hear_definition(definition())
    scene.ledger.hear_instance(instance())
    assert scene.ledger.take_dirty() == {"service:web"}
    assert scene.ledger.wants() == (set(), set(), {ecs.ec2_id(1)}, set())

    scene.ledger.hear_address(ecs.ec2_id(1), "10.0.1.5")
    assert scene.ledger.take_dirty() == {"service:web"}
    assert not any(scene.ledger.wants())


def test_nothing_is_wanted_for_a_task_that_has_gone() -> None:
    scene = Scene()
    scene.run(1)
    scene.run(2, definition="web:43")

    scene.ledger.hear_gone(ecs.task_arn(1), by="events")

    assert scene.ledger.wants().definitions == {ecs.definition_arn("web:43")}
    scene.ledger.hear_gone(ecs.task_arn(2), by="events")
    assert not any(scene.ledger.wants())


def test_ecs_anywhere_machine_is_not_asked_of_ec2() -> None:
    scene = Scene()
    scene.run()

    scene.ledger.hear_instance(instance(ec2InstanceId="mi-0123456789abcdef0"))

    assert scene.ledger.wants().addresses == set()


def test_instance_that_ec2_does_not_know_yet_stays_wanted() -> None:
    scene = Scene()
    scene.run()
    scene.ledger.hear_instance(instance())
    scene.ledger.take_dirty()

    scene.ledger.hear_address(ecs.ec2_id(1), "")
    assert scene.ledger.take_dirty() == {"service:web"}
    assert (scene.ledger.nowhere, scene.ledger.wants().addresses) == ({ecs.ec2_id(1)}, {ecs.ec2_id(1)})
    assert scene.ledger.addresses == {}

    scene.ledger.hear_address(ecs.ec2_id(1), "10.0.1.5")
    assert scene.ledger.take_dirty() == {"service:web"}
    assert (scene.ledger.nowhere, scene.ledger.wants().addresses) == (set(), set())


def test_address_is_kept_when_ec2_forgets_the_instance() -> None:
    scene = Scene()
    scene.know(instance())

    scene.ledger.hear_address(ecs.ec2_id(1), "")

    assert scene.ledger.addresses == {ecs.ec2_id(1): "10.0.1.5"}


def test_instance_never_goes_back_in_time() -> None:
    scene = Scene()
    scene.know(instance(version=7))

    scene.ledger.hear_instance(instance(version=6, status="DRAINING"))

    assert scene.ledger.instances[ecs.instance_arn(1)].status == "ACTIVE"


def test_new_version_of_an_instance_makes_nobody_look_unless_it_says_something() -> None:
    """The version rises with every task that is placed there."""
    scene = Scene()
    scene.run()
    scene.know(instance(version=7))

    scene.ledger.hear_instance(instance(version=8))
    assert scene.ledger.take_dirty() == set()

    scene.ledger.hear_instance(instance(version=9, status="DRAINING"))
    assert scene.ledger.take_dirty() == {"service:web"}


def test_notice_makes_the_tasks_of_the_instance_be_looked_at() -> None:
    scene = Scene()
    scene.run()
    scene.know(instance())

    scene.ledger.hear_notice(ecs.ec2_id(1), "Spot interruption: terminate")
    assert scene.ledger.take_dirty() == {"service:web"}
    scene.ledger.hear_notice(ecs.ec2_id(1), "Spot interruption: terminate")
    assert scene.ledger.take_dirty() == set()
    scene.ledger.hear_notice(ecs.ec2_id(1), "")
    assert scene.ledger.take_dirty() == {"service:web"}


def test_what_no_task_needs_is_let_go_after_hours() -> None:
    scene = Scene()
    for number in (1, 2):
        scene.run(number, instance=number, definition=f"web:{number}")
        scene.know(instance(number))
        scene.ledger.hear_definition(definition(f"web:{number}"))
    scene.ledger.hear_notice(ecs.ec2_id(2), "Spot interruption: terminate")

    scene.ledger.hear_gone(ecs.task_arn(2), by="events")
    assert set(scene.ledger.instances) == {ecs.instance_arn(1), ecs.instance_arn(2)}, "it may be needed again"
    scene.grow_old()
    scene.grow_old()

    ledger = scene.ledger
    assert set(ledger.instances) == {ecs.instance_arn(1)}
    assert set(ledger.addresses) == {ecs.ec2_id(1)}
    assert set(ledger.definitions) == {ecs.definition_arn("web:1")}
    assert ledger.notices == {}
    assert {change.key for change in ledger.since(0) if change.kind != "gone"} == {
        ecs.task_arn(1),
        ecs.instance_arn(1),
        ecs.ec2_id(1),
        ecs.definition_arn("web:1"),
    }


def test_instance_that_is_listed_is_kept_without_tasks() -> None:
    scene = Scene()
    scene.know(instance(1))
    scene.ledger.hear_instances_listed([ecs.instance_arn(1)])

    scene.grow_old()
    scene.grow_old()
    assert set(scene.ledger.instances) == {ecs.instance_arn(1)}

    scene.ledger.hear_instances_listed([])
    scene.grow_old()
    scene.grow_old()
    assert set(scene.ledger.instances) == set()
