"""Answers out of order, stale or suspiciously short: what may and may not be forgotten."""

from __future__ import annotations

from typing import Any

from discovery.ecs import shapes
from discovery.ecs.memory import InstanceMemory, ServiceMemory, TaskMemory
from discovery.ecs.shapes import Task
from discovery.model import Service, Snapshot
from tests.kit import ecs_json as ecs

CONFIRM_S = 10.0


def task(number: int = 1, **more: Any) -> Task:
    return shapes.task(ecs.task(number, **more))


def remembering(*tasks: Task) -> TaskMemory:
    memory = TaskMemory(confirm_s=CONFIRM_S)
    memory.accept(tasks, [], 0.0)
    return memory


def live(memory: TaskMemory) -> dict[str, Task]:
    return {task.arn: task for task in memory.live}


def test_older_copy_does_not_overwrite_a_newer_one() -> None:
    memory = remembering(task(version=3))

    memory.accept([task(version=2, lastStatus="PENDING")], [], 1.0)

    assert memory.live[0].last_status == "RUNNING"


def test_stop_is_never_taken_back() -> None:
    """Whatever the version says, or if it says nothing: ECS does not revive a task."""
    memory = remembering(task(version=4, desiredStatus="STOPPED"))

    memory.accept([task(version=4)], [], 1.0)
    memory.accept([task(version=None)], [], 2.0)

    assert memory.live[0].desired_status == "STOPPED"


def test_health_may_change_without_a_new_version() -> None:
    memory = remembering(task(containers=[ecs.container(healthStatus="HEALTHY")]))

    memory.accept([task(containers=[ecs.container(healthStatus="UNHEALTHY")])], [], 1.0)

    assert memory.live[0].containers[0].health == "UNHEALTHY"


def test_task_seen_stopped_never_returns() -> None:
    memory = remembering(task())

    memory.accept([task(version=6, lastStatus="STOPPED", desiredStatus="STOPPED")], [], 1.0)
    memory.accept([task(version=3)], [], 2.0)

    assert memory.live == ()


def test_health_once_known_is_not_forgotten_when_the_agent_is_lost() -> None:
    memory = remembering(task(containers=[ecs.container(healthStatus="HEALTHY")]))

    memory.accept([task(version=4, containers=[ecs.container(healthStatus="UNKNOWN")])], [], 1.0)

    assert memory.live[0].containers[0].health == "HEALTHY"


def test_bindings_of_a_running_container_do_not_vanish() -> None:
    memory = remembering(task())

    memory.accept([task(version=4, containers=[ecs.container(bindings=[])])], [], 1.0)

    assert memory.live[0].containers[0].bindings[0].host_first == 32771


def test_restarted_container_starts_from_nothing() -> None:
    """A restart policy puts a new container in the place of the old one, with other host ports."""
    memory = remembering(task(containers=[ecs.container(healthStatus="HEALTHY")]))

    restarted = ecs.container(bindings=[], runtimeId="another", healthStatus="UNKNOWN")
    memory.accept([task(version=5, containers=[restarted])], [], 1.0)

    assert (memory.live[0].containers[0].bindings, memory.live[0].containers[0].health) == ((), "UNKNOWN")


def test_few_missing_tasks_are_gone_at_once() -> None:
    memory = remembering(task(1), task(2), task(3))

    memory.accept([task(2), task(3)], [ecs.task_arn(1)], 1.0)

    assert set(live(memory)) == {ecs.task_arn(2), ecs.task_arn(3)}


def test_most_of_a_service_missing_needs_a_second_answer_later() -> None:
    memory = remembering(task(1), task(2), task(3, service="other"))
    gone = [ecs.task_arn(1), ecs.task_arn(2)]

    memory.accept([task(3, service="other")], gone, 1.0)
    assert len(memory.live) == 3
    assert memory.doubting == 2

    memory.accept([task(3, service="other")], gone, 1.0 + CONFIRM_S - 0.1)
    assert len(memory.live) == 3, "two answers in a row may come from one stale copy"

    memory.accept([task(3, service="other")], gone, 1.0 + CONFIRM_S)
    assert set(live(memory)) == {ecs.task_arn(3)}
    assert memory.doubting == 0


def test_doubt_ends_when_the_task_is_seen_again() -> None:
    memory = remembering(task(1))

    memory.accept([], [ecs.task_arn(1)], 1.0)
    memory.accept([task(1)], [], 5.0)
    memory.accept([], [ecs.task_arn(1)], 12.0)

    assert len(memory.live) == 1, "the second doubt starts from its own beginning"


def test_missing_is_no_surprise_for_a_task_that_was_stopping() -> None:
    memory = remembering(task(desiredStatus="STOPPED", version=4))

    memory.accept([], [ecs.task_arn(1)], 1.0)

    assert memory.live == ()


def test_stopped_task_seen_stopping_with_the_rest_of_its_service_is_gone_at_once() -> None:
    """Positive evidence is never doubted, however many tasks it ends."""
    memory = remembering(task(1), task(2))
    over = {"version": 6, "lastStatus": "STOPPED", "desiredStatus": "STOPPED"}

    memory.accept([task(1, **over), task(2, **over)], [], 1.0)

    assert memory.live == ()


def test_instances_stay_while_needed_and_never_go_back() -> None:
    memory = InstanceMemory()
    one, two = (shapes.container_instance(ecs.instance(n, version=7)) for n in (1, 2))
    memory.accept([one, two], [one.arn, two.arn])
    memory.addresses = {one.ec2_id: "10.0.0.1"}
    assert memory.without_address() == [two.ec2_id]

    old = shapes.container_instance(ecs.instance(1, version=6, status="DRAINING"))
    memory.accept([old], [one.arn, two.arn])
    assert memory.by_arn == {one.arn: one, two.arn: two}

    memory.accept([], [two.arn])
    assert (set(memory.by_arn), memory.addresses) == ({two.arn}, {})


def test_ecs_anywhere_machine_is_not_asked_of_ec2() -> None:
    memory = InstanceMemory()
    machine = shapes.container_instance(ecs.instance(1, ec2InstanceId="mi-0123456789abcdef0"))

    memory.accept([machine], [machine.arn])

    assert memory.without_address() == []


def services(*found: Service) -> Snapshot:
    return Snapshot(source="ecs:prod", services={service.name: service for service in found})


def test_service_scaled_to_nothing_stays_known_for_a_while() -> None:
    memory = ServiceMemory()
    web = Service(name="web", hosts=("a.io",))

    memory.complete(services(web), 0.0)

    assert memory.complete(services(), 60.0).services == {"web": web}
    assert memory.complete(services(), 7200.0).services == {}


def test_remembered_service_makes_way_for_one_that_takes_its_host() -> None:
    memory = ServiceMemory()
    memory.complete(services(Service(name="web", hosts=("a.io",))), 0.0)
    renamed = Service(name="shop", hosts=("a.io",))

    assert memory.complete(services(renamed), 1.0).services == {"shop": renamed}
