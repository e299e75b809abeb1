"""Which tasks are described again because no event tells that their health check has passed."""

from __future__ import annotations

from typing import Any

from discovery.ecs import shapes
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.ledger.starting import StartingTasks
from tests.kit.ecs_json import arn, container, task_arn
from tests.kit.event_json import task_detail


def ledger(*, check: bool = True) -> Ledger:
    made = Ledger()
    health = {"healthCheck": {"command": ["CMD", "true"]}} if check else {}
    raw = {"name": "app", "portMappings": [{"containerPort": 8080}], **health}
    made.hear_definition(
        shapes.task_definition(
            {"taskDefinitionArn": arn("task-definition", "web:42"), "containerDefinitions": [raw]}
        )
    )
    return made


def tell(to: Ledger, *, version: int = 3, health: str = "UNKNOWN", **more: Any) -> None:
    raw = task_detail(version=version, containers=[container(healthStatus=health)], **more)
    to.hear_task(shapes.task(raw), by="events")


def times(starting: StartingTasks, until_s: int) -> list[int]:
    """Return the seconds in which a task is due."""
    return [second for second in range(until_s) if starting.due(float(second)) == {task_arn(1)}]


def test_it_is_asked_for_every_five_seconds_and_later_every_twenty() -> None:
    known = ledger()
    tell(known)
    assert times(StartingTasks(known), 110) == [*range(5, 60, 5), 75, 95]


def test_not_any_more_once_it_has_passed_or_stops_or_is_gone() -> None:
    for end in ({"health": "HEALTHY"}, {"desiredStatus": "STOPPED"}, {"lastStatus": "STOPPED"}):
        known = ledger()
        tell(known)
        starting = StartingTasks(known)
        assert times(starting, 7) == [5]
        tell(known, version=4, **end)
        assert times(starting, 60) == []


def test_a_task_without_a_check_is_never_asked_for() -> None:
    known = ledger(check=False)
    tell(known)
    assert times(StartingTasks(known), 60) == []
