"""The endpoint over HTTP: boto3 itself as the client, against an account without processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import boto3
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError

from discovery.simulator.api import Api
from discovery.simulator.faults import Fault, Faults
from discovery.simulator.guard import Guard
from discovery.simulator.history import History
from discovery.simulator.throttle import Throttle
from tests.kit.cloud import Cloud


class Endpoint:
    """A cloud behind HTTP, and boto3 clients for it."""

    def __init__(self, throttle: Throttle | None) -> None:
        self.cloud = Cloud()
        self.cloud.cluster()
        self.cloud.define()
        self.faults = Faults()
        self.guard = Guard(self.cloud.account.state)
        self.history = History(self.cloud.account.state, self.cloud.clock)
        self.cloud.account.bulletin.subscribe(lambda event: self.history.record())
        self.forwarded: list[str] = []
        self.api = Api(
            self.cloud.account,
            faults=self.faults,
            guard=self.guard,
            history=self.history,
            throttle=throttle,
            forward=self._forward,
        )
        self.url = ""

    async def _forward(self, request: web.Request) -> web.Response:
        self.forwarded.append((await request.post()).get("Action", ""))  # type: ignore[arg-type]
        return web.Response(
            text='<DescribeInstancesResponse xmlns="x"><reservationSet/></DescribeInstancesResponse>',
            content_type="text/xml",
        )

    def client(self, service: str = "ecs") -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="eu-west-1",
            aws_access_key_id="x",
            aws_secret_access_key="y",
            config=Config(retries={"total_max_attempts": 1}, read_timeout=0.5),
        )

    async def ask(self, work: Callable[[Any], Any], service: str = "ecs") -> Any:
        """Run *work* with a client in a thread, and close the client."""

        def run() -> Any:
            client = self.client(service)
            try:
                return work(client)
            finally:
                client.close()

        return await asyncio.to_thread(run)

    async def refusal(self, work: Callable[[Any], Any], service: str = "ecs") -> tuple[str, int]:
        with pytest.raises(ClientError) as refused:
            await self.ask(work, service)
        answer = refused.value.response
        return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


@asynccontextmanager
async def endpoint(throttle: Throttle | None = None) -> AsyncIterator[Endpoint]:
    it = Endpoint(throttle)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", it.api.handle)
    async with TestServer(app, handler_cancellation=True) as server:
        it.url = str(server.make_url("")).rstrip("/")
        yield it


def list_all(client: Any, size: int = 100) -> list[str]:
    pages = client.get_paginator("list_tasks").paginate(cluster="prod", PaginationConfig={"PageSize": size})
    return [arn for page in pages for arn in page["taskArns"]]


def run_tasks(e: Endpoint, count: int) -> set[str]:
    answers = [e.cloud.call("RunTask", cluster="prod", taskDefinition="web") for _ in range(count)]
    return {answer["tasks"][0]["taskArn"] for answer in answers}


@pytest.mark.asyncio
async def test_boto3_pages_through_everything() -> None:
    async with endpoint() as e:
        arns = run_tasks(e, 23)
        listed = await e.ask(lambda c: list_all(c, 10))
        assert len(listed) == 23
        assert set(listed) == arns


@pytest.mark.asyncio
async def test_boto3_reads_times_and_versions() -> None:
    async with endpoint() as e:
        arns = run_tasks(e, 1)
        answer = await e.ask(lambda c: c.describe_tasks(cluster="prod", tasks=list(arns)))
        task = answer["tasks"][0]
        assert task["createdAt"].timestamp() == e.cloud.clock.now
        assert task["version"] == 2
        assert answer["ResponseMetadata"]["RequestId"]


@pytest.mark.asyncio
async def test_errors_reach_boto3_as_its_own_exceptions() -> None:
    async with endpoint() as e:
        code = await e.refusal(lambda c: c.list_tasks(cluster="none"))
        assert code == ("ClusterNotFoundException", 400)


@pytest.mark.asyncio
async def test_too_many_calls_are_throttled() -> None:
    async with endpoint(Throttle(lambda: 0.0)) as e:

        def burst(client: Any) -> tuple[int, dict[str, str]]:
            for number in range(120):
                try:
                    client.describe_clusters(clusters=["prod"])
                except ClientError as exc:
                    return number, exc.response["Error"]
            return 120, {}

        assert await e.ask(burst) == (50, {"Code": "ThrottlingException", "Message": "Rate exceeded"})
        await e.ask(lambda c: c.list_tasks(cluster="prod"))  # another bucket


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(kind="throttle"), ("ThrottlingException", 400)),
        (Fault(kind="error", status=503), ("ServerException", 503)),
        (Fault(kind="expired"), ("ExpiredTokenException", 400)),
        (Fault(kind="denied"), ("AccessDeniedException", 400)),
    ],
)
@pytest.mark.asyncio
async def test_faults_before_the_call(fault: Fault, code: tuple[str, int]) -> None:
    async with endpoint() as e:
        e.faults.add(fault)
        assert await e.refusal(lambda c: c.list_tasks(cluster="prod")) == code
        e.faults.clear()
        await e.ask(lambda c: c.list_tasks(cluster="prod"))


@pytest.mark.asyncio
async def test_a_hanging_call_ends_with_its_client() -> None:
    async with endpoint() as e:
        e.faults.hang("ListTasks", count=1)
        with pytest.raises(ReadTimeoutError):
            await e.ask(lambda c: c.list_tasks(cluster="prod"))
        await e.ask(lambda c: c.list_tasks(cluster="prod"))


@pytest.mark.asyncio
async def test_one_page_fails_and_the_others_do_not() -> None:
    async with endpoint() as e:
        run_tasks(e, 25)
        e.faults.failed_page("ListTasks", page=3, count=1)
        assert await e.refusal(lambda c: list_all(c, 10)) == ("ServerException", 500)
        assert len(await e.ask(lambda c: list_all(c, 10))) == 25


@pytest.mark.asyncio
async def test_right_answers_can_be_spoilt() -> None:
    async with endpoint() as e:
        arns = list(run_tasks(e, 2))
        e.faults.empty("ListTasks", count=1)
        assert await e.ask(list_all) == []
        e.faults.failures("DescribeTasks", count=1)
        answer = await e.ask(lambda c: c.describe_tasks(cluster="prod", tasks=arns))
        assert (len(answer["tasks"]), answer["failures"]) == (1, [{"arn": arns[0], "reason": "MISSING"}])
        e.faults.missing_fields("networkBindings", count=1)
        answer = await e.ask(lambda c: c.describe_tasks(cluster="prod", tasks=arns))
        assert "networkBindings" not in answer["tasks"][0]["containers"][0]


@pytest.mark.asyncio
async def test_a_stale_read_answers_from_the_past_and_a_write_does_not() -> None:
    async with endpoint() as e:
        first = run_tasks(e, 1)
        e.cloud.clock.now += 10
        second = run_tasks(e, 1)
        stopped = next(iter(first))
        e.cloud.call("StopTask", cluster="prod", task=stopped)
        e.faults.stale(seconds=5)
        assert set(await e.ask(list_all)) == first
        old = await e.ask(lambda c: c.describe_tasks(cluster="prod", tasks=[stopped]))
        assert old["tasks"][0]["desiredStatus"] == "RUNNING"
        unknown = await e.ask(lambda c: c.describe_tasks(cluster="prod", tasks=list(second)))
        assert unknown["failures"][0]["reason"] == "MISSING"
        await e.ask(lambda c: c.run_task(cluster="prod", taskDefinition="web"))
        e.faults.clear()
        assert len(await e.ask(list_all)) == 2


@pytest.mark.asyncio
async def test_other_services_are_forwarded_and_meet_faults_too() -> None:
    async with endpoint(Throttle(time.monotonic)) as e:
        assert (await e.ask(lambda c: c.describe_instances(), "ec2"))["Reservations"] == []
        assert e.forwarded == ["DescribeInstances"]
        e.faults.throttle("DescribeInstances", count=1)
        assert await e.refusal(lambda c: c.describe_instances(), "ec2") == ("RequestLimitExceeded", 503)
        e.faults.denied("DescribeInstances", count=1)
        assert await e.refusal(lambda c: c.describe_instances(), "ec2") == ("UnauthorizedOperation", 403)
        assert len(e.forwarded) == 1


@pytest.mark.parametrize(
    ("target", "body", "code"),
    [
        ("AmazonEC2ContainerServiceV20141113.ListTasks", b"{", "SerializationException"),
        ("AmazonEC2ContainerServiceV20141113.ListTasks", b"[]", "SerializationException"),
        ("AmazonEC2ContainerServiceV20141113.Explode", b"{}", "UnknownOperationException"),
        ("AmazonEC2ContainerServiceV20141113.ListTasks", b'{"cluster": 7}', "InvalidParameterException"),
    ],
)
@pytest.mark.asyncio
async def test_what_is_no_ecs_call_is_refused(target: str, body: bytes, code: str) -> None:
    headers = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}
    async with (
        endpoint() as e,
        aiohttp.ClientSession() as session,
        session.post(e.url, data=body, headers=headers) as answer,
    ):
        assert answer.status == 400
        assert (await answer.json(content_type=None))["__type"] == code
