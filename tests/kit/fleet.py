"""A fleet of proxies in one process: real sources and real HTTP between them, on an ECS account on paper."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from discovery.ecs.aws.budget import Budget
from discovery.ecs.aws.queries import Described, Json
from discovery.ecs.cluster import EcsCluster
from discovery.ecs.fleet.fellows import Fleet
from discovery.ecs.fleet.follow import Follower
from discovery.ecs.fleet.share import Share
from discovery.ecs.shapes import Task
from discovery.ecs.translate.translator import Translator
from discovery.identity import Identity
from discovery.model import DiscoveryError, Snapshot
from proxy.control.admin.fleet import LEDGER_PATH, FleetPages, ledger_page
from tests.kit.cloud import Cloud, ObedientCrew

KEY = "a key that all of the fleet know"
METRICS_PORT = 9180


class PaperApi:
    """`EcsQueries` on a `Cloud`. `all_calls` counts for every proxy of the account; `failing` is raised."""

    def __init__(self, cloud: Cloud, all_calls: Counter[str]) -> None:
        self.calls: Counter[str] = Counter()
        self.failing: DiscoveryError | None = None
        self.takes_s = 0.002
        self._cloud = cloud
        self._all_calls = all_calls

    async def _call(self, operation: str, **request: Any) -> dict[str, Any]:
        self.calls[operation] += 1
        self._all_calls[operation] += 1
        await asyncio.sleep(self.takes_s)
        if self.failing is not None:
            raise self.failing
        return self._cloud.call(operation, **request)

    async def task_pages(
        self,
        cluster: str,
        *,
        desired_status: str = "RUNNING",
        instance: str = "",
        service: str = "",
        launch_type: str = "",
    ) -> AsyncGenerator[list[str], None]:
        request: dict[str, Any] = {"cluster": cluster, "desiredStatus": desired_status}
        request |= {"containerInstance": instance} if instance else {}
        request |= {"serviceName": service} if service else {}
        request |= {"launchType": launch_type} if launch_type else {}
        token: dict[str, str] = {}
        while True:
            page = await self._call("ListTasks", **request, **token)
            yield page["taskArns"]
            if not page.get("nextToken"):
                return
            token = {"nextToken": page["nextToken"]}

    async def list_tasks(self, cluster: str, *, desired_status: str = "RUNNING") -> list[str]:
        pages = self.task_pages(cluster, desired_status=desired_status)
        return [arn async for page in pages for arn in page]

    async def describe_tasks(self, cluster: str, arns: Sequence[str]) -> Described:
        return await self._described("DescribeTasks", "tasks", cluster, arns)

    async def list_container_instances(self, cluster: str) -> list[str]:
        return list((await self._call("ListContainerInstances", cluster=cluster))["containerInstanceArns"])

    async def describe_container_instances(self, cluster: str, arns: Sequence[str]) -> Described:
        return await self._described("DescribeContainerInstances", "containerInstances", cluster, arns)

    async def describe_services(self, cluster: str, names: Sequence[str]) -> Described:
        answer = await self._call("DescribeServices", cluster=cluster, services=list(names))
        return Described(answer["services"], [failure["arn"] for failure in answer["failures"]])

    async def describe_task_definition(self, arn: str) -> Json:
        answer = await self._call("DescribeTaskDefinition", taskDefinition=arn)
        return dict(answer["taskDefinition"])

    async def instance_addresses(self, ec2_ids: Sequence[str]) -> dict[str, str]:
        self.calls["DescribeInstances"] += 1
        self._all_calls["DescribeInstances"] += 1
        return dict.fromkeys(ec2_ids, "127.0.0.1")

    async def _described(self, operation: str, items: str, cluster: str, arns: Sequence[str]) -> Described:
        found = Described([], [])
        for start in range(0, len(arns), 100):
            batch = list(arns[start : start + 100])
            answer = await self._call(operation, cluster=cluster, **{items: batch})
            found.found.extend(answer[items])
            known = {item.get("taskArn") or item.get("containerInstanceArn") for item in answer[items]}
            found.missing.extend(arn for arn in batch if arn not in known)
        return found


@dataclass
class Proxy:
    """One proxy of the fleet: a task of ECS service `anyport`, its source and its server."""

    fleet: PaperFleet
    task_arn: str
    key: str = KEY
    clock_skew_s: float = 0.0
    tampering: Any = None  # middleware of its server
    knows: Sequence[Task] = ()  # from the disk, say
    snapshot: Snapshot | None = None
    port: int = 0
    says: Mapping[str, Any] = field(default_factory=dict)  # what it tells others instead of the truth

    async def start(self) -> Self:
        self.stack = AsyncExitStack()
        self.api = PaperApi(self.fleet.cloud, self.fleet.calls)
        self.identity = Identity(task_arn=self.task_arn, cluster="prod", service="anyport")
        self.place = Fleet(key=self.key, port=METRICS_PORT, identity=lambda: self.identity)
        self.source = EcsCluster(
            self.api,
            name="ecs:prod",
            cluster="prod",
            translator=lambda: Translator(source="ecs:prod", domain="test", own=self.identity),
            informants=[self._follower] if self.key else [],
            led=bool(self.key),
            confirm_s=1.0,
            interval_s=self.fleet.interval_s,
            budget=Budget(share=0.9),
            rng=random.Random(self.task_arn),
        )
        await self._serve()
        self.watching = asyncio.create_task(self._watch())
        return self

    def _follower(self, cluster: EcsCluster) -> Follower:
        self.place.attach(cluster.ledger)
        for task in self.knows:
            cluster.ledger.hear_task(task, by="disk")
        self.share = Share(
            cluster.ledger,
            cluster.status,
            hurry=cluster.hurry,
            seen=cluster.hear_seen,
            notice=cluster.hear_notice,
        )
        cluster.listeners.append(self.share.notify)
        if "chain" in self.says:
            truth = self.share.word
            self.share.word = lambda: {**truth(), "chain": self.says["chain"]}  # type: ignore[method-assign]
        self.follower = Follower(
            cluster.ledger,
            cluster.heard,
            cluster="prod",
            fleet=self.place,
            share=self.share,
            status=cluster.status,
            lead=cluster.lead,
            follow=cluster.follow,
            doubt=cluster.doubt,
            find=lambda: self.place.find(self.api, "prod", heard=cluster.heard),
        )
        cluster.pass_on = self.follower.pass_on
        cluster.pass_seen = self.follower.pass_seen
        cluster.pass_notice = self.follower.pass_notice
        if self.clock_skew_s:
            wall_clock = self.follower._wall_clock
            self.follower._wall_clock = lambda: wall_clock() + self.clock_skew_s
        return self.follower

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self.tampering] if self.tampering else [])
        page = ledger_page(
            lambda name: self.share if name == "prod" else None, lambda: self.says.get("task", self.task_arn)
        )
        FleetPages(lambda: self.key).add(app, LEDGER_PATH, page)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await runner.setup()
        self.socket = socket.create_server(("127.0.0.1", self.port))
        self.port = self.socket.getsockname()[1]
        self.site = web.SockSite(runner, self.socket)
        await self.site.start()
        self.runner = runner
        self.fleet.place(self.task_arn, self.port)

    async def _watch(self) -> None:
        async for snapshot in self.source.watch():
            self.snapshot = snapshot

    async def restart(self, *, tampering: Any) -> None:
        """Start again in place, at the same address, with something in the way of its answers."""
        await self.kill()
        self.tampering = tampering
        await self.start()

    def ledger_knows(self, arn: str) -> bool:
        return self.source.ledger.task(arn) is not None

    async def kill(self) -> None:
        """Be gone, and leave the task to ECS, which has not noticed."""
        self.watching.cancel()
        await asyncio.gather(self.watching, return_exceptions=True)
        if self.socket.fileno() >= 0:
            await self.site.stop()
            for _ in range(5):  # whoever has just been accepted gets as far as to be closed
                await asyncio.sleep(0)
            await self.runner.cleanup()
            self.socket.close()
        await asyncio.sleep(0)

    @property
    def leads(self) -> bool | None:
        """Whether it leads, None while that is not decided."""
        if not self.key:
            return True
        role = self.follower._role
        return None if role is None else not role

    @property
    def follows(self) -> str:
        return self.follower._role or ""

    def draining(self, service: str = "web") -> int:
        found = self.snapshot.by_service.get(service, ()) if self.snapshot is not None else ()
        return sum(endpoint.draining for endpoint in found)

    def ready(self, service: str = "web") -> int:
        found = self.snapshot.by_service.get(service, ()) if self.snapshot is not None else ()
        return sum(not endpoint.draining and not endpoint.starting for endpoint in found)


@dataclass
class PaperFleet:
    """The account, and the proxies that are its tasks."""

    interval_s: float = 0.3
    cloud: Cloud = field(default_factory=lambda: Cloud(crew=ObedientCrew()))
    calls: Counter[str] = field(default_factory=Counter)
    proxies: list[Proxy] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cloud.cluster("prod", instances=3)
        self.cloud.define("anyport", portMappings=[{"containerPort": METRICS_PORT}])
        self.cloud.define("web", container={"environment": [{"name": "PASSWORD", "value": "hunter2"}]})
        for name in ("anyport", "web"):
            self.cloud.call(
                "CreateService", cluster="prod", serviceName=name, taskDefinition=name, desiredCount=0
            )

    def run(self, family: str, count: int = 1) -> list[str]:
        """Start so many tasks of a service of that name, each later than those before."""
        arns = []
        for _ in range(count):
            self.cloud.clock.now += 1.0
            account = self.cloud.account
            cluster = account.state.clusters["prod"]
            task = account.new_task(
                cluster, account.active_definition(family), group=f"service:{family}",
                instance=next(iter(cluster.instances.values())), zone="eu-west-1a", launch_type="EC2",
                started_by="ecs-svc/1",
            )  # fmt: skip
            self.cloud.crew.launch(task)
            arns.append(task.arn)
        return arns

    def web(self) -> list[str]:
        """Return the tasks of service `web` that have not been stopped."""
        tasks = self.cloud.account.state.clusters["prod"].tasks.values()
        return [t.arn for t in tasks if t.group == "service:web" and t.desired_status == "RUNNING"]

    def described(self, arn: str, **more: Any) -> dict[str, Any]:
        """Return what DescribeTasks says of a task, but for what *more* says instead."""
        (found,) = self.cloud.call("DescribeTasks", cluster="prod", tasks=[arn])["tasks"]
        return {**found, **more}

    def renamed(self, arn: str, new: str) -> str:
        """Give a task another ARN; return that."""
        tasks = self.cloud.account.state.clusters["prod"].tasks
        tasks[new] = tasks.pop(arn)
        tasks[new].arn = new
        return new

    def stop(self, arn: str) -> None:
        self.cloud.call("StopTask", cluster="prod", task=arn)

    def place(self, arn: str, port: int) -> None:
        """Have the host port of a proxy's task be *port*."""
        task = self.cloud.account.state.clusters["prod"].tasks[arn]
        task.containers[0].bindings[0].host_port = port
        self.cloud.account.task_changed(task)

    def new(self, **more: Any) -> Proxy:
        proxy = Proxy(self, self.run("anyport")[0], **more)
        self.proxies.append(proxy)
        return proxy

    async def started(self, count: int, **more: Any) -> list[Proxy]:
        return [await self.new(**more).start() for _ in range(count)]


@asynccontextmanager
async def paper_fleet(**more: Any) -> AsyncGenerator[PaperFleet, None]:
    """Provide an account; whatever proxies were started in it are stopped at the end."""
    fleet = PaperFleet(**more)
    try:
        yield fleet
    finally:
        for proxy in fleet.proxies:
            proxy.watching.cancel()
        await asyncio.gather(*(proxy.watching for proxy in fleet.proxies), return_exceptions=True)
        for proxy in fleet.proxies:
            await proxy.kill()
