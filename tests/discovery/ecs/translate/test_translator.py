"""What a change costs and what it leaves alone: snapshots of one translator, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from discovery.ecs import shapes
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.translate.lifecycle import SETTLED_S
from discovery.ecs.translate.rules import ServiceRule
from discovery.ecs.translate.translator import Translator
from discovery.identity import NOBODY, Identity
from discovery.model import Endpoint, Service, Snapshot
from tests.kit import ecs_json as ecs

START_S = ecs.STARTED.timestamp()
KEPT_S = 2 * 3600.0


def rule(name: str, ecs_service: str = "") -> ServiceRule:
    service = Service(name=name, hosts=(f"{name}.example.com",))
    return ServiceRule(service=service, ecs_service=ecs_service or name)


class Scene:
    def __init__(self, rules: Sequence[ServiceRule] = (), own: Identity = NOBODY) -> None:
        self.ledger = Ledger()
        self.translator = Translator(source="ecs:prod", rules=rules, domain="example.com", own=own)
        self.now_s = START_S + 1.0
        self.again_s: float | None = None
        for number in (1, 2):
            self.ledger.hear_instance(shapes.container_instance(ecs.instance(number)))
            self.ledger.hear_address(ecs.ec2_id(number), f"10.0.{number}.5")
        self.ledger.hear_definition(shapes.task_definition(ecs.definition()))

    def run(self, number: int, service: str = "web", **more: Any) -> None:
        self.ledger.hear_task(shapes.task(ecs.task(number, service=service, **more)), by="api")

    def end(self, number: int) -> None:
        self.ledger.hear_gone(ecs.task_arn(number), by="events")

    def drain(self, number: int) -> None:
        raw = ecs.instance(number, status="DRAINING", version=8)
        self.ledger.hear_instance(shapes.container_instance(raw))

    def look(self, *, complete: bool = True) -> Snapshot:
        snapshot, self.again_s = self.translator.update(self.ledger, self.now_s, complete=complete)
        return snapshot


def tasks(snapshot: Snapshot) -> dict[str, list[int]]:
    """Return the numbers of the tasks of each service."""
    return {
        name: [int(e.task_arn.rpartition("/")[2], 16) for e in endpoints]
        for name, endpoints in snapshot.by_service.items()
    }


def test_nothing_new_is_the_very_same_snapshot() -> None:
    scene = Scene()
    scene.run(1)

    first = scene.look()
    scene.run(1)

    assert scene.look() is first
    assert scene.again_s is None


def test_what_has_not_changed_is_shared() -> None:
    scene = Scene()
    for number, service in enumerate(("web", "web", "other"), 1):
        scene.run(number, service)
    before = scene.look()

    scene.run(1, version=4, desiredStatus="STOPPED")
    after = scene.look()

    assert after is not before
    assert after.services is before.services
    assert after.problems is before.problems
    assert after.by_service["other"] is before.by_service["other"]
    assert after.by_service["web"][1] is before.by_service["web"][1]
    assert [e.draining for e in after.by_service["web"]] == [True, False]
    assert [e.draining for e in before.by_service["web"]] == [False, False], "a snapshot never changes"


def test_a_service_whose_tasks_all_stop_is_awaited_while_another_is_on_its_way() -> None:
    """What takes the place of a task may be known before anything can be sent to it, or not at all yet."""
    scene = Scene()
    scene.run(1)
    scene.run(2, "other")
    assert scene.look().awaited == set()

    scene.run(3, definition="web:43", lastStatus="RUNNING")  # of which nothing is known but that it is
    assert scene.look().awaited == set(), "there is one that stays"
    scene.run(1, version=4, desiredStatus="STOPPED")
    stopping = scene.look()
    assert stopping.awaited == {"web"}
    scene.ledger.hear_definition(shapes.task_definition(ecs.definition("web:43")))
    assert scene.look().awaited == set()

    scene.run(3, version=4, definition="web:43", desiredStatus="STOPPED")
    scene.run(2, "other", version=4, desiredStatus="STOPPED")
    assert scene.look().awaited == set(), "nobody comes"
    scene.run(4, "other", lastStatus="PENDING", containers=[])
    assert scene.look().awaited == {"other"}
    scene.run(4, "other", version=4, lastStatus="STOPPED", desiredStatus="STOPPED", containers=[])
    assert scene.look().awaited == set()


def test_that_nobody_comes_is_proved_by_an_answer_to_a_later_question() -> None:
    scene = Scene()
    scene.run(1)
    scene.look()
    scene.run(1, version=4, desiredStatus="STOPPED")

    def awaited(asked_s: float) -> frozenset[str]:
        scene.now_s += 1.0
        return scene.translator.update(scene.ledger, scene.now_s, asked_s=asked_s)[0].awaited

    heard_s = scene.now_s + 1.0
    assert awaited(heard_s - 0.5) == {"web"}, "asked before it was told to stop"
    assert awaited(heard_s) == {"web"}
    assert awaited(heard_s + 0.5) == set()


def test_services_and_endpoints_stay_in_the_order_of_their_names() -> None:
    scene = Scene()
    for number, service in ((5, "b"), (4, "a"), (3, "c"), (1, "b")):
        scene.run(number, service)
        scene.look()

    snapshot = scene.look()

    assert tasks(snapshot) == {"a": [4], "b": [1, 5], "c": [3]}
    assert list(snapshot.by_service) == list(snapshot.services) == ["a", "b", "c"]


def test_address_definition_and_notice_are_seen_when_they_come() -> None:
    scene = Scene()
    scene.run(1, definition="web:43", instance=3)
    assert scene.look().services == {}

    scene.ledger.hear_definition(shapes.task_definition(ecs.definition("web:43")))
    assert set(scene.look().services) == {"web"}
    scene.ledger.hear_instance(shapes.container_instance(ecs.instance(3)))
    assert tasks(scene.look()) == {}
    scene.ledger.hear_address(ecs.ec2_id(3), "10.0.3.5")
    assert tasks(scene.look()) == {"web": [1]}

    scene.run(2, instance=1)
    scene.now_s = START_S + SETTLED_S
    scene.ledger.hear_notice(ecs.ec2_id(3), "Spot interruption: terminate")
    leaving, staying = scene.look().by_service["web"]
    assert (leaving.draining, staying.draining) == (True, False)
    assert leaving.reason.endswith("is about to go: Spot interruption: terminate")
    scene.ledger.hear_notice(ecs.ec2_id(3), "")
    assert not any(e.draining for e in scene.look().endpoints)


def test_drained_instance_is_looked_at_again_when_the_others_have_settled() -> None:
    scene = Scene()
    scene.run(1, instance=1)
    scene.run(2, instance=2)
    scene.drain(1)

    assert not any(endpoint.draining for endpoint in scene.look().endpoints)
    assert scene.again_s == START_S + SETTLED_S

    scene.now_s = START_S + SETTLED_S
    assert [endpoint.draining for endpoint in scene.look().endpoints] == [True, False]
    assert scene.again_s is None


# --- services that nobody describes any more --------------------------------------------------------


def test_service_scaled_to_nothing_stays_known_for_a_while() -> None:
    scene = Scene()
    scene.run(1)
    web = scene.look().services["web"]

    scene.end(1)
    assert scene.look().services == {"web": web}
    assert scene.look().by_service == {}
    assert scene.again_s == scene.now_s + KEPT_S

    scene.now_s += KEPT_S
    assert scene.look().services == {}
    assert scene.again_s is None


def test_remembered_service_makes_way_for_one_that_takes_its_host() -> None:
    scene = Scene()
    labels = {"anyport.host": "web.example.com"}
    renamed = ecs.definition("shop:1", ecs.container_definition("app", dockerLabels=labels))
    scene.ledger.hear_definition(shapes.task_definition(renamed))
    scene.run(1)
    scene.look()

    scene.end(1)
    scene.run(2, "shop", definition="shop:1")

    assert set(scene.look().services) == {"shop"}


def test_service_that_is_back_is_no_longer_only_remembered() -> None:
    scene = Scene()
    scene.run(1)
    scene.look()
    scene.end(1)
    scene.look()

    scene.run(2)
    scene.look()
    scene.now_s += KEPT_S

    assert set(scene.look().services) == {"web"}


# --- rules -------------------------------------------------------------------------------------------


def test_rule_is_called_without_tasks_only_when_the_answer_is_complete() -> None:
    scene = Scene([rule("web")])
    assert scene.look(complete=False).problems == ()
    assert "no task of ECS service 'web'" in scene.look().problems[0].what

    scene.run(1)
    assert scene.look().problems == ()
    scene.end(1)
    assert len(scene.look().problems) == 1


def test_only_some_of_many_names_are_shown() -> None:
    scene = Scene([rule("web", "nothing-like-it")])
    for number in range(30):
        scene.run(number, f"s{number:02}")

    (problem,) = scene.look().problems

    assert problem.what.endswith(", s19 and 10 more")


def test_claim_of_another_group_is_judged_anew_when_the_first_has_gone() -> None:
    scene = Scene()
    for short, host in (("canary:1", "b.io"), ("web:1", "a.io")):
        labels = {"anyport.host": host, "anyport.service": "web"}
        raw = ecs.definition(short, ecs.container_definition("app", dockerLabels=labels))
        scene.ledger.hear_definition(shapes.task_definition(raw))
    scene.run(1, "web", definition="web:1")
    scene.run(2, "canary", definition="canary:1")
    refused = scene.look()
    assert (tasks(refused), len(refused.problems)) == ({"web": [1]}, 1)

    scene.end(1)

    alone = scene.look()
    assert (tasks(alone), alone.problems) == ({"web": [2]}, ())
    assert alone.services["web"].hosts == ("b.io",)


# --- we ourselves -------------------------------------------------------------------------------------


US = Identity(task_arn=ecs.task_arn(1), cluster=ecs.CLUSTER, service="anyport", family="web")


def test_we_and_the_other_proxies_of_our_service_get_no_requests() -> None:
    """They would go round in circles."""
    scene = Scene(own=US)
    scene.run(1, "anyport")
    scene.run(2, "anyport")
    scene.run(3, "web")

    assert tasks(scene.look()) == {"web": [3]}
    assert set(scene.look().services) == {"web"}


@pytest.mark.parametrize("own", [US, Identity(task_arn=US.task_arn)], ids=["service-known", "only-the-task"])
def test_who_we_are_may_become_known_later(own: Identity) -> None:
    scene = Scene()
    scene.run(1, "anyport")
    scene.run(2, "anyport")
    assert tasks(scene.look()) == {"anyport": [1, 2]}

    scene.translator.own = own
    assert tasks(scene.look()) == {}
    scene.end(1)
    assert tasks(scene.look()) == {}, "our own end makes the others no backends"


def test_service_of_our_name_in_another_cluster_is_another_service() -> None:
    elsewhere = Identity(task_arn=ecs.arn("task", "test/0123"), cluster="test", service="anyport")
    scene = Scene(own=elsewhere)
    scene.run(1, "anyport")

    assert tasks(scene.look()) == {"anyport": [1]}


def test_proxies_that_were_started_alone_are_known_by_their_family() -> None:
    labels = {"anyport.host": "a.io", "anyport.service": "a"}
    scene = Scene(own=US)
    for short in ("web:1", "job:1"):
        raw = ecs.definition(short, ecs.container_definition("app", dockerLabels=labels))
        scene.ledger.hear_definition(shapes.task_definition(raw))
    for number, short in ((1, "web:1"), (2, "web:1"), (3, "job:1")):
        scene.run(number, definition=short, group="batch")

    assert tasks(scene.look()) == {"a": [3]}


def test_rule_for_ourselves_is_refused_in_words() -> None:
    scene = Scene([rule("web", "anyport")], own=US)
    scene.run(1, "anyport")

    (problem,) = scene.look().problems

    assert problem.where == "config, service web"
    assert "is this proxy: it sends no requests to itself" in problem.what


def test_every_row_names_its_source() -> None:
    scene = Scene()
    scene.run(1)

    endpoint: Endpoint = scene.look().endpoints[0]

    assert endpoint.source == "ecs:prod"
