"""Rules, topics and policies: as a template, and made in the embedded account."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from discovery.ecs.aws.sessions import Account, Clients
from discovery.ecs.events.apply import EventsAccount
from discovery.ecs.events.setup import (
    STACK_ACCOUNT,
    STACK_REGION,
    Setup,
    template,
    with_statement,
    without_statement,
)
from discovery.model import DiscoveryError
from discovery.simulator.simulator import Simulator
from tests.kit.aws import Operator

QUEUE = "arn:aws:sqs:eu-west-1:123456789012:given"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:anyport-events"


def setup(*clusters: str, **more: Any) -> Setup:
    return Setup(clusters=clusters or ("prod",), region="eu-west-1", account="123456789012", **more)


# --- what is wanted -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "target"),
    [
        ({}, TOPIC),
        ({"topic": "other"}, "arn:aws:sns:eu-west-1:123456789012:other"),
        ({"topic": "arn:aws:sns:eu-west-1:999999999999:far"}, "arn:aws:sns:eu-west-1:999999999999:far"),
        ({"queue": QUEUE}, QUEUE),
        ({"queue": "https://sqs.eu-west-1.amazonaws.com/123456789012/given"}, QUEUE),
    ],
)
def test_where_the_rules_send_to(more: dict[str, str], target: str) -> None:
    assert setup(**more).target == target


def test_other_partitions_have_other_arns() -> None:
    china = Setup(clusters=("prod",), region="cn-north-1", account="1")
    assert china.target == "arn:aws-cn:sns:cn-north-1:1:anyport-events"
    assert Setup(clusters=(), region="us-gov-west-1", account="1").target.startswith("arn:aws-us-gov:")


def test_a_cluster_by_arn_stays_where_it_is() -> None:
    arn = "arn:aws:ecs:eu-west-1:999999999999:cluster/far"
    rules = setup(arn).rules()
    assert rules["anyport-far"]["detail"] == {"clusterArn": [arn]}
    assert rules["anyport-far-deployments"]["resources"] == [
        {"prefix": "arn:aws:ecs:eu-west-1:999999999999:service/far/"}
    ]


def test_names_of_rules_fit_and_differ() -> None:
    names = list(setup("a" * 255, "a" * 254 + "b", "prod").rules())
    assert len(set(names)) == len(names) == 7
    assert max(map(len, names)) <= 64


def test_the_template_refers_to_the_stack_for_what_nobody_has_said() -> None:
    made = template(Setup(clusters=("prod",), region=STACK_REGION, account=STACK_ACCOUNT))
    rule = made["Resources"]["AnyportProd"]["Properties"]
    assert rule["EventPattern"]["detail"]["clusterArn"] == [
        {"Fn::Sub": "arn:aws:ecs:${AWS::Region}:${AWS::AccountId}:cluster/prod"}
    ]
    kinds = sorted(resource["Type"] for resource in made["Resources"].values())
    assert kinds == [*["AWS::Events::Rule"] * 3, "AWS::SNS::Topic", "AWS::SNS::TopicPolicy"]
    (statement,) = made["Resources"]["AnyportTopicPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Action"] == "sns:Publish"
    assert statement["Condition"] == {
        "ArnEquals": {
            "aws:SourceArn": [
                {"Fn::GetAtt": [name, "Arn"]}
                for name in ("AnyportProd", "AnyportProdDeployments", "AnyportSpot")
            ]
        }
    }


@pytest.mark.parametrize("queue", [QUEUE, "https://sqs.eu-west-1.amazonaws.com/123456789012/given"])
def test_the_template_for_a_given_queue_makes_no_topic(queue: str) -> None:
    made = template(setup(queue=queue))["Resources"]
    assert "AnyportTopic" not in made
    policy = made["AnyportQueuePolicy"]["Properties"]
    assert policy["Queues"] == ["https://sqs.eu-west-1.amazonaws.com/123456789012/given"]
    assert policy["PolicyDocument"]["Statement"][0]["Action"] == "sqs:SendMessage"


def test_clusters_of_like_names_have_resources_of_their_own() -> None:
    made = template(setup("a-b", "a_b"))["Resources"]
    assert sum(resource["Type"] == "AWS::Events::Rule" for resource in made.values()) == 5


def test_a_policy_keeps_what_others_have_put_there() -> None:
    theirs = {"Sid": "theirs", "Effect": "Allow"}
    ours = setup().statement()
    made = with_statement(json.dumps({"Id": "x", "Statement": [theirs]}), ours)
    assert made is not None
    assert json.loads(made) == {"Version": "2012-10-17", "Id": "x", "Statement": [theirs, ours]}
    assert with_statement(made, ours) is None
    old = with_statement(made, {**ours, "Resource": "other"})
    assert old is not None
    assert len(json.loads(old)["Statement"]) == 2  # in place of the old one
    left = without_statement(made)
    assert left is not None
    assert json.loads(left)["Statement"] == [theirs]
    assert without_statement(left) is None
    assert without_statement(with_statement(None, ours)) == ""


# --- made and taken away --------------------------------------------------------------------------


class Sky:
    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.operator = Operator(simulator)
        self.account = EventsAccount(
            Clients(Account(region="eu-west-1", endpoint_url=simulator.url), read_timeout_s=10.0)
        )

    async def apply(self, wanted: Setup) -> list[str]:
        return await asyncio.to_thread(lambda: list(self.account.apply(wanted)))

    async def remove(self, wanted: Setup) -> list[str]:
        return await asyncio.to_thread(lambda: list(self.account.remove(wanted)))

    async def rules(self) -> list[str]:
        return sorted(rule["Name"] for rule in (await self.operator.call("events", "list_rules"))["Rules"])

    async def topics(self) -> list[str]:
        return [topic["TopicArn"] for topic in (await self.operator.call("sns", "list_topics"))["Topics"]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sky() -> AsyncIterator[Sky]:
    with pytest.MonkeyPatch.context() as patch:
        async with Simulator(throttling=False) as simulator:
            for name, value in simulator.environment.items():
                patch.setenv(name, value)
            made = Sky(simulator)
            yield made
            made.operator.close()


module_loop = pytest.mark.asyncio(loop_scope="module")


@module_loop
async def test_who_and_where_we_are(sky: Sky) -> None:
    assert await asyncio.to_thread(sky.account.whoami) == ("123456789012", "eu-west-1")


@module_loop
async def test_applied_twice_it_is_there_once_and_removed_it_is_gone(sky: Sky) -> None:
    first = await sky.apply(setup())
    assert await sky.apply(setup()) == first
    assert await sky.rules() == ["anyport-prod", "anyport-prod-deployments", "anyport-spot"]
    assert await sky.topics() == [TOPIC]
    for rule in await sky.rules():
        targets = (await sky.operator.call("events", "list_targets_by_rule", Rule=rule))["Targets"]
        assert [target["Arn"] for target in targets] == [TOPIC]
    found = await sky.operator.call("sns", "get_topic_attributes", TopicArn=TOPIC)
    statements = json.loads(found["Attributes"]["Policy"])["Statement"]
    assert [one["Sid"] for one in statements if one["Action"] == "sns:Publish"] == ["anyport-events"]
    assert len(statements) == 2  # the owner's, which every topic has, is still there

    assert f"removed topic {TOPIC}" in await sky.remove(setup())
    assert await sky.rules() == await sky.topics() == []
    assert await sky.remove(setup()) == []


@module_loop
async def test_what_another_cluster_or_a_proxy_still_needs_stays(sky: Sky) -> None:
    await sky.apply(setup("prod"))
    await sky.apply(setup("staging"))
    assert f"{TOPIC} stays: rule anyport-staging sends to it" in await sky.remove(setup("prod"))
    assert await sky.rules() == ["anyport-spot", "anyport-staging", "anyport-staging-deployments"]
    _, queue_arn = await sky.operator.queue("reader")
    made = await sky.operator.call("sns", "subscribe", TopicArn=TOPIC, Protocol="sqs", Endpoint=queue_arn)
    said = await sky.remove(setup("staging"))
    assert said[-1] == f"{TOPIC} stays: 1 subscribed, such as {queue_arn}"
    assert await sky.topics() == [TOPIC]
    await sky.operator.call("sns", "unsubscribe", SubscriptionArn=made["SubscriptionArn"])
    assert await sky.remove(setup("staging")) == [f"removed topic {TOPIC}"]


@module_loop
async def test_a_given_queue_gets_rules_and_a_policy(sky: Sky) -> None:
    url, _ = await sky.operator.queue("given")
    await sky.apply(setup(queue=QUEUE))
    asked = {"QueueUrl": url, "AttributeNames": ["Policy"]}
    found = (await sky.operator.call("sqs", "get_queue_attributes", **asked))["Attributes"]["Policy"]
    assert [one["Sid"] for one in json.loads(found)["Statement"]] == ["anyport-events"]
    assert await sky.topics() == []
    await sky.remove(setup(queue=QUEUE))
    assert await sky.rules() == []
    found = await sky.operator.call("sqs", "get_queue_attributes", **asked)
    assert not found.get("Attributes", {}).get("Policy")


@module_loop
async def test_a_queue_that_is_not_there_is_an_error_that_says_so(sky: Sky) -> None:
    nowhere = setup(queue=QUEUE.replace("given", "nowhere"))
    with pytest.raises(DiscoveryError, match="sqs:GetQueueUrl: there is no such queue"):
        await sky.apply(nowhere)


@module_loop
@pytest.mark.parametrize(
    ("operation", "action"),
    [("PutRule", "events:PutRule"), ("CreateTopic", "sns:CreateTopic"), ("PutTargets", "events:PutTargets")],
)
async def test_a_missing_permission_is_named(sky: Sky, operation: str, action: str) -> None:
    sky.simulator.faults.denied(operation, count=1)
    with pytest.raises(DiscoveryError, match=f"{action} is not allowed"):
        await sky.apply(setup())
    await sky.remove(setup())
