"""What events mean, and that whatever comes by a queue is a value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.ecs import shapes
from discovery.ecs.events.meaning import must_describe, read, same_cluster
from discovery.ecs.shapes import Task, TaskDefinition
from tests.kit.ecs_json import arn, binding, container, ec2_id, instance_arn
from tests.kit.event_json import (
    CLUSTER_ARN,
    body,
    deployment_event,
    envelope,
    instance_event,
    spot_event,
    task_detail,
    task_event,
)


def test_a_task_event_is_the_task_as_the_api_shows_it() -> None:
    news = read(body(task_event()))
    assert (news.kind, news.cluster) == ("task", CLUSTER_ARN)
    assert news.at_s == 1767323045.25  # of updatedAt: `time` has whole seconds only
    assert news.task is not None
    described = shapes.task({**task_detail(), "containers": [container()]})
    assert news.task == described


def test_an_instance_event() -> None:
    news = read(body(instance_event(status="DRAINING")))
    assert (news.kind, news.cluster) == ("instance", CLUSTER_ARN)
    assert news.instance == shapes.ContainerInstance(
        arn=instance_arn(1), ec2_id=ec2_id(1), status="DRAINING", zone="eu-west-1b", version=7
    )


@pytest.mark.parametrize(
    ("state", "deploying"), [("IN_PROGRESS", True), ("COMPLETED", False), ("FAILED", False)]
)
def test_a_deployment_event_finds_its_cluster_in_the_service(state: str, deploying: bool) -> None:
    news = read(body(deployment_event(state)))
    assert (news.kind, news.cluster, news.deployment) == ("deployment", CLUSTER_ARN, "ecs-svc/123")
    assert news.deploying is deploying


def test_a_service_of_the_old_arn_format_names_no_cluster() -> None:
    assert read(body(deployment_event(resources=[arn("service", "web")]))).cluster == ""
    assert read(body(deployment_event(resources=[]))).cluster == ""


@pytest.mark.parametrize(
    ("action", "notice"), [("terminate", "terminate"), ("stop", "stop"), ("<b>", "interruption")]
)
def test_a_spot_warning_names_the_instance_and_no_cluster(action: str, notice: str) -> None:
    news = read(body(spot_event(action=action)))
    assert (news.kind, news.cluster, news.ec2_id) == ("spot", "", ec2_id(1))
    assert news.notice == f"Spot interruption: {notice}"


def test_a_rebalance_recommendation_is_known_and_no_notice() -> None:
    event = envelope("EC2 Instance Rebalance Recommendation", {"instance-id": ec2_id(1)}, source="aws.ec2")
    news = read(body(event))
    assert (news.kind, news.notice) == ("rebalance", "")


def test_what_a_topic_has_wrapped_is_unwrapped() -> None:
    wrapped = json.dumps({"Type": "Notification", "Message": body(task_event())})
    assert read(wrapped) == read(body(task_event()))


def test_fields_nobody_knows_do_no_harm() -> None:
    event = task_event(newField={"a": [1]}, attachments=[{"type": "new", "status": "NEW"}])
    assert read(body({**event, "new": 1})) == read(body(task_event()))


@pytest.mark.parametrize(
    "message",
    [
        "", "hello", "[]", "1", "null", '"text"', "{}", "{", "\ufffd", "[" * 100_000, '{"detail-type": []}',
        '{"Type": "Notification"}', '{"Type": "Notification", "Message": "hello"}',
        body(envelope("ECS Task State Change", {})),
        body(envelope("ECS Service Action", {"eventName": "SERVICE_STEADY_STATE"})),
        body(envelope("ECS Managed Daemon State Change", {"clusterArn": CLUSTER_ARN})),
        body({**task_event(), "source": "com.example"}),
        body({**task_event(), "detail": None}),
        body(task_event(version="3")),
        body(task_event(version=-1)),
        body(task_event(version=True)),
        body(task_event(containers=None)),
        body(task_event(containers=[1])),
        body(task_event(clusterArn=None)),
        body(task_event(startedAt="yesterday")),
        body(task_event(startedAt=10**400)),
        body(task_event(startedAt="0001-01-01T00:00:00")),
        body(task_event(containers=[container(bindings=[binding(8080, 70000)])])),
        body(instance_event(status=None)),
        body(deployment_event()).replace("deploymentId", "deployment"),
        body(spot_event()).replace("instance-id", "instance"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_a_value_with_a_reason(message: str) -> None:
    news = read(message)
    assert (news.kind, news.task, news.instance) == ("unknown", None, None)
    assert news.reason


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([task_event(), instance_event(), deployment_event(), spot_event()]), st.data())
def test_no_change_of_an_event_raises(event: dict[str, Any], data: st.DataObject) -> None:
    spoiled = json.loads(json.dumps(event))
    where = spoiled if data.draw(st.booleans()) else spoiled["detail"]
    for name in data.draw(st.lists(st.sampled_from(sorted(where)), max_size=3)):
        where[name] = data.draw(_JSON)
    if isinstance(where.get("containers"), list) and where["containers"]:
        inner = where["containers"][0]
        if isinstance(inner, dict) and inner:
            inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(_JSON)
    read(json.dumps(spoiled))


@given(st.binary(max_size=200))
def test_no_bytes_raise(message: bytes) -> None:
    assert read(message).kind == "unknown"


# --- clusters of the same name --------------------------------------------------------------------

OTHER_REGION = "arn:aws:ecs:us-east-1:111122223333:cluster/prod"
OTHER_ACCOUNT = "arn:aws:ecs:eu-west-1:999999999999:cluster/prod"


@pytest.mark.parametrize(
    ("event", "asked", "region", "account", "same"),
    [
        (CLUSTER_ARN, "prod", "", "", True),
        (CLUSTER_ARN, CLUSTER_ARN, "", "", True),
        (CLUSTER_ARN, "pro", "", "", False),
        (OTHER_REGION, CLUSTER_ARN, "", "", False),
        (OTHER_REGION, "prod", "eu-west-1", "", False),
        (OTHER_REGION, "prod", "us-east-1", "", True),
        (OTHER_ACCOUNT, "prod", "eu-west-1", "", True),  # nothing is known yet that could tell
        (OTHER_ACCOUNT, "prod", "eu-west-1", "111122223333", False),
        (CLUSTER_ARN, "prod", "eu-west-1", "111122223333", True),
        ("prod", "prod", "", "111122223333", False),
        ("", "prod", "", "", False),
    ],
)
def test_whose_event_it_is(event: str, asked: str, region: str, account: str, same: bool) -> None:
    assert same_cluster(event, asked, region=region, account=account) is same


# --- what events cannot tell ----------------------------------------------------------------------


def seen(**more: Any) -> Task:
    return shapes.task(task_detail(**more))


def definition(mode: str = "bridge", *ports: dict[str, Any]) -> TaskDefinition:
    raw = {
        "taskDefinitionArn": arn("task-definition", "web:42"),
        "networkMode": mode,
        "containerDefinitions": [{"name": "app", "portMappings": list(ports or [{"containerPort": 8080}])}],
    }
    return shapes.task_definition(raw)


RANGE = {"containerPortRange": "7000-7002"}
BOUND_RANGE = {"containerPortRange": "7000-7002", "hostPortRange": "32800-32802", "protocol": "tcp"}


@pytest.mark.parametrize(
    ("task", "of", "wanted"),
    [
        (seen(), definition(), False),
        (seen(), None, True),
        (seen(containers=[container(bindings=[])]), definition(), True),
        (seen(containers=[container(bindings=[])]), definition("awsvpc"), False),
        (seen(containers=[container(bindings=[])]), definition("host"), False),
        (seen(), definition("bridge", {"containerPort": 8080}, RANGE), True),
        (
            seen(containers=[container(bindings=[binding(8080, 1234), BOUND_RANGE])]),
            definition("bridge", {"containerPort": 8080}, RANGE),
            False,
        ),
        (
            seen(containers=[container(bindings=[binding(port, port + 9) for port in (7000, 7001, 7002)])]),
            definition("bridge", RANGE),
            False,
        ),
        (seen(lastStatus="PENDING", containers=[container(bindings=[])]), definition(), False),
        (seen(desiredStatus="STOPPED", containers=[container(bindings=[])]), definition(), False),
        (seen(containers=[container("sidecar", bindings=[])]), definition(), False),
        (seen(containers=[container(bindings=[], lastStatus="STOPPED")]), definition(), False),
    ],
)
def test_which_tasks_must_be_described(task: Task, of: TaskDefinition | None, wanted: bool) -> None:
    assert must_describe(task, of) is wanted
