"""boto3 itself against moto behind our own endpoint."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import boto3
import pytest
import pytest_asyncio
from aiohttp import web

from discovery.simulator.aws import Moto, MotoFailure

REGION = "eu-west-1"
TASK = "arn:aws:ecs:eu-west-1:123456789012:task/prod/4d590253bb114126b7afa7b58eea9221"
EVENT = {
    "version": "0",
    "id": "3317b2af-7005-947d-b652-f55e762e571a",
    "detail-type": "ECS Task State Change",
    "source": "aws.ecs",
    "account": "123456789012",
    "time": "2026-01-02T03:04:05Z",
    "region": REGION,
    "resources": [TASK],
    "detail": {"taskArn": TASK, "lastStatus": "RUNNING", "version": 3},
}


class Endpoint:
    """A server that only forwards, and boto3 clients that speak to it."""

    def __init__(self, moto: Moto, url: str) -> None:
        self.moto = moto
        self._url = url

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self._url,
            region_name=REGION,
            aws_access_key_id="a",
            aws_secret_access_key="s",
        )

    async def call(self, service: str, operation: str, **arguments: Any) -> Any:
        def run() -> Any:
            client = self.client(service)
            try:
                return getattr(client, operation)(**arguments)
            finally:
                client.close()

        return await asyncio.to_thread(run)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def aws() -> AsyncIterator[Endpoint]:
    async with Moto(region=REGION) as moto:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", moto.forward)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Endpoint(moto, f"http://127.0.0.1:{runner.addresses[0][1]}")
        await runner.cleanup()


module_loop = pytest.mark.asyncio(loop_scope="module")


@module_loop
async def test_instances_have_the_address_and_zone_they_were_started_with(aws: Endpoint) -> None:
    first = await aws.moto.run_instance("127.0.1.1", "eu-west-1a")
    second = await aws.moto.run_instance("127.0.1.2", "eu-west-1b")
    answer = await aws.call(
        "ec2",
        "describe_instances",
        Filters=[{"Name": "instance-id", "Values": [first, second, "i-0123456789abcdef0"]}],
    )
    found = {
        instance["InstanceId"]: (instance["PrivateIpAddress"], instance["Placement"]["AvailabilityZone"])
        for reservation in answer["Reservations"]
        for instance in reservation["Instances"]
    }
    assert found == {first: ("127.0.1.1", "eu-west-1a"), second: ("127.0.1.2", "eu-west-1b")}


@module_loop
async def test_a_terminated_instance_says_so(aws: Endpoint) -> None:
    instance = await aws.moto.run_instance("127.0.1.3", "eu-west-1c")
    await aws.moto.terminate_instance(instance)
    answer = await aws.call("ec2", "describe_instances", InstanceIds=[instance])
    assert answer["Reservations"][0]["Instances"][0]["State"]["Name"] == "terminated"


@module_loop
async def test_a_long_poll_ends_as_soon_as_there_is_a_message(aws: Endpoint) -> None:
    url = (await aws.call("sqs", "create_queue", QueueName="polled"))["QueueUrl"]
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    receiving = asyncio.create_task(aws.call("sqs", "receive_message", QueueUrl=url, WaitTimeSeconds=20))
    await aws.call("sqs", "send_message", QueueUrl=url, MessageBody="hello")
    answer = await receiving
    assert [message["Body"] for message in answer["Messages"]] == ["hello"]
    assert loop.time() - began_s < 10


@module_loop
async def test_a_rule_delivers_our_events_to_its_queue(aws: Endpoint) -> None:
    url = (await aws.call("sqs", "create_queue", QueueName="events"))["QueueUrl"]
    attributes = await aws.call("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn"])
    pattern = json.dumps({"source": ["aws.ecs"], "detail-type": ["ECS Task State Change"]})
    await aws.call("events", "put_rule", Name="tasks", EventPattern=pattern)
    target = {"Id": "queue", "Arn": attributes["Attributes"]["QueueArn"]}
    await aws.call("events", "put_targets", Rule="tasks", Targets=[target])

    other = EVENT | {"detail-type": "ECS Service Action"}
    versions = list(range(1, 13))  # more than one call of PutEvents takes
    await aws.moto.put_events([other, *(EVENT | {"detail": {"version": number}} for number in versions)])

    bodies: list[dict[str, Any]] = []
    while len(bodies) < len(versions):
        answer = await aws.call(
            "sqs",
            "receive_message",
            QueueUrl=url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=5,
            VisibilityTimeout=60,
        )
        bodies += [json.loads(message["Body"]) for message in answer["Messages"]]
    assert sorted(body["detail"]["version"] for body in bodies) == versions
    for name in ("source", "account", "detail-type", "resources", "region", "time"):
        assert bodies[0][name] == EVENT[name], name


@module_loop
async def test_a_rule_delivers_to_a_topic_and_the_topic_to_its_queues_as_it_is(aws: Endpoint) -> None:
    topic = (await aws.call("sns", "create_topic", Name="changes"))["TopicArn"]
    urls = []
    for name in ("first", "second", "deleted"):
        url = (await aws.call("sqs", "create_queue", QueueName=name))["QueueUrl"]
        found = await aws.call("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn"])
        await aws.call(
            "sns",
            "subscribe",
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=found["Attributes"]["QueueArn"],
            Attributes={"RawMessageDelivery": "true"},
        )
        urls.append(url)
    await aws.call("sqs", "delete_queue", QueueUrl=urls.pop())  # the others get theirs all the same
    pattern = json.dumps({"source": ["aws.ecs"], "resources": [{"prefix": TASK}]})
    await aws.call("events", "put_rule", Name="to-topic", EventPattern=pattern)
    await aws.call("events", "put_targets", Rule="to-topic", Targets=[{"Id": "topic", "Arn": topic}])

    await aws.moto.put_events([EVENT | {"resources": ["another"]}, EVENT])

    for url in urls:
        answer = await aws.call("sqs", "receive_message", QueueUrl=url, WaitTimeSeconds=10)
        (message,) = answer["Messages"]
        assert {name: value for name, value in json.loads(message["Body"]).items() if name != "id"} == {
            name: value for name, value in EVENT.items() if name != "id"
        }


@module_loop
async def test_a_target_that_is_gone_does_not_keep_others_from_theirs(aws: Endpoint) -> None:
    gone = "arn:aws:sqs:eu-west-1:123456789012:gone"
    url = (await aws.call("sqs", "create_queue", QueueName="there"))["QueueUrl"]
    targets = [{"Id": "gone", "Arn": gone}, {"Id": "there", "Arn": gone.replace("gone", "there")}]
    pattern = json.dumps({"source": ["aws.ecs"], "detail-type": ["ECS Task State Change"]})
    await aws.call("events", "put_rule", Name="a-rule", EventPattern=pattern)
    await aws.call("events", "put_targets", Rule="a-rule", Targets=targets)
    await aws.moto.put_events([EVENT])
    answer = await aws.call("sqs", "receive_message", QueueUrl=url, WaitTimeSeconds=10)
    assert len(answer["Messages"]) == 1


@module_loop
async def test_target_groups(aws: Endpoint) -> None:
    vpc = (await aws.call("ec2", "describe_vpcs"))["Vpcs"][0]["VpcId"]
    made = await aws.call("elbv2", "create_target_group", Name="proxy", Protocol="HTTP", Port=80, VpcId=vpc)
    arn = made["TargetGroups"][0]["TargetGroupArn"]
    found = await aws.call("elbv2", "describe_target_groups", TargetGroupArns=[arn])
    assert found["TargetGroups"][0]["Port"] == 80


@pytest.mark.asyncio
async def test_no_rule_costs_no_call() -> None:
    never_entered = Moto()  # a call would fail
    await never_entered.put_events([EVENT])


@pytest.mark.asyncio
async def test_a_dead_moto_is_a_failure_that_says_so() -> None:
    async with Moto() as moto:
        assert moto._url is not None
        await moto._url
        os.kill(_pid(moto), signal.SIGKILL)
        with pytest.raises(MotoFailure, match="does not answer"):
            await moto.run_instance("127.0.1.2", "eu-west-1a")


@pytest.mark.asyncio
async def test_leaving_at_once_leaves_no_process_behind() -> None:
    async with Moto() as moto:
        pid = _pid(moto)
    assert not _alive(pid)


def _pid(moto: Moto) -> int:
    assert moto._process is not None
    return moto._process.pid


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
