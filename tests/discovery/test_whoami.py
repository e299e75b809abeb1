"""Finding out who we are, from the simulator's metadata servers and from servers that are ill."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from discovery.identity import NOBODY, Identity
from discovery.imds import ENDPOINTS, Imds, ImdsError, endpoints
from discovery.simulator.agent import InstanceServers
from discovery.simulator.metadata import metadata_url
from discovery.simulator.state import Container, Instance, Task, TaskDefinition
from discovery.whoami import PATIENCE_S, Whoami, find_identity

CLUSTER = "arn:aws:ecs:eu-west-1:111122223333:cluster/prod"
INSTANCE = "arn:aws:ecs:eu-west-1:111122223333:container-instance/prod/1f73d099b914411c9a9ff81633b7741d"
TASK = "arn:aws:ecs:eu-west-1:111122223333:task/prod/4d590253bb114126b7afa7b58eea9221"


class Place:
    """An instance with its servers, and a task of ours on it."""

    def __init__(self) -> None:
        self.instance = Instance(INSTANCE, "i-0a1b2c3d", CLUSTER, "127.0.61.9", "eu-west-1b", 1e9)
        container = Container(
            arn="c1", name="proxy", definition={"name": "proxy"}, last_status="RUNNING", runtime_id="9125"
        )
        self.task = Task(
            arn=TASK,
            cluster_arn=CLUSTER,
            definition=TaskDefinition("arn:td/edge:1", "edge", 1, "bridge", [], 0.0),
            group="service:edge",
            created_at=1e9,
            instance=self.instance,
            last_status="RUNNING",
            containers=[container],
        )
        self.servers = InstanceServers(self.instance, lambda: [self.task], "eu-west-1")

    @property
    def environ(self) -> dict[str, str]:
        return {
            "ECS_CONTAINER_METADATA_URI_V4": metadata_url(self.task, self.task.containers[0]),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.instance.imds_url,
        }


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    await place.servers.start()
    yield place
    await place.servers.stop()


@pytest.mark.asyncio
async def test_task_and_machine_together_say_it_all(place: Place) -> None:
    assert await find_identity(place.environ) == Identity(
        task_arn=TASK,
        cluster="prod",
        cluster_arn=CLUSTER,
        region="eu-west-1",
        account="111122223333",
        service="edge",
        family="edge",
        ec2_id="i-0a1b2c3d",
        address="127.0.61.9",
        zone="eu-west-1b",
        network_mode="bridge",
        launch_type="EC2",
    )


@pytest.mark.asyncio
async def test_without_imds_and_without_a_task(place: Place) -> None:
    off = place.environ | {"AWS_EC2_METADATA_DISABLED": "True"}
    assert (await find_identity(off)).task_arn == TASK
    assert (await find_identity(off)).ec2_id == ""
    del off["ECS_CONTAINER_METADATA_URI_V4"]
    assert await find_identity(off) == NOBODY
    machine = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": place.instance.imds_url}
    assert (await find_identity(machine)).ec2_id == "i-0a1b2c3d"


@pytest.mark.asyncio
async def test_what_does_not_answer_at_first_is_asked_again(place: Place) -> None:
    environ = place.environ
    await place.servers.stop()
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            await place.servers.start()

    whoami = Whoami(environ, sleep=sleep)
    asking = asyncio.create_task(whoami.run())

    assert await whoami.known() == NOBODY
    await asking
    assert (whoami.identity.task_arn, whoami.identity.ec2_id) == (TASK, "i-0a1b2c3d")
    assert pauses == [1.0, 2.0]


@pytest.mark.asyncio
async def test_it_gives_up_where_there_is_nothing() -> None:
    async def no_sleep(seconds: float) -> None:
        pass

    whoami = Whoami({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.61.10:9"}, sleep=no_sleep)
    asking = asyncio.create_task(whoami.run())
    await whoami.known()
    await asyncio.wait_for(asking, 20)
    assert whoami.identity == NOBODY


@pytest.mark.asyncio
async def test_nobody_is_asked_before_somebody_wants_to_know(place: Place) -> None:
    whoami = Whoami(place.environ)
    asking = asyncio.create_task(whoami.run())
    await asyncio.wait([asking], timeout=0.1)
    assert whoami.identity == NOBODY
    assert (await whoami.known()).task_arn == TASK
    await asking


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def _served(handler: Handler) -> tuple[web.AppRunner, str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def _hanging(request: web.Request) -> web.Response:
    await asyncio.sleep(3600)
    raise AssertionError


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


async def _redirecting(request: web.Request) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1:1/")


async def _lists(request: web.Request) -> web.Response:
    return web.json_response([[]])


@pytest.mark.asyncio
@pytest.mark.parametrize("handler", [_hanging, _endless, _redirecting, _lists])
async def test_a_server_that_is_ill_costs_two_seconds_at_most(handler: Handler) -> None:
    runner, url = await _served(handler)
    began_s = time.monotonic()
    found = await find_identity(
        {"ECS_CONTAINER_METADATA_URI_V4": f"{url}/v4/x", "AWS_EC2_METADATA_SERVICE_ENDPOINT": url}
    )
    took_s = time.monotonic() - began_s
    await runner.cleanup()

    assert found == NOBODY
    assert took_s < PATIENCE_S + 2.0


@pytest.mark.asyncio
async def test_a_token_serves_until_it_is_refused(place: Place) -> None:
    tokens, asked = [], []

    async def answer(request: web.Request) -> web.Response:
        if request.method == "PUT":
            tokens.append(f"token-{len(tokens)}")
            return web.Response(text=tokens[-1])
        asked.append(request.headers["X-aws-ec2-metadata-token"])
        if asked[-1] == "token-0" and len(asked) == 3:
            return web.Response(status=401)
        return web.json_response({"path": request.path})

    runner, url = await _served(answer)
    async with aiohttp.ClientSession() as session:
        imds = Imds(session, {"AWS_EC2_METADATA_SERVICE_ENDPOINT": url})
        for _ in range(2):
            found = await imds.get("meta-data/instance-id")
            assert json.loads(found or b"") == {"path": "/latest/meta-data/instance-id"}
        with pytest.raises(ImdsError, match="401"):
            await imds.get("meta-data/instance-id")
        await imds.get("meta-data/instance-id")
    await runner.cleanup()

    assert asked == ["token-0", "token-0", "token-0", "token-1"]


def test_where_to_ask() -> None:
    assert endpoints({}) == ENDPOINTS
    assert endpoints({"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}) == ENDPOINTS[1:]
    assert endpoints({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://x:1/"}) == ("http://x:1",)
    assert endpoints({"AWS_EC2_METADATA_DISABLED": "true"}) == ()
