"""The life of a task as a table: what ECS and EC2 say, and what may be sent there."""

from __future__ import annotations

import math
from typing import Any

import pytest

from discovery.ecs.translate.lifecycle import Row, Stage, stage, step_back
from discovery.model import BackendKey, Endpoint

RUNNING = {"last_status": "RUNNING", "desired_status": "RUNNING", "container_status": "RUNNING"}
CHECKED = {"has_health_check": True}
DRAINING = {"instance": "i-1", "instance_status": "DRAINING"}
SPOT = {"instance": "i-1", "notice": "Spot interruption: terminate"}


@pytest.mark.parametrize(
    ("facts", "state", "reason"),
    [
        ({}, "ready", ""),
        # --- before it runs
        ({"last_status": "PROVISIONING"}, "starting", "the task is PROVISIONING"),
        ({"last_status": "PENDING"}, "starting", "the task is PENDING"),
        ({"last_status": "ACTIVATING"}, "starting", "the task is ACTIVATING"),
        ({"last_status": "HIBERNATING"}, "starting", "the task is HIBERNATING"),  # whatever may come to ECS
        ({"container_status": "PENDING"}, "starting", "the container is PENDING"),
        # --- health, of this very container
        ({"health": "HEALTHY", **CHECKED}, "ready", ""),
        ({"health": "UNKNOWN"}, "ready", ""),
        ({"health": "UNKNOWN", **CHECKED}, "starting", "container health UNKNOWN: its health check has not"),
        (
            {"health": "UNKNOWN", **CHECKED, "connectivity": "CONNECTED"},
            "starting",
            "container health UNKNOWN",
        ),
        ({"health": "UNKNOWN", **CHECKED, "connectivity": "DISCONNECTED"}, "ready", ""),
        ({"health": "UNHEALTHY", **CHECKED}, "draining", "container health UNHEALTHY"),
        ({"health": "UNHEALTHY", "connectivity": "DISCONNECTED"}, "draining", "container health UNHEALTHY"),
        ({"connectivity": "DISCONNECTED"}, "ready", ""),  # agents reconnect several times an hour
        # --- the stop
        ({"desired_status": "STOPPED"}, "draining", "ECS is stopping the task"),
        (
            {"desired_status": "STOPPED", "stop_code": "SpotInterruption"},
            "draining",
            "the task (SpotInterruption)",
        ),
        ({"desired_status": "STOPPED", "health": "UNKNOWN", **CHECKED}, "draining", "ECS is stopping"),
        ({"last_status": "DEACTIVATING"}, "draining", "ECS is stopping the task"),
        ({"last_status": "STOPPING", "desired_status": "STOPPED"}, "draining", "ECS is stopping the task"),
        ({"last_status": "DEPROVISIONING", "desired_status": "STOPPED"}, "draining", "ECS is stopping"),
        (
            {"desired_status": "STOPPED", "last_status": "PENDING", "container_status": "PENDING"},
            "gone",
            "before",
        ),
        ({"desired_status": "STOPPED", "container_status": "STOPPED"}, "gone", "the container is STOPPED"),
        ({"container_status": "STOPPED"}, "gone", "the container is STOPPED"),
        ({"last_status": "STOPPED"}, "gone", "the task is STOPPED"),
        ({"last_status": "DELETED"}, "gone", "the task is DELETED"),
        # --- the instance
        (DRAINING, "ready", ""),  # ECS leaves it running until its replacement runs
        ({**DRAINING, "relieved": True}, "draining", "container instance i-1 is DRAINING"),
        ({**DRAINING, "instance_status": "DEREGISTERING", "relieved": True}, "draining", "is DEREGISTERING"),
        (SPOT, "ready", ""),
        ({**SPOT, "relieved": True}, "draining", "i-1 is about to go: Spot interruption: terminate"),
        ({**SPOT, **DRAINING, "relieved": True}, "draining", "is about to go"),
        ({**DRAINING, "relieved": True, "health": "UNKNOWN", **CHECKED}, "starting", "UNKNOWN"),
        ({"relieved": True}, "ready", ""),
    ],
)
def test_stage_of_a_container(facts: dict[str, Any], state: str, reason: str) -> None:
    found = stage(**{**RUNNING, **facts})

    assert found.state == state
    assert reason in found.reason
    assert bool(found.reason) is (state != "ready"), "whoever is not ready can say why"


def test_reasons_say_nothing_while_ready() -> None:
    assert stage(**RUNNING) == Stage("ready")


NOW_S = 1000.0


def row(number: int, *, leaving: bool = False, settled_s: float = NOW_S) -> Row:
    key = BackendKey(f"task/{number}", "app", 8080)
    endpoint = Endpoint(
        service="web", task_arn=key[0], container=key[1], container_port=key[2], host="10.0.0.1", port=number
    )
    relieved = Endpoint(
        service="web",
        task_arn=key[0],
        container=key[1],
        container_port=key[2],
        host="10.0.0.1",
        port=number,
        draining=True,
    )
    return Row(key, endpoint, relieved if leaving else None, settled_s)


@pytest.mark.parametrize(
    ("rows", "draining", "again_s"),
    [
        pytest.param([row(1), row(2)], [], math.inf, id="nobody-leaves"),
        pytest.param([row(1, leaving=True), row(2)], [1], math.inf, id="one-for-one"),
        pytest.param([row(1, leaving=True), row(2, settled_s=1001.0)], [], 1001.0, id="not-settled-yet"),
        pytest.param(
            [row(1, leaving=True), row(2, settled_s=math.inf)], [], math.inf, id="starting-or-draining"
        ),
        pytest.param([row(1, leaving=True), row(2, leaving=True), row(3)], [], math.inf, id="one-for-two"),
        pytest.param(
            [
                row(1, leaving=True),
                row(2, leaving=True),
                row(3),
                row(4, settled_s=1002.0),
                row(5, settled_s=1001.0),
            ],
            [],
            1001.0,
            id="when-the-second-has-settled",
        ),
        pytest.param([row(1, leaving=True)], [], math.inf, id="alone"),
    ],
)
def test_the_leaving_step_back_only_for_as_many_settled_ones(
    rows: list[Row], draining: list[int], again_s: float
) -> None:
    endpoints, look_again_s = step_back(rows, NOW_S)

    assert [e.port for e in endpoints if e.draining] == draining
    assert look_again_s == again_s
