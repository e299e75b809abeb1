"""Faults: which call meets them, and what they do to its answer."""

import random

import pytest

from discovery.simulator.faults import KINDS, Fault, FaultError, Faults, spoil


def kinds(faults: Faults, operation: str, page: int = 1) -> list[str]:
    return [fault.kind for fault in faults.take(operation, page)]


def test_a_fault_spoils_the_next_calls_of_its_operation_only() -> None:
    faults = Faults()
    faults.throttle("DescribeTasks", count=2)
    assert kinds(faults, "ListTasks") == []
    assert kinds(faults, "DescribeTasks") == ["throttle"]
    assert kinds(faults, "DescribeTasks") == ["throttle"]
    assert kinds(faults, "DescribeTasks") == []


def test_without_a_count_it_stands_until_cleared() -> None:
    faults = Faults()
    first, second = faults.error(), faults.denied("ListTasks")
    assert [kinds(faults, "ListTasks") for _ in range(3)] == [["error", "denied"]] * 3
    faults.clear(first)
    assert kinds(faults, "ListTasks") == ["denied"]
    assert [fault["id"] for fault in faults.as_json()] == [second]
    faults.clear()
    assert list(faults) == []


def test_faults_of_events_spoil_events_and_nothing_else() -> None:
    faults, rng = Faults(), random.Random(1)
    faults.events_twice(count=2)
    assert kinds(faults, "ListTasks") == []
    assert [fault.kind for fault in faults.take_event(rng)] == ["events_twice"]
    assert [fault.kind for fault in faults.take_event(rng)] == ["events_twice"]
    assert faults.take_event(rng) == []
    faults.throttle()
    assert faults.take_event(rng) == []


def test_a_share_of_the_events_is_spoilt() -> None:
    faults, rng = Faults(), random.Random(1)
    faults.events_lost(share=0.3)
    lost = sum(bool(faults.take_event(rng)) for _ in range(1000))
    assert 240 < lost < 360


def test_only_the_named_page_fails() -> None:
    faults = Faults()
    faults.failed_page(page=2, count=1)
    assert kinds(faults, "ListTasks", 1) == []
    assert kinds(faults, "ListTasks", 2) == ["failed_page"]
    assert kinds(faults, "ListTasks", 2) == []


def test_empty_leaves_no_item_no_failure_and_no_further_page() -> None:
    listed = {"taskArns": ["a"], "nextToken": "t"}
    assert spoil(listed, Fault(kind="empty")) == {"taskArns": []}
    described = {"tasks": [{"taskArn": "a"}], "failures": [{"arn": "b"}]}
    assert spoil(described, Fault(kind="empty")) == {"tasks": [], "failures": []}


def test_missing_fields_are_gone_at_every_depth() -> None:
    answer = {"tasks": [{"version": 3, "containers": [{"name": "app", "networkBindings": []}]}]}
    fault = Fault(kind="missing_fields", fields=("version", "networkBindings"))
    assert spoil(answer, fault) == {"tasks": [{"containers": [{"name": "app"}]}]}


def test_failures_take_the_first_items() -> None:
    answer = {"tasks": [{"taskArn": "a"}, {"taskArn": "b"}], "failures": []}
    spoilt = spoil(answer, Fault(kind="failures", reason="SOMETHING"))
    assert spoilt == {"tasks": [{"taskArn": "b"}], "failures": [{"arn": "a", "reason": "SOMETHING"}]}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "JSON object"),
        ({"kind": "sabotage"}, "throttle"),
        ({"kind": "throttle", "operations": "ListTasks"}, "operation"),
    ],
)
def test_a_senseless_description_is_refused_with_what_would_make_sense(value: object, said: str) -> None:
    with pytest.raises(FaultError, match=said):
        Fault.from_json(value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_described(kind: str) -> None:
    assert Fault.from_json({"kind": kind, "fields": ["version"]}).fields == ("version",)
