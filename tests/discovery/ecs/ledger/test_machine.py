"""A small cluster lives, and its informants tell of it late, twice, out of order or not at all.

What must hold at every moment: nobody who has been heard to stop is in the table, a port that the agent has
given to one task is no other task's, and the table made of the changes is the one made from scratch. And
once everybody has spoken, the table is the truth.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from discovery.ecs import shapes
from discovery.ecs.ledger.ledger import Ledger, Sighting
from discovery.ecs.shapes import Binding, Container, Task
from discovery.ecs.translate.translator import Translator
from discovery.model import Snapshot
from tests.kit import ecs_json as ecs
from tests.kit.cloud import Clock

LIVES = int(os.environ.get("ANYPORT_ORDERS", "150"))
SERVICES = ("web", "api")
HERE = 1  # the instance whose agent is asked
PORTS = (32768, 32769, 32770)
CONFIRM_S = 10.0


@dataclass
class Truth:
    """One task as it really is."""

    number: int
    service: str
    instance: int
    status: str = "PENDING"
    desired: str = "RUNNING"
    port: int = 0
    version: int = 1

    def json(self) -> dict[str, Any]:
        running = self.status == "RUNNING"
        container = ecs.container(
            lastStatus=self.status,
            runtimeId=f"docker-{self.number}" if running else None,
            bindings=[ecs.binding(8080, self.port)] if running else [],
        )
        return ecs.task(
            self.number,
            service=self.service,
            instance=self.instance,
            definition=f"{self.service}:1",
            lastStatus=self.status,
            desiredStatus=self.desired,
            version=self.version,
            startedAt=1000.0 + self.number if running or self.status == "STOPPED" else None,
            containers=[container],
        )

    def task(self) -> Task:
        return shapes.task(self.json())

    def sighting(self) -> Sighting:
        running = self.status == "RUNNING"
        return Sighting(
            arn=ecs.task_arn(self.number),
            definition=f"{self.service}:1",
            known_status=self.status,
            desired_status=self.desired,
            containers=(
                Container(
                    name="app",
                    last_status=self.status,
                    runtime_id=f"docker-{self.number}" if running else "",
                    bindings=(Binding(first=8080, last=8080, host_first=self.port),) if running else (),
                ),
            ),
        )


class FromScratch:
    """A ledger whose every group is new."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def take_dirty(self) -> set[str]:
        return set(self._ledger.groups)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.ledger = Ledger(clock=self.clock, wall_clock=self.clock)
        self.translator = Translator(source="ecs:prod", domain="example.com")
        self.tasks: list[Truth] = []
        self.said: list[Task] = []  # every event there has been
        self.stopped: set[str] = set()  # whom the ledger has heard to stop
        self.held: dict[int, str] = {}  # ports of the instance, as its agent has told last

    @initialize()
    def know_the_ground(self) -> None:
        for number in (1, 2):
            self.ledger.hear_instance(shapes.container_instance(ecs.instance(number)))
            self.ledger.hear_address(ecs.ec2_id(number), f"10.0.{number}.5")
        for service in SERVICES:
            self.ledger.hear_definition(shapes.task_definition(ecs.definition(f"{service}:1")))

    # -- what happens ----------------------------------------------------------------------------

    def happened(self, task: Truth, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(task, name, value)
        task.version += 1
        self.said.append(task.task())

    @rule(service=st.sampled_from(SERVICES), instance=st.sampled_from((HERE, 2)))
    def launch(self, service: str, instance: int) -> None:
        self.tasks.append(Truth(len(self.tasks) + 1, service, instance))
        self.happened(self.tasks[-1])

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.tasks))
        used = {t.port for t in self.tasks if t.status == "RUNNING" and t.instance == task.instance}
        free = [port for port in PORTS if port not in used]
        if task.status == "PENDING" and task.desired == "RUNNING" and free:
            self.happened(task, status="RUNNING", port=free[0])

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def tell_to_stop(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.tasks))
        if task.desired == "RUNNING":
            self.happened(task, desired="STOPPED")

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.tasks))
        if task.status != "STOPPED":
            self.happened(task, status="STOPPED", desired="STOPPED")

    @rule(seconds=st.sampled_from((0.2, 6.0, CONFIRM_S, 100.0)))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    # -- what is told of it ----------------------------------------------------------------------

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def tell_an_event(self, data: st.DataObject) -> None:
        """Any there has been, again or for the first time."""
        self.hear(data.draw(st.sampled_from(self.said)), "events")

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def tell_by_the_api(self, data: st.DataObject) -> None:
        for task in data.draw(st.lists(st.sampled_from(self.tasks), unique_by=lambda t: t.number)):
            self.hear(task.task(), "api")

    def hear(self, word: Task, by: str) -> None:
        self.ledger.hear_task(word, by=by)
        if word.last_status == "STOPPED":
            self.stopped.add(word.arn)

    @rule(cleaned=st.booleans())
    def tell_by_the_agent(self, cleaned: bool = False) -> None:
        """With *cleaned*, it has forgotten those that have stopped."""
        here = [t for t in self.tasks if t.instance == HERE and not (cleaned and t.status == "STOPPED")]
        self.ledger.hear_agent(ecs.instance_arn(HERE), [t.sighting() for t in here], confirm_s=CONFIRM_S)
        self.stopped |= {ecs.task_arn(t.number) for t in here if t.status == "STOPPED"}
        self.held = {t.port: ecs.task_arn(t.number) for t in here if t.status == "RUNNING"}

    @rule()
    def tell_by_an_agent_that_has_forgotten_all(self) -> None:
        self.ledger.hear_agent(ecs.instance_arn(HERE), [], confirm_s=CONFIRM_S)
        self.held = {}

    @rule()
    def lose_the_agent(self) -> None:
        self.ledger.hear_agent_lost(ecs.instance_arn(HERE))
        self.held = {}

    # -- what must hold --------------------------------------------------------------------------

    @invariant()
    def the_table_is_sound(self) -> None:
        snapshot = self.look()
        for endpoint in snapshot.endpoints:
            assert endpoint.task_arn not in self.stopped
            if endpoint.host == f"10.0.{HERE}.5":
                assert self.held.get(endpoint.port, endpoint.task_arn) == endpoint.task_arn
        fresh = Translator(source="ecs:prod", domain="example.com")
        made, _ = fresh.update(FromScratch(self.ledger), self.clock.now)  # type: ignore[arg-type]
        assert dict(snapshot.by_service) == dict(made.by_service)
        assert made.services.items() <= snapshot.services.items()
        assert snapshot.problems == made.problems

    def look(self) -> Snapshot:
        snapshot, _ = self.translator.update(self.ledger, self.clock.now)
        assert isinstance(snapshot.by_service, MappingProxyType)
        return snapshot

    def teardown(self) -> None:
        """Let everybody speak, and compare with the truth."""
        for task in self.tasks:
            self.hear(task.task(), "api")
        for _ in range(int(CONFIRM_S / 4.0) + 2):
            self.tell_by_the_agent()
            self.clock.now += 4.0
        true = Ledger(clock=self.clock, wall_clock=self.clock)
        for task in self.tasks:
            true.hear_task(task.task(), by="api")
        assert {t.arn: t.desired_status for t in self.ledger.tasks()} == {
            t.arn: t.desired_status for t in true.tasks()
        }
        assert {(e.service, e.key, e.address, e.draining) for e in self.look().endpoints} == {
            (
                t.service,
                (ecs.task_arn(t.number), "app", 8080),
                f"10.0.{t.instance}.5:{t.port}",
                t.desired == "STOPPED",
            )
            for t in self.tasks
            if t.status == "RUNNING"
        }


@pytest.mark.timeout(600)
def test_a_cluster_told_of_in_any_way_ends_as_the_truth() -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=LIVES,
            stateful_step_count=40,
            deadline=None,
            derandomize="ANYPORT_ORDERS" not in os.environ,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
