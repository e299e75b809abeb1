"""Whatever order news comes in, however often and with whatever losses: the table ends as the truth.

The news is that of an ECS account on paper: real event JSON, and answers of the API. Ten thousand orders with
losses and duplicates are tried, always the same ones; `ANYPORT_ORDERS` sets another number, of new ones.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.translate.translator import Translator
from discovery.model import Snapshot
from tests.kit.cloud import Clock
from tests.kit.histories import SERVICES, History, Word, history

ORDERS = int(os.environ.get("ANYPORT_ORDERS", "10000"))
CONFIRM_S = 10.0
LATER_S = 3600.0


@dataclass
class Scene:
    """A ledger with its translator, and all that must never be seen again."""

    past: History
    clock: Clock = field(default_factory=Clock)
    stopped: set[str] = field(default_factory=set)
    told_to_stop: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ledger = Ledger(clock=self.clock, wall_clock=self.clock)
        self.translator = Translator(source="ecs:prod")
        self.past.tell_what_never_changes(self.ledger)

    def hear(self, word: Word) -> None:
        self.clock.now += 0.1
        word.tell(self.ledger)
        self.stopped |= {task.arn for task in word.tasks if task.last_status == "STOPPED"}
        self.told_to_stop |= {task.arn for task in word.tasks if task.desired_status == "STOPPED"}

    def look(self) -> Snapshot:
        snapshot, _ = self.translator.update(self.ledger, self.clock.now)
        for endpoint in snapshot.endpoints:
            assert endpoint.task_arn not in self.stopped, "what has stopped never returns"
            assert endpoint.draining or endpoint.task_arn not in self.told_to_stop, "nor is a stop taken back"
        return snapshot

    def reconcile(self) -> None:
        """Hear one complete answer of the API, twice where the first is doubted."""
        self.clock.now += LATER_S  # nothing is young, and everything has settled
        self.hear(self.past.end)
        agreed = {f"service:{name}" for name in SERVICES}
        for _ in range(2):
            missing = {task.arn for task in self.ledger.tasks()} & self.past.forgotten
            self.ledger.hear_missing(missing, by="api", confirm_s=CONFIRM_S, agreed=agreed)
            self.clock.now += CONFIRM_S


def truth(past: History, now_s: float) -> Snapshot:
    """Return the table of someone who hears of all only now, and then from the API."""
    scene = Scene(past)
    scene.hear(past.end)
    return scene.translator.update(scene.ledger, now_s)[0]


def told_in_some_order(scene: Scene, said: list[Word], rng: random.Random) -> None:
    looks = {rng.randrange(len(said) + 1) for _ in range(3)}
    for number, word in enumerate(said):
        scene.hear(word)
        if number in looks:
            scene.look()


def with_duplicates(said: list[Word], rng: random.Random) -> list[Word]:
    return said + (rng.choices(said, k=rng.randrange(len(said) + 1)) if said else [])


def assert_is_the_truth(scene: Scene) -> None:
    seen = scene.look()
    expected = truth(scene.past, scene.clock.now)
    assert dict(seen.by_service) == dict(expected.by_service)
    # Services without a task stay for a while: the truth of this moment does not know them.
    assert {name: seen.services[name] for name in expected.services} == dict(expected.services)
    assert seen.problems == expected.problems


def some(orders: int) -> settings:
    return settings(
        max_examples=orders,
        deadline=None,
        derandomize="ANYPORT_ORDERS" not in os.environ,
        phases=[Phase.explicit, Phase.generate],  # an order is not made clearer by a smaller seed
        suppress_health_check=[HealthCheck.too_slow],
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@some(ORDERS)
@given(seed=st.integers(0, 199), order=st.integers(0, 2**32))
def test_any_order_with_losses_and_duplicates_ends_as_the_truth(seed: int, order: int) -> None:
    rng, past = random.Random(order), history(seed)
    scene = Scene(past)
    lost = rng.choice((0.0, 0.1, 0.5))
    said = with_duplicates([word for word in past.words if rng.random() >= lost], rng)
    if rng.random() < 0.8:
        rng.shuffle(said)

    told_in_some_order(scene, said, rng)
    scene.reconcile()

    assert_is_the_truth(scene)


@pytest.mark.timeout(600)
@some(max(1, ORDERS // 5))
@given(seed=st.integers(0, 199), order=st.integers(0, 2**32))
def test_no_late_word_takes_back_what_is_true(seed: int, order: int) -> None:
    """Nothing is lost, and the API has said all there is to say long before the last events come."""
    rng, past = random.Random(order), history(seed)
    scene = Scene(past)
    told = with_duplicates([word for word in past.words if word.by == "events"], rng)
    rng.shuffle(told)
    # One poller hears its answers in the order of its questions: health has no other order.
    asked = [word for word in past.words if word.by == "api"] + [past.end]
    said = [asked.pop(0) if i == "api" else told.pop() for i in mixed(len(asked), len(told), rng)]

    told_in_some_order(scene, said, rng)
    scene.clock.now += LATER_S

    assert_is_the_truth(scene)


def mixed(asked: int, told: int, rng: random.Random) -> list[str]:
    turns = ["api"] * asked + ["events"] * told
    rng.shuffle(turns)
    return turns
