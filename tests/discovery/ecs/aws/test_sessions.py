"""Whose credentials are used: renewed before they expire, looked for anew when they are refused."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from discovery.ecs.aws.api import EcsApi
from discovery.ecs.aws.sessions import Account
from discovery.ecs.cluster import EcsCluster
from discovery.ecs.translate.translator import Translator
from discovery.model import DiscoveryError, Snapshot
from tests.kit import ecs_json as ecs
from tests.kit.eventually import eventually
from tests.kit.scripted_aws import Answer, ScriptedAws, error, scripted_aws

ROLE = "arn:aws:iam::210987654321:role/anyport"


@pytest_asyncio.fixture
async def aws(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedAws]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "OURS",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    async with scripted_aws() as scripted:
        scripted.answers["ListTasks"] = lambda body: {"taskArns": []}
        yield scripted


async def at_once(seconds: float) -> None:
    """Do not wait."""


def until(minutes: float) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


def role(key: str, minutes: float) -> web.Response:
    return web.Response(
        content_type="text/xml",
        text='<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>'
        f"<AssumedRoleUser><Arn>arn:aws:sts::210987654321:assumed-role/anyport/anyport</Arn>"
        f"<AssumedRoleId>A:anyport</AssumedRoleId></AssumedRoleUser>"
        f"<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
        f"<SessionToken>t</SessionToken><Expiration>{until(minutes)}</Expiration></Credentials>"
        "</AssumeRoleResult></AssumeRoleResponse>",
    )


@pytest.mark.asyncio
async def test_a_role_is_assumed_with_what_is_found_and_kept(aws: ScriptedAws) -> None:
    aws.answers["AssumeRole"] = lambda body: role("ROLE1", 60)
    api = EcsApi(Account(region="eu-west-1", endpoint_url=aws.url, role_arn=ROLE, external_id="4711"))

    await api.list_tasks("prod")
    await api.list_tasks("prod")
    api.close()

    assert aws.operations() == ["AssumeRole", "ListTasks", "ListTasks"]
    assert aws.keys == ["OURS", "ROLE1", "ROLE1"]
    asked = aws.asked[0][1]
    assert (asked["RoleArn"], asked["ExternalId"], asked["RoleSessionName"]) == (ROLE, "4711", "anyport")


@pytest.mark.asyncio
async def test_a_role_is_renewed_before_its_credentials_expire(aws: ScriptedAws) -> None:
    numbers = itertools.count(1)
    aws.answers["AssumeRole"] = lambda body: role(f"ROLE{next(numbers)}", 5)
    api = EcsApi(Account(region="eu-west-1", endpoint_url=aws.url, role_arn=ROLE))

    await api.list_tasks("prod")
    await api.list_tasks("prod")
    api.close()

    used = [key for key, (operation, _) in zip(aws.keys, aws.asked, strict=True) if operation == "ListTasks"]
    assert used[0] != used[1]


@pytest.mark.asyncio
async def test_a_role_that_may_not_be_assumed_is_named(aws: ScriptedAws) -> None:
    aws.answers["AssumeRole"] = lambda body: web.Response(
        status=403,
        content_type="text/xml",
        text='<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
        "<Code>AccessDenied</Code><Message>AKIASECRET</Message></Error></ErrorResponse>",
    )
    api = EcsApi(Account(region="eu-west-1", endpoint_url=aws.url, role_arn=ROLE))

    with pytest.raises(DiscoveryError, match=f"sts:AssumeRole of {ROLE} is not allowed") as caught:
        await api.list_tasks("prod")
    api.close()

    assert caught.value.kind == "denied"
    assert "AKIASECRET" not in str(caught.value)


def refusing(aws: ScriptedAws, good: set[str], code: str) -> None:
    """Refuse every ListTasks that is not signed with one of *good*."""

    def answer(body: dict[str, Any]) -> Answer:
        return {"taskArns": []} if aws.keys[-1] in good else error(code)

    aws.answers["ListTasks"] = answer


@pytest.mark.asyncio
@pytest.mark.parametrize("code", ["ExpiredTokenException", "UnrecognizedClientException"])
async def test_expired_keys_are_looked_for_again_in_the_environment(
    aws: ScriptedAws, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    good = {"OURS"}
    refusing(aws, good, code)
    api = EcsApi(Account(region="eu-west-1", endpoint_url=aws.url), sleep=at_once)
    assert await api.list_tasks("prod") == []

    good.clear()
    good.add("NEW")
    with pytest.raises(DiscoveryError):
        await api.list_tasks("prod")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NEW")

    assert await api.list_tasks("prod") == []
    api.close()


@pytest.mark.asyncio
async def test_expired_keys_are_asked_for_again_where_ecs_gives_them(
    aws: ScriptedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that runs, as a task with a task role: it recovers by itself, and nothing goes meanwhile."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.url}/credentials")
    given = {"AccessKeyId": "FIRST", "SecretAccessKey": "s", "Token": "t", "Expiration": until(360)}
    aws.credentials = lambda: given
    good = {"FIRST"}
    arn = ecs.task_arn(1)

    def checked(answer: dict[str, Any]) -> Any:
        return lambda body: answer if aws.keys[-1] in good else error("ExpiredTokenException")

    listed = {"taskArns": [arn]}
    aws.answers |= {
        "ListTasks": lambda body: (
            error("ExpiredTokenException")
            if aws.keys[-1] not in good
            else listed
            if body["desiredStatus"] == "RUNNING"
            else {"taskArns": []}
        ),
        "DescribeTasks": checked({"tasks": [ecs.task(1, startedAt=1.8e9)], "failures": []}),
        "DescribeContainerInstances": checked({"containerInstances": [ecs.instance(1)], "failures": []}),
        "DescribeTaskDefinition": checked({"taskDefinition": ecs.definition()}),
        "DescribeInstances": lambda body: web.Response(
            content_type="text/xml",
            text='<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><reservationSet>'
            f"<item><instancesSet><item><instanceId>{ecs.ec2_id(1)}</instanceId>"
            "<privateIpAddress>10.0.1.5</privateIpAddress></item></instancesSet></item></reservationSet>"
            "</DescribeInstancesResponse>",
        ),
    }
    cluster = EcsCluster(
        EcsApi(Account(region="eu-west-1", endpoint_url=aws.url)),
        name="ecs:prod",
        cluster="prod",
        translator=lambda: Translator(source="ecs:prod", domain="io"),
        interval_s=0.05,
    )
    seen: list[Snapshot] = []

    async def watch() -> None:
        async for snapshot in cluster.watch():
            seen.append(snapshot)  # noqa: PERF401 - one by one, as they come

    watching = asyncio.create_task(watch())
    await eventually(lambda: bool(seen) and seen[-1].complete)
    before = seen[-1]
    assert [endpoint.address for endpoint in before.endpoints] == ["10.0.1.5:32771"]

    good.clear()  # the keys expire before their time
    await eventually(lambda: cluster.status.errors["expired"] >= 2)
    assert seen[-1] is before
    assert "have expired" in cluster.status.last_error

    given["AccessKeyId"] = "SECOND"
    good.add("SECOND")
    done = cluster.status.refreshes
    await eventually(lambda: cluster.status.refreshes > done)
    watching.cancel()
    await asyncio.wait([watching])

    assert seen[-1] is before
    assert cluster.status.last_error == ""
