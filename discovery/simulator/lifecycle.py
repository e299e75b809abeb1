"""The life of a task: PROVISIONING, PENDING, RUNNING, told to stop, DEPROVISIONING, STOPPED.

One coroutine walks each task through it. What ECS shows changes in the order ECS has it: `desiredStatus`
flips first, the stop signal follows at once, and `lastStatus` stays RUNNING until the processes are gone.
Within a task, containers start and get their stop signals in the order of `dependsOn`.
"""

from __future__ import annotations

import asyncio
import math
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from discovery.simulator.arns import new_id
from discovery.simulator.network import Network, Wiring
from discovery.simulator.order import may_start, may_stop
from discovery.simulator.ports import PortsExhaustedError
from discovery.simulator.runtime import ProcessSpec, RuntimeFailure
from discovery.simulator.state import Container, Task

# Seconds at normal speed.
PROVISIONING_S = 0.3
ATTACHING_S = 1.0  # the network interface of an awsvpc task
PENDING_S = 1.5  # image and container creation
DEPROVISIONING_S = 0.3
HEALTH_INTERVAL_S = 30.0  # default interval of a container health check
STOP_TIMEOUT_S = 30.0


class Runner(Protocol):
    """Who runs the processes."""

    async def start(self, spec: ProcessSpec) -> int: ...

    def signal(self, pid: int, number: int) -> None: ...


@dataclass(slots=True)
class Pace:
    """How many times faster than life the life cycle goes. Clients' own time is never sped up."""

    speed: float = 1.0

    def real_s(self, duration_s: float) -> float:
        return duration_s / self.speed


@dataclass(slots=True)
class _Life:
    task: Task
    news: asyncio.Event = field(default_factory=asyncio.Event)  # told to stop, or a process ended
    walk: asyncio.Task[None] | None = None
    checks: list[tuple[float, Container]] = field(default_factory=list)  # when each first check is done


class Lifecycle:
    """Walks tasks through their lives. *group* owns the coroutines; *changed* hears of every step."""

    def __init__(
        self,
        *,
        runner: Runner,
        network: Network,
        group: asyncio.TaskGroup,
        changed: Callable[[Task], None],
        environment: Callable[[Task, Container], Mapping[str, str]],
        pace: Pace,
        clock: Callable[[], float] = time.time,
        rng: random.Random,
    ) -> None:
        self._runner = runner
        self._network = network
        self._group = group
        self._changed = changed
        self._environment = environment
        self._pace = pace
        self._clock = clock
        self._rng = rng
        self._lives: dict[str, _Life] = {}
        self._pids: dict[int, tuple[_Life, Container]] = {}

    # -- orders ----------------------------------------------------------------------------------

    def launch(self, task: Task) -> None:
        """Bring *task*, on record as PROVISIONING, to life."""
        life = self._lives[task.arn] = _Life(task)
        if task.definition.network_mode == "awsvpc":
            self._network.attach(task, new_id(self._rng))
        life.walk = self._group.create_task(self._live(life), name=f"life of {task.arn}")

    def stop(self, task: Task, *, code: str, reason: str) -> None:
        """Flip `desiredStatus` now; the processes get their signal right after. Again is harmless."""
        if task.desired_status == "STOPPED":
            return
        task.desired_status, task.stop_code, task.stopped_reason = "STOPPED", code, reason
        task.stopping_at = self._clock()
        self._changed(task)
        if task.arn in self._lives:
            self._lives[task.arn].news.set()

    def kill(self, task: Task) -> None:
        """SIGKILL to every process of *task*, as if the machine's operator had done it."""
        for container in task.containers:
            self._signal(container, signal.SIGKILL)

    def set_health(self, task: Task, status: str, container: str = "") -> None:
        """Report HEALTHY, UNHEALTHY or UNKNOWN for the named container, or for all with a health check."""
        for item in task.containers:
            if container in ("", item.name) and "healthCheck" in item.definition:
                item.health_status = status
        self._lives[task.arn].checks.clear()
        task.health_status = overall_health(task)
        self._changed(task)
        self._lives[task.arn].news.set()  # another container may wait for it

    def abandon(self) -> None:
        """Give every task up where it is: the simulator is ending, and the runtime kills what runs."""
        for life in self._lives.values():
            if life.walk is not None:
                life.walk.cancel()

    def process_exited(self, pid: int, exit_code: int) -> None:
        """The runtime's word that a process has ended."""
        life, container = self._pids.pop(pid)
        container.pid, container.exit_code, container.last_status = 0, exit_code, "STOPPED"
        container.finished_at = self._clock()
        essential = container.definition.get("essential", True)
        if not essential and life.task.desired_status == "RUNNING":
            self._changed(life.task)
        life.news.set()

    # -- one life --------------------------------------------------------------------------------

    async def _live(self, life: _Life) -> None:
        task = life.task
        try:
            if await self._undisturbed(life, ATTACHING_S if task.attachments else PROVISIONING_S):
                self._show(task, "PENDING")
                if await self._undisturbed(life, PENDING_S) and await self._start(life):
                    await self._serve(life)
            await self._end(life)
        finally:
            self._network.release(task)
            del self._lives[task.arn]
        task.stopped_at = self._clock()
        self._show(task, "STOPPED")

    async def _undisturbed(self, life: _Life, duration_s: float) -> bool:
        """Wait so long; False as soon as the task is told to stop."""
        deadline = time.monotonic() + self._pace.real_s(duration_s)
        while life.task.desired_status == "RUNNING":
            if not await self._news(life, deadline - time.monotonic()):
                return True
        return False

    @staticmethod
    async def _news(life: _Life, timeout_s: float | None) -> bool:
        """Wait for news; False when there were none in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await life.news.wait()
        except TimeoutError:
            return False
        life.news.clear()
        return True

    async def _start(self, life: _Life) -> bool:
        """Start the containers; False where one could not be, and then the task is to stop."""
        task = life.task
        try:
            wirings = self._network.wire(task)
            await self._start_in_order(life, wirings)
        except (RuntimeFailure, PortsExhaustedError) as exc:
            self.stop(task, code="TaskFailedToStart", reason=f"CannotStartContainerError: {exc}")
            return False
        if any(not container.created_at for container in task.containers):
            return False  # told to stop while one waited for another
        for container in task.containers:
            if container.pid:
                container.last_status = "RUNNING"
                container.bindings = list(wirings[container.name].bindings)
        task.started_at = self._clock()
        self._show(task, "RUNNING")
        return True

    async def _start_in_order(self, life: _Life, wirings: Mapping[str, Wiring]) -> None:
        """Start each container when what it waits for is so far. Raises RuntimeFailure if it never is."""
        task = life.task
        while waiting := [c for c in task.containers if not c.created_at]:
            states = {container.name: may_start(container, task.containers) for container in waiting}
            for container in waiting:
                if states[container.name] == "never":
                    raise RuntimeFailure(
                        f"failed to resolve container ordering dependency of [{container.name}]"
                    )
            ready = [container for container in waiting if states[container.name] == "now"]
            for container in ready:
                await self._start_container(life, container, wirings[container.name])
            if ready:
                continue
            await self._wait(life)
            if task.desired_status == "STOPPED" or self._essential_ended(life):
                return

    async def _start_container(self, life: _Life, container: Container, wiring: Wiring) -> None:
        container.created_at = self._clock()
        container.runtime_id = new_id(self._rng) + new_id(self._rng)
        definition = container.definition
        spec = ProcessSpec(
            name=f"{life.task.group.partition(':')[2]}/{container.name}/{life.task.arn[-8:]}",
            command=command_of(life.task, container),
            environment=self._environment(life.task, container),
            listen=wiring.listen,
        )
        pid = await self._runner.start(spec)
        container.pid, container.started_at = pid, self._clock()
        self._pids[pid] = (life, container)
        if "healthCheck" in definition:
            interval_s = definition["healthCheck"].get("interval") or HEALTH_INTERVAL_S
            life.checks.append((time.monotonic() + self._pace.real_s(interval_s), container))

    async def _serve(self, life: _Life) -> None:
        """Wait until the task is told to stop, or an essential container of it has ended."""
        task = life.task
        while task.desired_status == "RUNNING":
            if self._essential_ended(life):
                return
            await self._wait(life)

    def _essential_ended(self, life: _Life) -> bool:
        """Return whether an essential container has ended; then the task is to stop."""
        essential = [c for c in life.task.containers if c.definition.get("essential", True)]
        if not any(c.last_status == "STOPPED" for c in essential):
            return False
        self.stop(life.task, code="EssentialContainerExited", reason="Essential container in task exited")
        return True

    async def _wait(self, life: _Life) -> None:
        """Wait for news or for the next health check, and see to that."""
        due = min((at for at, _ in life.checks), default=None)
        await self._news(life, None if due is None else max(0.0, due - time.monotonic()))
        self._check_health(life)

    def _check_health(self, life: _Life) -> None:
        due = [item for item in life.checks if item[0] <= time.monotonic()]
        if not due:
            return
        life.checks = [item for item in life.checks if item not in due]
        for _, container in due:
            if container.pid:
                container.health_status = "HEALTHY"
        life.task.health_status = overall_health(life.task)
        self._changed(life.task)

    async def _end(self, life: _Life) -> None:
        """Each container's stop signal, its stopTimeout from then on, SIGKILL; then the task is taken apart.

        A signal is sent at once, or when nothing that depends on the container runs any more.
        """
        task = life.task
        kill_at: dict[str, float] = {}  # of those that have had their stop signal
        while running := [c for c in task.containers if c.pid]:
            for container in running:
                if container.name not in kill_at and may_stop(container, task.containers):
                    timeout_s = container.definition.get("stopTimeout") or STOP_TIMEOUT_S
                    kill_at[container.name] = time.monotonic() + self._pace.real_s(timeout_s)
                    self._signal(container, signal.SIGTERM)
            deadline = min(kill_at[c.name] for c in running if c.name in kill_at)
            if not await self._news(life, max(0.0, deadline - time.monotonic())):
                for container in running:
                    if kill_at.get(container.name, math.inf) <= time.monotonic():
                        self._signal(container, signal.SIGKILL)
                        kill_at[container.name] += 5.0  # a killed process needs no second signal
        for container in task.containers:
            container.last_status = "STOPPED"
        self._show(task, "DEPROVISIONING")
        await asyncio.sleep(self._pace.real_s(DEPROVISIONING_S))

    # -- small change ----------------------------------------------------------------------------

    def _show(self, task: Task, status: str) -> None:
        task.last_status = status
        self._changed(task)

    def _signal(self, container: Container, number: int) -> None:
        if container.pid:
            self._runner.signal(container.pid, number)


def command_of(task: Task, container: Container) -> tuple[str, ...]:
    """What runs in the container; empty for an image's own program, here the built-in app."""
    override: dict[str, Any] = next(
        (o for o in task.overrides.get("containerOverrides", ()) if o.get("name") == container.name), {}
    )
    command = override.get("command") or container.definition.get("command") or ()
    return (*(container.definition.get("entryPoint") or ()), *command)


def overall_health(task: Task) -> str:
    """A task's health as ECS sums it up over its essential containers."""
    states = {c.health_status for c in task.containers if c.definition.get("essential", True)}
    if "UNHEALTHY" in states:
        return "UNHEALTHY"
    return "UNKNOWN" if "UNKNOWN" in states else "HEALTHY"
