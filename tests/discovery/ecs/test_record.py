"""Facts come back as they were, nothing secret is among them, and nothing wrong is taken in."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.ecs import record, shapes
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.ledger.words import Sighting
from discovery.ecs.record import Address, Facts, Notice, RecordError, decode, encode, facts_since, hear
from tests.kit import ecs_json as j


def a_ledger() -> Ledger:
    ledger = Ledger()
    ledger.hear_definition(
        shapes.task_definition(
            j.definition(
                "web:42",
                j.container_definition(
                    "app",
                    {"containerPort": 8080, "hostPort": 0, "protocol": "tcp", "name": "http"},
                    {"containerPortRange": "7000-7010"},
                    dockerLabels={"anyport.hosts": "web.test", "password": "hunter2"},
                    healthCheck={"command": ["CMD", "true"]},
                ),
            )
        )
    )
    ledger.hear_instance(shapes.container_instance(j.instance(1)))
    ledger.hear_address(j.ec2_id(1), "10.0.0.1")
    ledger.hear_notice(j.ec2_id(1), "Spot interruption: terminate")
    ledger.hear_task(shapes.task(j.task(1)), by="api")
    ledger.hear_task(
        shapes.task(
            j.task(
                2,
                attachments=[j.eni(privateIPv4Address="10.0.0.7")],
                containers=[
                    j.awsvpc_container(privateIpv4Address="10.0.0.7", ipv6Address="fd00::7"),
                    j.container("side", bindings=[]),
                ],
            )
        ),
        by="api",
    )
    ledger.hear_gone(j.task_arn(3), by="api")
    return ledger


def known(ledger: Ledger) -> tuple[object, ...]:
    return (
        ledger.groups, ledger.instances, ledger.addresses, ledger.definitions, ledger.notices,
        ledger.buried(j.task_arn(3)),
    )  # fmt: skip


def told(facts: Facts) -> Ledger:
    ledger = Ledger()
    list(hear(ledger, facts, by="disk"))
    return ledger


def test_a_ledger_that_is_told_all_facts_of_another_knows_the_same() -> None:
    ledger = a_ledger()
    facts, said = decode(encode(facts_since(ledger, 0), cluster="prod", age_s=1.5))

    assert facts == facts_since(ledger, 0)
    assert (said["cluster"], said["age_s"]) == ("prod", 1.5)
    assert known(told(facts)) == known(ledger)
    assert told(facts).told(j.task_arn(1))[0].by == "disk"


def test_what_has_changed_since_is_all_that_is_said() -> None:
    ledger = a_ledger()
    copy = told(facts_since(ledger, 0))
    revision = ledger.revision
    ledger.hear_task(shapes.task(j.task(1, version=4, desiredStatus="STOPPED")), by="api")
    ledger.hear_gone(j.task_arn(2), by="api")
    ledger.hear_notice(j.ec2_id(1), "")

    facts = facts_since(ledger, revision)

    assert [task.version for task in facts.tasks] == [4]
    assert facts.gone == (j.task_arn(2),)
    assert facts.notices == (Notice(ec2_id=j.ec2_id(1), notice=""),)
    assert len(facts) == 3
    list(hear(copy, decode(encode(facts))[0], by="leader"))
    assert copy.groups == ledger.groups
    assert not any(copy.notices.values())
    assert len(facts_since(ledger, ledger.revision)) == 0


def test_a_task_that_has_stopped_does_not_come_back_with_old_news() -> None:
    ledger = told(Facts(gone=(j.task_arn(1),)))

    list(hear(ledger, Facts(tasks=(shapes.task(j.task(1)),)), by="disk"))

    assert not ledger.groups


def test_nothing_secret_is_said() -> None:
    """Environment and secrets of a definition, and labels that are not ours, have no place in a record."""
    text = encode(facts_since(a_ledger(), 0)).decode()

    assert "anyport.hosts" in text
    for secret in ("hunter2", "DATABASE_PASSWORD", "API_KEY", "arn:aws:ssm", "password", "registry/"):
        assert secret not in text


def test_the_shapes_have_no_place_for_what_is_secret() -> None:
    """Whoever adds a field to one of these must ask whether others may know it."""
    kinds = (shapes.TaskDefinition, shapes.ContainerDefinition, shapes.Container)
    names = {field.name for kind in kinds for field in fields(kind)}

    assert not names & {"environment", "secrets", "command", "options", "log_configuration", "image"}


def changed(*path: str | int, to: object) -> bytes:
    raw: Any = orjson.loads(encode(facts_since(a_ledger(), 0)))
    place = raw
    for step in path[:-1]:
        place = place[step]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return orjson.dumps(raw)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not an object"),
        (b"{}", "of version None"),
        (changed("version", to=2), "of version 2; this anyport reads 1"),
        (changed("version", to="1"), "of version 1"),
        (changed("facts", to=...), "facts is no object"),
        (changed("facts", "tasks", to={}), "Facts.tasks is no list"),
        (changed("facts", "tasks", 0, to="x"), "Facts.tasks is no object"),
        (changed("facts", "tasks", 0, "arn", to=...), "Task.arn is missing"),
        (changed("facts", "tasks", 0, "arn", to="x"), "Task.arn is no ARN"),
        (changed("facts", "tasks", 0, "arn", to="arn:" + "x" * 3000), "Task.arn is no ARN"),
        (changed("facts", "tasks", 0, "arn", to="arn:a\nb"), "Task.arn is no ARN"),
        (changed("facts", "tasks", 0, "group", to="x" * 3000), "Task.group is no text"),
        (changed("facts", "tasks", 0, "version", to=-1), "Task.version is no whole number"),
        (changed("facts", "tasks", 0, "version", to=True), "Task.version is no whole number"),
        (changed("facts", "tasks", 0, "version", to=1.5), "Task.version is no whole number"),
        (changed("facts", "tasks", 0, "started_at", to="now"), "Task.started_at is no time"),
        (changed("facts", "tasks", 0, "started_at", to=-1.0), "Task.started_at is no time"),
        (changed("facts", "tasks", 0, "started_at", to=1e300), "Task.started_at is no time"),
        (changed("facts", "tasks", 0, "containers", 0, "bindings", 0, "host_first", to=0), "is no port"),
        (changed("facts", "tasks", 0, "containers", 0, "bindings", 0, "host_first", to=65536), "is no port"),
        (changed("facts", "tasks", 0, "containers", 0, "bindings", 0, "first", to=8081), "ends before"),
        (changed("facts", "tasks", 0, "containers", 0, "bindings", 0, "last", to=65535), "the last port"),
        (changed("facts", "tasks", 1, "interfaces", to=["elsewhere"]), "Task.interfaces is no address"),
        (changed("facts", "tasks", 1, "containers", 0, "ipv4", to=["10.0.0.256"]), "is no address"),
        (changed("facts", "addresses", 0, "address", to="evil.example"), "Address.address is no address"),
        (changed("facts", "addresses", 0, "ec2_id", to="x"), "is no EC2 instance id"),
        (changed("facts", "instances", 0, "ec2_id", to=7), "is no EC2 instance id"),
        (changed("facts", "gone", to=[1]), "Facts.gone is no ARN"),
        (changed("facts", "definitions", 0, "containers", 0, "labels", to=[["a"]]), "is no pair"),
        (changed("facts", "definitions", 0, "containers", 0, "labels", to=[["a", 1]]), "is no text"),
        (changed("facts", "definitions", 0, "containers", 0, "has_health_check", to=1), "true nor false"),
    ],
)  # fmt: skip
def test_nothing_wrong_is_taken_in(body: bytes, why: str) -> None:
    with pytest.raises(RecordError) as error:
        decode(body)

    assert why in str(error.value)
    assert len(str(error.value)) < 200


def test_what_a_newer_anyport_adds_is_left_out_and_what_an_older_one_lacks_is_as_by_default() -> None:
    facts, _ = decode(changed("facts", "tasks", 0, "mood", to="fine"))
    assert facts == facts_since(a_ledger(), 0)

    facts, _ = decode(changed("facts", "tasks", 0, "zone", to=...))
    assert facts.tasks[0].zone == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
PLACES = st.lists(st.integers(0, 1000), min_size=1, max_size=6)


@given(PLACES, JSON)
def test_whatever_stands_anywhere_is_read_or_refused(places: list[int], what: object) -> None:
    """One value somewhere in a good record is replaced: nothing but a `RecordError` comes of it."""
    raw = json.loads(encode(facts_since(a_ledger(), 0)))
    place: Any = raw
    for number in places:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = keys[number % len(keys)]
        if not isinstance(place[key], (dict, list)) or number == places[-1]:
            place[key] = what
            break
        place = place[key]
    try:
        facts, _ = decode(json.dumps(raw).encode())
    except RecordError:
        return
    assert decode(encode(facts))[0] == facts


def test_many_tasks_are_told_in_steps() -> None:
    tasks = tuple(shapes.task(j.task(number)) for number in range(1000))
    ledger = Ledger()
    steps = hear(ledger, Facts(tasks=tasks, addresses=(Address(ec2_id="i-1", address="::1"),)), by="disk")

    next(steps)
    assert sum(1 for _ in ledger.tasks()) < 1000
    assert sum(1 for _ in steps) > 2
    assert sum(1 for _ in ledger.tasks()) == 1000


def test_every_kind_of_change_is_said() -> None:
    """What the ledger notes and a record forgets would be missing at every follower."""
    ledger = a_ledger()
    kinds = {change.kind for change in ledger.since(0)}

    assert kinds == {"definition", "instance", "address", "notice", "task", "gone"}
    assert len(facts_since(ledger, 0)) == len(ledger.since(0))
    assert record.VERSION == 1


def test_a_task_that_is_only_presumed_is_not_said_until_it_is_described() -> None:
    ledger = a_ledger()
    seen = Sighting(arn=j.task_arn(9), definition="web:42", known_status="RUNNING", desired_status="RUNNING")
    ledger.hear_agent(j.instance_arn(1), [seen])
    revision = ledger.revision

    ledger.presume(seen.arn, "service:web")

    assert ledger.task(seen.arn) is not None
    assert facts_since(ledger, revision).tasks == ()
    revision = ledger.revision
    ledger.hear_task(shapes.task(j.task(9)), by="api")
    assert [task.arn for task in facts_since(ledger, revision).tasks] == [seen.arn]


@pytest.mark.parametrize("text", ["", "i-1\n", " x", "arn:aws:ecs x", "i-" + "1" * 65, "i-1 " + "x" * 3000])
def test_a_notice_that_makes_no_sense_is_none(text: str) -> None:
    assert record.read_notice("i-1 Spot interruption: stop") == Notice(
        ec2_id="i-1", notice="Spot interruption: stop"
    )
    assert record.read_notice(text) is None
