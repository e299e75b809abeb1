"""The order of the steps, and that each is carried through before the next begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import islice

import pytest

from proxy.demo.story import Step, StepError, Story, steps


def test_every_kind_comes_in_the_first_round_and_services_take_turns() -> None:
    first = list(islice(steps(("web", "api", "chat"), 3), 15))
    assert [step.kind for step in first[:5]] == ["scale-out", "deploy", "kill", "scale-in", "drain"]
    for kind in ("scale-out", "deploy", "kill", "scale-in"):
        assert {step.service for step in first if step.kind == kind} == {"web", "api", "chat"}
    assert [step.instance for step in first if step.kind == "drain"] == [0, 1, 2]


def test_what_grew_shrinks_in_the_same_round() -> None:
    plan = list(islice(steps(("web", "api"), 3), 10))
    for start in (0, 5):
        assert plan[start].service == plan[start + 3].service


class FakeCluster:
    """Settles after a few looks; every new task has a new number."""

    def __init__(self, base: Mapping[str, int]) -> None:
        self.base = base
        self.log: list[str] = []
        self.looks = 0
        self._numbers = 0
        self._running = {name: [self._new() for _ in range(count)] for name, count in base.items()}
        self._pending: Callable[[], None] | None = None
        self.stuck = False

    def _new(self) -> str:
        self._numbers += 1
        return f"task-{self._numbers}"

    def _soon(self, change: Callable[[], None]) -> None:
        self.looks, self._pending = 0, change

    async def scale(self, service: str, count: int) -> None:
        self.log.append(f"scale {service} {count}")
        tasks = self._running[service]
        self._soon(lambda: tasks.append(self._new()) if len(tasks) < count else tasks.pop() and None)

    async def deploy(self, service: str) -> int:
        self.log.append(f"deploy {service}")
        count = len(self._running[service])
        self._soon(lambda: self._running.update({service: [self._new() for _ in range(count)]}))
        return 2

    async def kill(self, service: str) -> str:
        if len(self._running[service]) < 2:
            return ""
        self.log.append(f"kill {service}")
        tasks = self._running[service]

        def replace() -> None:
            tasks[0] = self._new()

        self._soon(replace)
        return "task"

    async def drain(self, instance: int) -> str:
        self.log.append(f"drain {instance}")
        self._soon(lambda: None)
        return f"i-{instance}"

    async def activate(self, instance: int) -> None:
        self.log.append(f"activate {instance}")

    def tasks(self, service: str) -> frozenset[str]:
        return frozenset(self._running[service])

    def settled(self, service: str) -> bool:
        self.looks += 1
        if self._pending is not None and self.looks > 5 and not self.stuck:
            self._pending()
            self._pending = None
        # As in ECS, a killed task is still wanted for a moment: nothing shows that anything happened.
        return self._pending is None or (self.log[-1].startswith("kill") and not self.stuck)

    def is_empty(self, instance: int) -> bool:
        return self._pending is None


async def look_often(condition: Callable[[], bool], *, within_s: float) -> bool:
    return any(condition() for _ in range(100))


async def no_pause(_: float) -> None:
    pass


def make(cluster: FakeCluster, said: list[str]) -> Story:
    return Story(cluster, say=said.append, until=look_often, sleep=no_pause)


@pytest.mark.asyncio
async def test_a_round() -> None:
    cluster, said = FakeCluster({"web": 3, "api": 2, "chat": 2}), []
    story = make(cluster, said)
    await story.run(islice(steps(("web", "api", "chat"), 3), 5))
    assert cluster.log == ["scale web 4", "deploy api", "kill chat", "scale web 3", "drain 0", "activate 0"]
    assert story.done == Counter({"scale-out": 1, "deploy": 1, "kill": 1, "scale-in": 1, "drain": 1})
    assert story.replacements == 2 + 1, "both tasks of api, one of chat"
    assert len(said) == 5


@pytest.mark.asyncio
async def test_what_does_not_settle_is_said_and_not_counted() -> None:
    cluster, said = FakeCluster({"web": 3}), []
    cluster.stuck = True
    story = make(cluster, said)
    await story.perform(Step("drain", instance=1))
    assert "has not settled" in said[-1]
    assert cluster.log[-1] == "activate 1", "an instance is not left DRAINING"
    assert not story.done


@pytest.mark.asyncio
async def test_the_last_task_is_not_killed() -> None:
    cluster, said = FakeCluster({"web": 1}), []
    story = make(cluster, said)
    await story.perform(Step("kill", "web"))
    assert cluster.log == []
    assert "would be an outage" in said[-1]
    assert not story.done


@pytest.mark.asyncio
async def test_a_refused_step_does_not_end_the_story() -> None:
    class Refusing(FakeCluster):
        async def deploy(self, service: str) -> int:
            raise StepError("register_task_definition: no")

    cluster, said = Refusing({"web": 3}), []
    await make(cluster, said).run(iter([Step("deploy", "web"), Step("kill", "web")]))
    assert said[0] == "deploy was refused: register_task_definition: no"
    assert cluster.log == ["kill web"]
