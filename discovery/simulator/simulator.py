"""The embedded ECS cluster in one object: API, scheduler, agents, and real processes as tasks.

    async with Simulator(speed=10) as simulator:
        await simulator.add_cluster("prod")
        await simulator.add_instance("prod")
        ecs = boto3.client("ecs", endpoint_url=simulator.url, ...)

Several may run on one machine at once: each claims a loopback /16 of its own (see
`discovery.simulator.network`), 127.0.x.x where that is free.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from aiohttp import web

from discovery.simulator.account import Account
from discovery.simulator.agent import InstanceServers
from discovery.simulator.api import MOST_BODY_BYTES, Api
from discovery.simulator.arns import make, new_id, short
from discovery.simulator.aws import Moto
from discovery.simulator.control import add_routes
from discovery.simulator.dispatch import Dispatcher
from discovery.simulator.environment import client_environment, task_environment
from discovery.simulator.events import Bulletin, Listener, instance_event, spot_event
from discovery.simulator.faults import Faults
from discovery.simulator.guard import Guard
from discovery.simulator.history import History
from discovery.simulator.iam import Policy
from discovery.simulator.lifecycle import Lifecycle, Pace
from discovery.simulator.metadata import metadata_url
from discovery.simulator.network import Loopback, Network
from discovery.simulator.operations import OPERATIONS
from discovery.simulator.outside import EventSender
from discovery.simulator.ports import PortRange, lose_cursor
from discovery.simulator.runtime import Runtime
from discovery.simulator.state import Cluster, Container, Instance, State, Task
from discovery.simulator.throttle import Throttle
from discovery.simulator.wire import Json, live_tasks

ACCOUNT = "123456789012"  # the one that moto has
AGENT_RESTART_S = 3.0  # at normal speed: so long the agent is away
SPOT_NOTICE_S = 120.0
HISTORY_STEP_S = 0.05
ZONES = "abc"


class SimulatorError(Exception):
    """The simulator cannot do what it is asked; the text says why and what to do."""


class Simulator:
    """An ECS cluster in this process: an async context manager that leaves no process behind.

    `speed` makes the life cycle of tasks go so many times faster; throttling stays in real time.
    `port` 0 takes a free port; `loopback` names the range of addresses ("127.0"), "" takes a free one;
    `ports` are the dynamic host ports. `policy` is an IAM policy that every call over HTTP must meet; without
    one everything is allowed. `on_output(name, line)` gets every line a task prints.
    """

    def __init__(
        self,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        region: str = "eu-west-1",
        speed: float = 1.0,
        throttling: bool = True,
        ports: PortRange | None = None,
        loopback: str = "",
        policy: Mapping[str, object] | None = None,
        on_output: Callable[[str, str], None] | None = None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self.state = State(account=ACCOUNT, region=region)
        self.faults = Faults()
        self.guard = Guard(self.state)
        self.guard.policy = Policy(policy) if policy is not None else None
        self.url = ""
        self._listen_at = (address, port)
        self._clock = clock
        self._rng = rng or random.Random()
        self._pace = Pace(speed)
        self._throttle = Throttle(time.monotonic) if throttling else None
        self._bulletin = Bulletin()
        self._moto = Moto(region=region)
        self._runtime = Runtime(on_exit=self._process_exited, on_output=on_output)
        self._loopback_wanted = loopback
        self._ports = ports or PortRange()
        self._instance_servers: dict[str, InstanceServers] = {}  # by instance ARN
        self._remembering: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    # -- starting and stopping -------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # In a task of its own: a test may enter in one task and leave in another.
        self._running = asyncio.create_task(self._run(started), name="simulator")
        await asyncio.wait([started, self._running], return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            await self._running
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._running is not None:
            await self._running

    async def _run(self, started: asyncio.Future[None]) -> None:
        async with AsyncExitStack() as stack:
            listener = stack.enter_context(_listen(*self._listen_at))
            loopback = Loopback(self._loopback_wanted, self._rng)
            stack.callback(loopback.close)
            await stack.enter_async_context(self._moto)
            await stack.enter_async_context(self._runtime)
            stack.push_async_callback(self._stop_instance_servers)
            async with asyncio.TaskGroup() as lives, asyncio.TaskGroup() as helpers:
                self._assemble(loopback, lives)
                server = await self._serve(listener)
                owned = [
                    helpers.create_task(Dispatcher(self._account, self._pace).run(), name="scheduler"),
                    helpers.create_task(self._sender.run(), name="events"),
                ]
                started.set_result(None)
                await self._ended.wait()
                await server.cleanup()
                for task in owned:
                    task.cancel()
                self._lifecycle.abandon()
            if self._remembering is not None:
                self._remembering.cancel()

    def _assemble(self, loopback: Loopback, lives: asyncio.TaskGroup) -> None:
        self._loopback = loopback
        self._history = History(self.state, self._clock)
        self._lifecycle = Lifecycle(
            runner=self._runtime,
            network=Network(loopback, self._ports),
            group=lives,
            changed=self._task_changed,
            environment=self._environment_of,
            pace=self._pace,
            clock=self._clock,
            rng=self._rng,
        )
        self._account = Account(self.state, self._clock, self._rng, self._lifecycle, self._bulletin)
        self._sender = EventSender(self._moto, self._bulletin, self.state, self._rng, self.faults)
        self._bulletin.subscribe(lambda event: self._remember_soon())

    async def _serve(self, listener: socket.socket) -> web.AppRunner:
        api = Api(
            self._account,
            faults=self.faults,
            guard=self.guard,
            history=self._history,
            throttle=self._throttle,
            forward=self._moto.forward,
        )
        app = web.Application(client_max_size=MOST_BODY_BYTES)
        add_routes(app, self)
        app.router.add_route("*", "/{path:.*}", api.handle)
        # A handler ends with its client, or a call that hangs on purpose would outlive the simulator.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        self.url = f"http://{self._listen_at[0]}:{listener.getsockname()[1]}"
        return runner

    async def _stop_instance_servers(self) -> None:
        await asyncio.gather(*(servers.stop() for servers in self._instance_servers.values()))

    # -- what is told ----------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What to export for boto3 to find this cluster."""
        return client_environment(self.url, self.state.region)

    @property
    def speed(self) -> float:
        return self._pace.speed

    @speed.setter
    def speed(self, speed: float) -> None:
        self._pace.speed = speed

    def subscribe(self, listener: Listener) -> None:
        """Call *listener* with every change of a task, instance, deployment or service, as it happens."""
        self._bulletin.subscribe(listener)

    # -- what is done ----------------------------------------------------------------------------

    def call(self, operation: str, **request: object) -> Json:
        """An ECS operation without the way over HTTP, without throttling and faults. Raises ApiError."""
        return OPERATIONS[operation](self._account, request)

    async def add_cluster(self, name: str) -> Cluster:
        """The cluster of that name, made if need be."""
        self.call("CreateCluster", clusterName=name)
        return self.state.clusters[name]

    async def add_instance(self, cluster: str, *, zone: str = "", external: bool = False) -> Instance:
        """Register one more container instance: an EC2 instance with an address, its agent and its IMDS.

        *zone* defaults to the next of the Region's three. *external* makes it ECS Anywhere: not an EC2
        instance, but one that Systems Manager knows.
        """
        holder = self._account.cluster(cluster)
        number = 1 + sum(len(other.instances) for other in self.state.clusters.values())
        address = self._loopback.instance_address(number)
        zone = zone or f"{self.state.region}{ZONES[(number - 1) % len(ZONES)]}"
        arn = make(self.state, f"container-instance/{cluster}/{new_id(self._rng)}")
        instance = Instance(
            arn=arn,
            ec2_instance_id=f"mi-{new_id(self._rng)[:17]}",
            cluster_arn=holder.arn,
            address=address,
            zone=zone,
            registered_at=self._clock(),
            status="REGISTERING",
            launch_type="EXTERNAL" if external else "EC2",
        )
        holder.instances[arn] = instance  # at once: its number is taken while EC2 is asked
        if not external:
            instance.ec2_instance_id = await self._moto.run_instance(address, zone)
        servers = InstanceServers(
            instance,
            lambda: [task for task in holder.tasks.values() if task.instance is instance],
            self.state.region,
            protect=self._protect,
            clock=self._clock,
        )
        self._instance_servers[arn] = servers
        await servers.start()
        instance.status = "ACTIVE"
        self._bulletin.publish(instance_event(instance, holder, self._clock()))
        return instance

    async def kill_task(self, task_arn: str) -> None:
        """kill -9 of the task's processes. Raises SimulatorError for a task that does not live here."""
        self._lifecycle.kill(self._live_task(task_arn))

    def set_health(self, task_arn: str, status: str, container: str = "") -> None:
        """Make the container health check say *status*, for one container or all that have a check."""
        self._lifecycle.set_health(self._live_task(task_arn), status, container)

    async def restart_agent(self, instance: Instance) -> None:
        """Restart the instance's agent: it is away for a moment and forgets where in the ports it was."""
        instance.agent_connected = False
        lose_cursor(instance)
        self._account.instance_changed(instance)
        servers = self._instance_servers[instance.arn]
        await servers.stop_agent()
        await asyncio.sleep(self._pace.real_s(AGENT_RESTART_S))
        await servers.start_agent()
        instance.agent_connected = True
        self._account.instance_changed(instance)

    async def interrupt_spot(self, instance: Instance, action: str = "terminate") -> None:
        """Announce that EC2 takes the instance away in two minutes, in its metadata and as an event."""
        now = self._clock()
        self._instance_servers[instance.arn].spot_notice(action, now + SPOT_NOTICE_S)
        state = self.state
        self._bulletin.publish(spot_event(instance, action, state.region, state.account, now))

    def _live_task(self, reference: str) -> Task:
        for cluster in self.state.clusters.values():
            for task in live_tasks(cluster):
                if short(task.arn) == short(reference):
                    return task
        raise SimulatorError(f"no task {short(reference)} lives here")

    # -- what is heard ---------------------------------------------------------------------------

    def _task_changed(self, task: Task) -> None:
        self._account.task_changed(task)

    def _remember_soon(self) -> None:
        """Changes close together share a copy in the history: a copy costs as much as the state is large."""
        if self._remembering is None:
            self._remembering = asyncio.get_running_loop().call_later(HISTORY_STEP_S, self._remember)

    def _remember(self) -> None:
        self._remembering = None
        self._history.record()

    def _environment_of(self, task: Task, container: Container) -> Mapping[str, str]:
        container.metadata_url = metadata_url(task, container)
        return task_environment(task, container, self.state.region)

    def _protect(self, task: Task, until: float) -> None:
        task.protected_until = until
        self._account.task_changed(task)

    def _process_exited(self, pid: int, exit_code: int) -> None:
        self._lifecycle.process_exited(pid, exit_code)


def _listen(address: str, port: int) -> socket.socket:
    try:
        return socket.create_server((address, port), backlog=512)
    except OSError as exc:
        why = str(exc.strerror).partition(" (")[0]  # create_server repeats the address in it
        raise SimulatorError(
            f"cannot listen on {address}:{port}: {why}. Choose another port, or 0 for a free one."
        ) from exc
