"""`dependsOn`: what may start, what may stop, and what RegisterTaskDefinition refuses."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.simulator.failures import ApiError
from discovery.simulator.order import may_start, may_stop
from discovery.simulator.state import Container
from tests.kit.cloud import Cloud


def _definition(name: str, *depends_on: tuple[str, str], **more: Any) -> dict[str, Any]:
    items = [{"containerName": other, "condition": condition} for other, condition in depends_on]
    return {"name": name, "image": "x", "dependsOn": items, **more}


def _container(definition: dict[str, Any], **state: Any) -> Container:
    return Container(arn="", name=definition["name"], definition=definition, **state)


RUNS: dict[str, Any] = {"pid": 7, "last_status": "RUNNING"}
ENDED: dict[str, Any] = {"last_status": "STOPPED", "exit_code": 0}
FAILED: dict[str, Any] = {"last_status": "STOPPED", "exit_code": 3}


@pytest.mark.parametrize(
    ("condition", "state", "answer"),
    [
        ("START", {}, "later"),
        ("START", {"pid": 7}, "now"),
        ("START", ENDED, "now"),
        ("COMPLETE", RUNS, "later"),
        ("COMPLETE", ENDED, "now"),
        ("COMPLETE", FAILED, "now"),
        ("SUCCESS", RUNS, "later"),
        ("SUCCESS", ENDED, "now"),
        ("SUCCESS", FAILED, "never"),
        ("HEALTHY", RUNS, "later"),
        ("HEALTHY", {**RUNS, "health_status": "UNHEALTHY"}, "later"),
        ("HEALTHY", {**RUNS, "health_status": "HEALTHY"}, "now"),
        ("HEALTHY", ENDED, "never"),
    ],
)
def test_a_container_starts_when_its_condition_holds(
    condition: str, state: dict[str, Any], answer: str
) -> None:
    app = _container(_definition("app"), **state)
    sidecar = _container(_definition("sidecar", ("app", condition)))
    assert may_start(sidecar, [sidecar, app]) == answer
    assert may_start(app, [sidecar, app]) == "now"


def test_all_conditions_must_hold() -> None:
    a, b = _container(_definition("a"), **RUNS), _container(_definition("b"))
    both = _container(_definition("c", ("a", "START"), ("b", "START")))
    assert may_start(both, [a, b, both]) == "later"
    b.pid = 8
    assert may_start(both, [a, b, both]) == "now"


def test_a_container_is_told_to_stop_once_nothing_that_depends_on_it_runs() -> None:
    app = _container(_definition("app"), **RUNS)
    sidecar = _container(_definition("sidecar", ("app", "START")), **RUNS)
    third = _container(_definition("third", ("sidecar", "START")), **RUNS)
    task = [app, sidecar, third]
    assert [may_stop(one, task) for one in task] == [False, False, True]
    third.pid = 0
    assert [may_stop(one, task) for one in task] == [False, True, True]


@pytest.mark.parametrize(
    ("definitions", "text"),
    [
        ([_definition("a", ("b", "START"))], "depends on 'b', which is not in the task"),
        ([_definition("a"), _definition("b", ("a", "SOON"))], "'SOON' is not one of START, COMPLETE"),
        ([_definition("a"), _definition("b", ("a", "HEALTHY"))], "'a' needs a health check"),
        ([_definition("a"), _definition("b", ("a", "SUCCESS"))], "'a' is essential"),
        ([_definition("a", ("a", "START"))], "go round in a circle"),
        ([_definition("a", ("b", "START")), _definition("b", ("a", "START"))], "go round in a circle"),
    ],
)
def test_what_could_never_work_is_refused(definitions: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(ApiError, match=text) as refused:
        Cloud().call("RegisterTaskDefinition", family="f", containerDefinitions=definitions)
    assert refused.value.code == "ClientException"
