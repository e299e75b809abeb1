"""One run of the demo: cluster, anyport and users started in order, and ended in the reverse one."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from discovery.simulator.simulator import Simulator
from proxy.demo import ports, specs
from proxy.demo.checks import check
from proxy.demo.children import child, environment, tail, until
from proxy.demo.cluster import INSTANCES, NAME, DemoCluster
from proxy.demo.plain import PlainReporter
from proxy.demo.screen import ScreenReporter
from proxy.demo.show import Show
from proxy.demo.specs import Spec
from proxy.demo.tally import Score
from proxy.demo.trial import try_out
from proxy.demo.view import Reporter, View
from proxy.demo.watch import TableWatch
from proxy.demo.wire import Plan, Target, encode_plan

_SPEED: Final = 4.0  # the life cycle of tasks runs this much faster than on AWS
_STARTS_WITHIN_S: Final = 60.0
_ANYPORT_STOPS_WITHIN_S: Final = 8.0
_LOAD_STOPS_WITHIN_S: Final = 5.0


class DemoError(Exception):
    """The demo cannot go on; the text says why, with the last lines of whoever knows."""


@dataclass(slots=True)
class _Stage:
    """What stands once every task is routed."""

    cluster: DemoCluster
    table: TableWatch
    anyport: asyncio.subprocess.Process
    environment: dict[str, str]


class Demo:
    """Make one and `run` it. *folder* gets the configuration and the logs."""

    def __init__(self, *, for_s: float | None, wanted: Sequence[Spec], port: int, folder: Path) -> None:
        self._for_s, self._wanted, self._folder = for_s, tuple(wanted), folder
        self._ports = ports.choose(port)
        self._ended = asyncio.Event()
        self._on_air = False
        # An answer that has begun cannot be repeated; the built-in users only take such ones by POST.
        self._score = Score(begun_answers=any(spec.command for spec in wanted))

    async def run(self) -> int:
        """Return the exit code.

        Raises:
            DemoError: If not every task is routed in time, or anyport ends before.
            ProgramError: If a program of the operator's cannot serve.
            asyncio.CancelledError: On a signal before there is something to sum up, or on a second one.
        """
        self._catch_signals()
        for note in self._ports.notes:
            click.echo(note)
        self._wanted = await self._tried()
        names = ", ".join(spec.name for spec in self._wanted)
        click.echo(f"Starting an ECS cluster of {INSTANCES} instances in {INSTANCES} zones with {names} ...")
        async with AsyncExitStack() as stack:
            stage = await self._set(stack)
            await stack.enter_async_context(_checking(stage.cluster))
            await self._until_all_is_routed(stage)
            show = await self._perform(stage)
        for line in show.summary():
            click.echo(line)
        return 0 if show.ended_well else 1

    async def _tried(self) -> tuple[Spec, ...]:
        """Return the services to run, those with a program of the operator's after a trial."""
        tried = []
        for spec in self._wanted:
            if spec.command:
                click.echo(f"Trying once: {spec.command}")
                spec = await try_out(spec, self._folder, os.environ)  # noqa: PLW2901 (the same, better known)
                http = spec.health == "http"
                check = "GET /" if http else "a TCP connection, as GET / does not answer with 2xx or 3xx"
                click.echo(f"{spec.name} answers. Health check: {check}")
            tried.append(spec)
        return tuple(tried)

    async def _set(self, stack: AsyncExitStack) -> _Stage:
        """Start the cluster and anyport; *stack* will end them."""
        output = stack.enter_context(self._log("tasks").open("w", buffering=1))

        def keep(task: str, line: str) -> None:
            output.write(f"{task}: {line}\n")

        simulator = await stack.enter_async_context(Simulator(speed=_SPEED, on_output=keep))
        table = await stack.enter_async_context(TableWatch(_url(self._ports.admin)))
        cluster = DemoCluster(
            simulator,
            self._wanted,
            table=lambda: table.rows,
            on_kill=self._score.kills.append,
            rng=random.Random(),
        )
        await cluster.create()
        config = self._folder / "config.toml"
        config.write_text(
            specs.config_toml(
                endpoint_url=simulator.url,
                region=simulator.environment["AWS_REGION"],
                cluster=NAME,
                listener=f"{ports.ADDRESS}:{self._ports.listener}",
                metrics=f"{ports.ADDRESS}:{self._ports.metrics}",
                admin=f"{ports.ADDRESS}:{self._ports.admin}",
            )
        )
        env = environment(os.environ, simulator.environment)
        anyport = await stack.enter_async_context(
            child(
                *(sys.executable, "-P", "-m", "proxy", "run", "--config", str(config)),
                env=env,
                log=self._log("anyport"),
                stop_within_s=_ANYPORT_STOPS_WITHIN_S,
            )
        )
        return _Stage(cluster, table, anyport, env)

    async def _until_all_is_routed(self, stage: _Stage) -> None:
        cluster, anyport = stage.cluster, stage.anyport

        def settled() -> bool:
            return anyport.returncode is not None or all(map(cluster.settled, cluster.base))

        async with stage.table.running():
            routed = await until(settled, within_s=_STARTS_WITHIN_S)
        said = f"anyport's last lines:\n{tail(self._log('anyport'))}"
        if anyport.returncode is not None:
            raise DemoError(f"anyport ended with exit code {anyport.returncode}. {said}")
        if not routed:
            rows = [f"  {r.service} {r.task} {r.address}: {r.state} {r.reason}" for r in stage.table.rows]
            printed = f"the tasks' last lines:\n{tail(self._log('tasks'))}"
            troubles = "\n".join(["not every task is ready:", *cluster.troubles(), *rows, printed, said])
            raise DemoError(f"after {_STARTS_WITHIN_S:g} s {troubles}")

    async def _perform(self, stage: _Stage) -> Show:
        view = View(
            url=_url(self._ports.listener),
            metrics_url=_url(self._ports.metrics),
            admin_url=_url(self._ports.admin),
            hosts=tuple(spec.host for spec in self._wanted),
            score=self._score,
            release_of=stage.cluster.release_of,
            for_s=self._for_s,
        )
        click.echo("Every task is routed. Join the users:")
        for line in view.where_to_look():
            click.echo(f"    {line}")
        plan = Plan(url=view.url, targets=tuple(map(_target, self._wanted)))
        async with child(
            *(sys.executable, "-P", "-m", "proxy.demo.load", encode_plan(plan)),
            env=stage.environment,
            log=self._log("users"),
            stop_within_s=_LOAD_STOPS_WITHIN_S,
            pipes=True,
        ) as users:
            show = Show(
                *(view, stage.cluster, stage.table),
                instances=INSTANCES,
                anyport=stage.anyport,
                users=users,
                ended=self._ended,
            )
            self._on_air = True
            await show.run(_reporter(view))
        return show

    def _catch_signals(self) -> None:
        """The first signal ends the show, if there is one yet; before it, or the second, ends everything."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def caught() -> None:
            if self._ended.is_set() or not self._on_air:
                task.cancel()
            self._ended.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, caught)

    def _log(self, whose: str) -> Path:
        return self._folder / f"{whose}.log"


@asynccontextmanager
async def _checking(cluster: DemoCluster) -> AsyncIterator[None]:
    checks = asyncio.create_task(check(cluster.unchecked, cluster.say_healthy))
    try:
        yield
    finally:
        checks.cancel()
        await asyncio.wait([checks])


def _url(port: int) -> str:
    return f"http://{ports.ADDRESS}:{port}"


def _reporter(view: View) -> Reporter:
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal:
        return ScreenReporter(view, console)
    return PlainReporter(view, click.echo)


def _target(spec: Spec) -> Target:
    return Target(
        service=spec.name,
        host=spec.host,
        http_users=spec.http_users,
        socket_users=spec.socket_users,
        built_in=not spec.command,
    )
