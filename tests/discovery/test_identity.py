"""Who we are, read from what metadata servers say: every format, and every kind of nonsense."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.identity import NOBODY, Identity, join, of_agent, of_instance, of_task, parse_arn

TASK = "arn:aws:ecs:eu-west-1:111122223333:task/prod/4d590253bb114126b7afa7b58eea9221"
OLD_TASK = "arn:aws-cn:ecs:cn-north-1:111122223333:task/4d590253-bb11-4126-b7af-a7b58eea9221"
INSTANCE = "arn:aws:ecs:eu-west-1:111122223333:container-instance/prod/1f73d099b914411c9a9ff81633b7741d"
CLUSTER = "arn:aws:ecs:eu-west-1:111122223333:cluster/prod"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("cluster", ["prod", CLUSTER, None])
def test_a_task_of_the_long_format_says_its_cluster_itself(cluster: str | None) -> None:
    document = {
        "Cluster": cluster,
        "TaskARN": TASK,
        "Family": "edge",
        "ServiceName": "edge-proxy",
        "AvailabilityZone": "eu-west-1b",
        "LaunchType": "EC2",
        "Containers": [{"Networks": None}, {"Networks": [{"NetworkMode": "default"}]}],
    }

    assert of_task(document) == Identity(
        task_arn=TASK,
        cluster="prod",
        cluster_arn=CLUSTER,
        region="eu-west-1",
        account="111122223333",
        service="edge-proxy",
        family="edge",
        zone="eu-west-1b",
        network_mode="bridge",
        launch_type="EC2",
    )


@pytest.mark.parametrize("cluster", ["prod", "arn:aws-cn:ecs:cn-north-1:111122223333:cluster/prod"])
def test_a_task_of_the_old_format_needs_to_be_told_its_cluster(cluster: str) -> None:
    found = of_task({"Cluster": cluster, "TaskARN": OLD_TASK})

    assert (found.cluster, found.region) == ("prod", "cn-north-1")
    assert found.cluster_arn == "arn:aws-cn:ecs:cn-north-1:111122223333:cluster/prod"
    assert of_task({"TaskARN": OLD_TASK}).cluster_arn == ""


def test_the_agent_says_which_instance_this_is() -> None:
    found = of_agent({"Cluster": "prod", "ContainerInstanceArn": INSTANCE, "Version": "x"})

    assert (found.instance_arn, found.cluster, found.cluster_arn) == (INSTANCE, "prod", CLUSTER)


@pytest.mark.parametrize(
    "document",
    [
        {"Cluster": "prod", "ContainerInstanceArn": None},  # not registered yet
        {"Cluster": "other", "ContainerInstanceArn": INSTANCE},  # contradicts itself
        {"Cluster": "", "ContainerInstanceArn": INSTANCE},
        {"Cluster": "prod", "ContainerInstanceArn": TASK},
        {"Cluster": "prod", "ContainerInstanceArn": INSTANCE + "\n"},
        ["prod"],
    ],
)
def test_an_agent_that_makes_no_sense_says_nothing(document: object) -> None:
    assert of_agent(document) == NOBODY


def test_the_machine_says_its_id_address_and_zone() -> None:
    document = {
        "instanceId": "i-0a1b2c3d",
        "privateIp": "10.0.1.5",
        "availabilityZone": "eu-west-1b",
        "region": "eu-west-1",
    }

    assert of_instance(document) == Identity(
        ec2_id="i-0a1b2c3d", address="10.0.1.5", zone="eu-west-1b", region="eu-west-1"
    )
    assert of_instance(document | {"privateIp": "10.0.1.555", "instanceId": ["i"]}).address == ""


def test_what_is_known_is_not_overwritten() -> None:
    known = join(Identity(zone="a"), Identity(zone="b", ec2_id="i-1"))

    assert known == Identity(zone="a", ec2_id="i-1")


@given(
    JSON,
    st.dictionaries(
        st.sampled_from(["TaskARN", "Cluster", "Containers", "ContainerInstanceArn", "privateIp"]), JSON
    ),
)
def test_nonsense_is_nobody(anything: object, fields: dict[str, Any]) -> None:
    for document in (anything, fields, {"TaskARN": TASK} | {"Containers": anything}):
        assert isinstance(of_task(document), Identity)
        assert of_agent(document) == NOBODY
        of_instance(document)


def test_arns() -> None:
    found = parse_arn("arn:aws:ecs:eu-west-1:111122223333:task-definition/web:42")
    assert found is not None
    assert (found.kind, found.rest, found.cluster) == ("task-definition", "web:42", "")
    assert parse_arn("web:42") is None
