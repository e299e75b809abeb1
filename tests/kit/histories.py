"""A random past of an ECS account on paper, every word that was said about it, and how it ended."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import orjson

from discovery.ecs import shapes
from discovery.ecs.events import meaning as events
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.shapes import ContainerInstance, Task, TaskDefinition
from discovery.simulator.state import Instance
from discovery.simulator.state import Task as PaperTask
from discovery.simulator.wire import definition_json, instance_json, task_json
from tests.kit.cloud import Cloud

CLUSTER = "prod"
SERVICES = ("web", "api", "jobs")
PORTS = range(32768, 32773)  # few, so that they are used again


@dataclass(frozen=True)
class Word:
    """What an informant says: an event, or one answer of the API about all tasks it knows."""

    by: str
    tasks: tuple[Task, ...] = ()
    instances: tuple[ContainerInstance, ...] = ()

    def tell(self, ledger: Ledger) -> None:
        for task in self.tasks:
            ledger.hear_task(task, by=self.by)
        for instance in self.instances:
            ledger.hear_instance(instance)


@dataclass
class History:
    """What has happened, and what was said of it in the order in which it happened."""

    words: list[Word] = field(default_factory=list)
    definitions: list[TaskDefinition] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=dict)
    end: Word = field(default_factory=lambda: Word("api"))  # the API, when all is quiet
    forgotten: frozenset[str] = frozenset()  # tasks that ECS does not show any more

    def tell_what_never_changes(self, ledger: Ledger) -> None:
        for definition in self.definitions:
            ledger.hear_definition(definition)
        for ec2_id, address in self.addresses.items():
            ledger.hear_address(ec2_id, address)


@lru_cache(maxsize=256)
def history(seed: int, steps: int = 40) -> History:
    """Return the past that belongs to *seed*."""
    return _Past(random.Random(seed)).lived(steps)


class _Past:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._cloud = Cloud()
        self._cloud.crew.patient = True
        self._cluster = self._cloud.cluster(CLUSTER)
        self._history = History()
        self._used: set[tuple[str, int]] = set()
        self._bindings: dict[str, tuple[str, int]] = {}
        for family in SERVICES:
            for revision in (1, 2):
                labels = {"anyport.host": f"{family}{revision}.io", "anyport.port": "8080"}
                check = {"command": ["CMD", "true"]} if family == "web" else None
                container = {"dockerLabels": labels, **({"healthCheck": check} if check else {})}
                self._cloud.define(family, networkMode="bridge", container=container)
        self._cloud.account.bulletin.subscribe(self._heard)

    def _heard(self, event: object) -> None:
        envelope = event.envelope("123456789012", "eu-west-1", "e")  # type: ignore[attr-defined]
        news = events.read(orjson.dumps(envelope))
        assert news.kind in ("task", "instance"), news
        self._history.words.append(
            Word(
                "events",
                tasks=(news.task,) if news.task else (),
                instances=(news.instance,) if news.instance else (),
            )
        )

    def lived(self, steps: int) -> History:
        history, account = self._history, self._cloud.account
        for _ in range(steps):
            self._cloud.clock.now += self._rng.uniform(0, 5)
            self._rng.choice(
                (
                    *(self._launch, self._launch, self._run, self._run),
                    *(self._stop, self._end, self._check, self._drain, self._ask),
                )
            )()
        history.definitions = [
            shapes.task_definition(definition_json(d)) for d in account.state.definitions.values()
        ]
        history.addresses = {i.ec2_instance_id: i.address for i in self._instances()}
        # What stopped long ago is not shown any more.
        stopped = [t.arn for t in self._tasks() if t.last_status == "STOPPED"]
        history.forgotten = frozenset(arn for arn in stopped if self._rng.random() < 0.3)
        history.end = self._answer(without=history.forgotten)
        return history

    def _tasks(self) -> list[PaperTask]:
        return list(self._cluster.tasks.values())

    def _instances(self) -> list[Instance]:
        return list(self._cluster.instances.values())

    def _answer(self, without: Iterable[str] = ()) -> Word:
        return Word(
            "api",
            tasks=tuple(shapes.task(task_json(t)) for t in self._tasks() if t.arn not in without),
            instances=tuple(
                shapes.container_instance(instance_json(i, self._cluster)) for i in self._instances()
            ),
        )

    def _some(self, *statuses: str) -> PaperTask | None:
        found = [t for t in self._tasks() if t.last_status in statuses]
        return self._rng.choice(found) if found else None

    # -- what may happen -------------------------------------------------------------------------

    def _launch(self) -> None:
        account, family = self._cloud.account, self._rng.choice(SERVICES)
        revision = self._rng.choice((1, 2))
        instance = self._rng.choice(self._instances())
        task = account.new_task(
            self._cluster,
            account.definition(f"{family}:{revision}"),
            group=f"service:{family}",
            instance=instance,
            zone=instance.zone,
            launch_type="EC2",
            started_by=f"ecs-svc/{revision}",
        )
        task.last_status = "PENDING"
        account.task_changed(task)

    def _run(self) -> None:
        task = self._some("PENDING")
        if task is None or task.desired_status == "STOPPED" or task.instance is None:
            return
        free = [p for p in PORTS if (task.instance.arn, p) not in self._used]
        if free:
            self._cloud.crew.next_port = self._rng.choice(free)
            self._bindings[task.arn] = (task.instance.arn, self._cloud.crew.next_port)
            self._used.add(self._bindings[task.arn])
            self._cloud.crew.run(task)

    def _stop(self) -> None:
        task = self._some("PENDING", "RUNNING")
        if task is not None:
            self._cloud.crew.stop(task, code="ServiceSchedulerInitiated", reason="scaling")

    def _end(self) -> None:
        task = self._some("PENDING", "RUNNING", "STOPPING")
        if task is None:
            return
        if task.last_status != "STOPPING" and task.desired_status == "STOPPED":
            task.last_status = "STOPPING"
            self._cloud.account.task_changed(task)
            return
        task.desired_status = "STOPPED"  # or it has died by itself
        self._used.discard(self._bindings.get(task.arn, ("", 0)))
        self._cloud.crew.end(task)

    def _check(self) -> None:
        """Health moves without an event, and without a new version."""
        task = self._some("RUNNING")
        if task is not None:
            for container in task.containers:
                container.health_status = self._rng.choice(("HEALTHY", "UNHEALTHY"))

    def _drain(self) -> None:
        instance = self._rng.choice(self._instances())
        instance.status = "ACTIVE" if instance.status == "DRAINING" else "DRAINING"
        self._cloud.account.instance_changed(instance)

    def _ask(self) -> None:
        self._history.words.append(self._answer())
