"""A large ECS account on paper, behind the real API of the simulator.

`python -m bench.paper 1000 10 300 250`: services, tasks of each, instances, task definitions. It prints its
URL and serves until its standard input ends. No task has a process. Changes go to one SQS queue, as
EventBridge would tell them.

    POST /_paper/change    the oldest task ends, and another of its service starts
    GET /_paper/calls      how often each operation was called
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
import uuid
from collections import Counter, deque
from typing import Any, Final
from xml.sax.saxutils import escape

from aiohttp import web

from discovery.simulator.api import Api
from discovery.simulator.events import Event
from discovery.simulator.faults import Faults
from discovery.simulator.guard import Guard
from discovery.simulator.history import History
from discovery.simulator.state import Service, Task
from discovery.simulator.throttle import Throttle
from tests.kit.cloud import Clock, Cloud, ObedientCrew

CLUSTER: Final = "prod"
QUEUE: Final = "/123456789012/anyport"
_EC2: Final = "http://ec2.amazonaws.com/doc/2016-11-15/"


class Paper:
    """The account, its queue of events, and the count of calls."""

    def __init__(self, *, services: int, tasks: int, instances: int, definitions: int) -> None:
        self.cloud = Cloud(clock=Clock(time.time()), crew=ObedientCrew())
        self.cloud.events.clear()
        self.cluster = self.cloud.cluster(CLUSTER, instances)
        self._places = list(self.cluster.instances.values())
        for number, place in enumerate(self._places):
            place.address = f"127.1.{number // 250}.{1 + number % 250}"
        self._launched = 0
        revisions = [self.cloud.define(f"app-{number}") for number in range(definitions)]
        self.running: deque[Task] = deque()
        for number in range(services):
            name = f"service-{number:04}"
            self.cloud.call(
                "CreateService", cluster=CLUSTER, serviceName=name, desiredCount=tasks,
                taskDefinition=revisions[number % definitions],
            )  # fmt: skip
        for _ in range(tasks):
            for service in self.cluster.services.values():
                self.start(service)
        self.messages: deque[str] = deque()
        self.arrived = asyncio.Event()
        self.calls: Counter[str] = Counter()
        self.cloud.account.bulletin.subscribe(self.tell)

    def start(self, service: Service) -> None:
        """Start one more task of *service*, on the next instance."""
        place = self._places[self._launched % len(self._places)]
        self._launched += 1
        account, deployment = self.cloud.account, service.deployments[0]
        task = account.new_task(
            self.cluster, deployment.definition, group=f"service:{service.name}", instance=place,
            zone=place.zone, launch_type="EC2", started_by=deployment.id,
        )  # fmt: skip
        account.crew.launch(task)
        self.running.append(task)

    def change(self) -> None:
        """Let the oldest task end and another one of its service start."""
        self.cloud.clock.now = time.time()
        task = self.running.popleft()
        self.cloud.account.crew.stop(task, code="ServiceSchedulerInitiated", reason="scaling")
        self.start(self.cluster.services[task.group.removeprefix("service:")])

    def tell(self, event: Event) -> None:
        """Send an event to the queue."""
        state = self.cloud.account.state
        if event.detail_type:
            self.messages.append(json.dumps(event.envelope(state.account, state.region, str(uuid.uuid4()))))
            self.arrived.set()

    # -- what the simulator's ECS API does not do ----------------------------------------------------

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Answer for EC2 and SQS."""
        operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        if not operation:
            return self._addresses(dict(await request.post()))
        self.calls[operation] += 1
        body = await request.json()
        answers = {"ReceiveMessage": self._receive, "GetQueueAttributes": self._attributes}
        answer = await answers[operation](body) if operation in answers else {"Successful": [], "Failed": []}
        return web.Response(body=json.dumps(answer).encode(), content_type="application/x-amz-json-1.0")

    async def _attributes(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"Attributes": {"MessageRetentionPeriod": "300"}}

    async def _receive(self, body: dict[str, Any]) -> dict[str, Any]:
        if not self.messages:
            self.arrived.clear()
            try:
                async with asyncio.timeout(body.get("WaitTimeSeconds", 0)):
                    await self.arrived.wait()
            except TimeoutError:
                return {}
        taken = [self.messages.popleft() for _ in range(min(10, len(self.messages)))]
        return {
            "Messages": [
                {
                    "MessageId": str(uuid.uuid4()),
                    "ReceiptHandle": str(uuid.uuid4()),
                    "Body": text,
                    "MD5OfBody": hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(),
                }
                for text in taken
            ]
        }

    def _addresses(self, form: dict[str, Any]) -> web.Response:
        self.calls["DescribeInstances"] += 1
        wanted = {value for name, value in form.items() if name.startswith("Filter.1.Value.")}
        found = "".join(
            f"<item><instanceId>{escape(place.ec2_instance_id)}</instanceId>"
            f"<privateIpAddress>{escape(place.address)}</privateIpAddress></item>"
            for place in self._places
            if place.ec2_instance_id in wanted
        )
        text = (
            f'<DescribeInstancesResponse xmlns="{_EC2}"><reservationSet><item><instancesSet>{found}'
            "</instancesSet></item></reservationSet></DescribeInstancesResponse>"
        )
        return web.Response(text=text, content_type="text/xml")


async def serve(paper: Paper) -> None:
    """Serve until standard input ends."""
    account = paper.cloud.account
    api = Api(
        account,
        faults=Faults(),
        history=History(account.state, account.clock),
        throttle=Throttle(time.monotonic),
        forward=paper.forward,
        guard=Guard(account.state),
    )

    async def ecs(request: web.Request) -> web.StreamResponse:
        target = request.headers.get("X-Amz-Target", "")
        if target.startswith("AmazonEC2ContainerService"):
            paper.calls[target.rpartition(".")[2]] += 1
        return await api.handle(request)

    async def change(_: web.Request) -> web.Response:
        paper.change()
        return web.json_response({})

    async def calls(_: web.Request) -> web.Response:
        return web.json_response(paper.calls)

    app = web.Application(client_max_size=4 << 20)
    app.router.add_post("/_paper/change", change)
    app.router.add_get("/_paper/calls", calls)
    app.router.add_route("*", "/{path:.*}", ecs)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    services, tasks, instances, definitions = map(int, sys.argv[1:])
    asyncio.run(serve(Paper(services=services, tasks=tasks, instances=instances, definitions=definitions)))
