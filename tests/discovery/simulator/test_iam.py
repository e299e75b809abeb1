"""Policies that are enforced: what they allow, and how each service says no."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import boto3
import pytest
from botocore.exceptions import ClientError

from discovery.simulator.iam import Policy, PolicyError, Wish
from discovery.simulator.permissions import wishes
from discovery.simulator.simulator import Simulator

ARN = "arn:aws:ecs:eu-west-1:123456789012:"
PROD, DEV = f"{ARN}cluster/prod", f"{ARN}cluster/dev"


def _policy(*statements: dict[str, Any]) -> Policy:
    return Policy({"Version": "2012-10-17", "Statement": list(statements)})


def _allow(action: Any, resource: Any = "*", **condition: Any) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    return {**statement, "Condition": condition} if condition else statement


@pytest.mark.parametrize(
    ("statement", "wish", "allowed"),
    [
        (_allow("ecs:ListTasks"), Wish("ecs:ListTasks"), True),
        (_allow("ECS:listtasks"), Wish("ecs:ListTasks"), True),
        (_allow("ecs:List*"), Wish("ecs:ListTasks"), True),
        (_allow("ecs:*"), Wish("ec2:DescribeInstances"), False),
        (_allow(["ecs:A", "ecs:ListTasks"]), Wish("ecs:ListTasks"), True),
        (_allow("ecs:ListTasks", PROD), Wish("ecs:ListTasks", (PROD,)), True),
        (_allow("ecs:ListTasks", PROD), Wish("ecs:ListTasks", (DEV,)), False),
        (_allow("ecs:ListTasks", PROD), Wish("ecs:ListTasks"), False),  # it knows no resources
        (_allow("ecs:ListTasks", f"{ARN}cluster/*"), Wish("ecs:ListTasks", (DEV,)), True),
        (_allow("x", f"{ARN}cluster/?ev"), Wish("x", (DEV,)), True),
        (_allow("x", f"{ARN}cluster/?rod"), Wish("x", (DEV,)), False),
        (_allow("x", PROD), Wish("x", (PROD, DEV)), False),  # every one of them
        (_allow("x", ArnEquals={"ecs:cluster": PROD}), Wish("x", ("*",), {"ecs:cluster": PROD}), True),
        (_allow("x", ArnEquals={"ecs:cluster": PROD}), Wish("x", ("*",), {"ecs:cluster": DEV}), False),
        (_allow("x", ArnEquals={"ecs:cluster": PROD}), Wish("x"), False),  # the key is not there
        (_allow("x", ArnEquals={"ecs:cluster": [DEV, PROD]}), Wish("x", ("*",), {"ecs:cluster": PROD}), True),
        (_allow("x", ArnLike={"ecs:cluster": "*/p*"}), Wish("x", ("*",), {"ecs:cluster": PROD}), True),
        (_allow("x", StringEquals={"ecs:cluster": "*"}), Wish("x", ("*",), {"ecs:cluster": PROD}), False),
        (_allow("x", StringEquals={"a": "1", "b": "2"}), Wish("x", ("*",), {"a": "1", "b": "3"}), False),
    ],
)
def test_what_a_statement_allows(statement: dict[str, Any], wish: Wish, allowed: bool) -> None:
    assert (_policy(statement).denied([wish]) is None) is allowed


def test_a_denial_beats_every_permission() -> None:
    deny = {"Effect": "Deny", "Action": "ecs:*", "Resource": PROD}
    policy = _policy(_allow("ecs:*"), deny)
    assert policy.denied([Wish("ecs:A", (DEV,))]) is None
    assert policy.denied([Wish("ecs:A", (DEV,)), Wish("ecs:A", (DEV, PROD))]) == ("ecs:A", PROD)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ([], 'a list "Statement"'),
        ({"Statement": {}}, 'a list "Statement"'),
        ({"Statement": [{"Effect": "Maybe"}]}, '"Allow" or "Deny"'),
        ({"Statement": [{**_allow("x"), "NotAction": "y"}]}, "NotAction is not simulated"),
        ({"Statement": [_allow([])]}, "Action must be"),
        ({"Statement": [_allow("x", [3])]}, "Resource must be"),
        (
            {"Statement": [_allow("x", IpAddress={"aws:SourceIp": "10.0.0.0/8"})]},
            "IpAddress is not simulated",
        ),
        ({"Statement": [{**_allow("x"), "Condition": []}]}, "Condition must be"),
    ],
)
def test_what_cannot_be_enforced_is_refused(document: object, text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        Policy(document)


def _needs(service: str, operation: str, **request: Any) -> list[tuple[str, str, str]]:
    found = wishes(service, operation, request, account="123456789012", region="eu-west-1")
    return [
        (wish.action, resource, wish.context.get("ecs:cluster", ""))
        for wish in found
        for resource in wish.resources
    ]


def test_which_permissions_calls_need() -> None:
    task = f"{ARN}task/prod/1"
    assert _needs("ecs", "ListTasks", cluster="prod") == [
        ("ecs:ListTasks", f"{ARN}container-instance/prod/*", PROD)
    ]
    assert _needs("ecs", "DescribeTasks", cluster=PROD, tasks=[task, "2"]) == [
        ("ecs:DescribeTasks", task, PROD),
        ("ecs:DescribeTasks", f"{ARN}task/prod/2", PROD),
    ]
    assert _needs("ecs", "DescribeServices", services=["web"]) == [
        ("ecs:DescribeServices", f"{ARN}service/default/web", f"{ARN}cluster/default")
    ]
    assert _needs("ecs", "ListContainerInstances", cluster="prod") == [
        ("ecs:ListContainerInstances", PROD, "")
    ]
    assert _needs("ecs", "DescribeTaskDefinition", taskDefinition="web") == [
        ("ecs:DescribeTaskDefinition", "*", "")
    ]
    assert _needs("ecs", "UpdateService", cluster="prod") == [("ecs:UpdateService", "*", PROD)]
    assert _needs("ec2", "DescribeInstances") == [("ec2:DescribeInstances", "*", "")]
    queue = "arn:aws:sqs:eu-west-1:123456789012:q"
    url = "http://127.0.0.1:4566/123456789012/q"
    assert _needs("sqs", "DeleteMessageBatch", QueueUrl=url) == [("sqs:DeleteMessage", queue, "")]
    assert _needs("sqs", "CreateQueue", QueueName="q", tags={"a": "b"}) == [
        ("sqs:CreateQueue", queue, ""),
        ("sqs:TagQueue", queue, ""),
    ]
    assert _needs("sqs", "ListQueues", QueueNamePrefix="q") == [("sqs:ListQueues", "*", "")]
    topic = "arn:aws:sns:eu-west-1:123456789012:t"
    assert _needs("sns", "Subscribe", TopicArn=topic) == [("sns:Subscribe", topic, "")]
    assert _needs("sns", "Unsubscribe", SubscriptionArn=f"{topic}:1") == [("sns:Unsubscribe", "*", "")]
    role = "arn:aws:iam::210987654321:role/r"
    assert _needs("sts", "AssumeRole", RoleArn=role) == [("sts:AssumeRole", role, "")]
    assert _needs("sts", "GetCallerIdentity") == []


@pytest.mark.asyncio
async def test_each_service_says_no_in_its_own_words() -> None:
    calls = [
        ("ecs", "list_tasks", {"cluster": "prod"}, "AccessDeniedException"),
        ("ec2", "describe_instances", {}, "UnauthorizedOperation"),
        ("sqs", "create_queue", {"QueueName": "q"}, "AccessDenied"),
        ("sns", "create_topic", {"Name": "t"}, "AuthorizationError"),
        (
            "sts",
            "assume_role",
            {"RoleArn": "arn:aws:iam::1:role/r12345", "RoleSessionName": "me"},
            "AccessDenied",
        ),
        ("events", "put_rule", {"Name": "r", "EventPattern": "{}"}, "AccessDeniedException"),
    ]
    async with Simulator(policy={"Version": "2012-10-17", "Statement": []}) as simulator:
        await simulator.add_cluster("prod")

        def ask(service: str, method: str, request: dict[str, Any]) -> str:
            client = boto3.client(
                service, endpoint_url=simulator.url, region_name="eu-west-1",
                aws_access_key_id="x", aws_secret_access_key="y",
            )  # fmt: skip
            try:
                getattr(client, method)(**request)
            except ClientError as exc:
                return str(exc.response["Error"]["Code"])
            finally:
                client.close()
            return "allowed"

        for service, method, request, code in calls:
            assert await asyncio.to_thread(ask, service, method, request) == code, service
        async with aiohttp.ClientSession() as http:
            url = f"{simulator.url}/_simulator/policy"
            async with http.get(url) as answer:
                denied = (await answer.json())["denied"]
                assert [one["action"].partition(":")[0] for one in denied] == [call[0] for call in calls]
            allowed = {"Statement": [_allow(["ecs:ListTasks", "ec2:DescribeInstances"])]}
            async with http.put(url, data=json.dumps(allowed)) as answer:
                assert answer.status == 200
            assert [await asyncio.to_thread(ask, *call[:3]) for call in calls[:3]] == [
                "allowed", "allowed", "AccessDenied",
            ]  # fmt: skip
            async with http.put(url, json={"Statement": [{"Effect": "Perhaps"}]}) as answer:
                assert answer.status == 400
                assert "Allow" in (await answer.json())["error"]
            async with http.delete(url) as answer:
                assert answer.status == 200
            assert await asyncio.to_thread(ask, *calls[2][:3]) == "allowed"
