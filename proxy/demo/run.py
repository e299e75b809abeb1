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
from proxy.demo import specs
from proxy.demo.checks import check
from proxy.demo.children import child, environment, tail, until
from proxy.demo.cluster import INSTANCES, NAME, DemoCluster
from proxy.demo.plain import PlainReporter
from proxy.demo.ports import ADDRESS, Ports, are_free, choose
from proxy.demo.screen import ScreenReporter
from proxy.demo.show import Show
from proxy.demo.specs import Spec
from proxy.demo.table import Row
from proxy.demo.tally import Score
from proxy.demo.trial import try_out
from proxy.demo.view import Reporter, View
from proxy.demo.watch import TableWatch
from proxy.demo.wire import Plan, Target, encode_plan

_SPEED: Final = 4.0  # the life cycle of tasks runs this much faster than on AWS
_STARTS: Final = 3  # between looking for free ports and taking them another program may come
_STARTS_WITHIN_S: Final = 60.0
_ANYPORT_STOPS_WITHIN_S: Final = 8.0
_LOAD_STOPS_WITHIN_S: Final = 5.0


class DemoError(Exception):
    """The demo cannot go on; the text says why, with the last lines of whoever knows."""


@dataclass(slots=True)
class _Stage:
    """A running anyport, and what is seen through it."""

    ports: Ports
    table: TableWatch
    anyport: asyncio.subprocess.Process


class Demo:
    """Make one and `run` it. *folder* gets the configuration and the logs."""

    def __init__(self, *, for_s: float | None, wanted: Sequence[Spec], port: int, folder: Path) -> None:
        self._for_s, self._wanted, self._port, self._folder = for_s, tuple(wanted), port, folder
        self._environment: dict[str, str] = {}
        self._table: TableWatch | None = None  # of the anyport that runs now
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
        self._wanted = await self._tried()
        names = ", ".join(spec.name for spec in self._wanted)
        click.echo(f"Starting an ECS cluster of {INSTANCES} instances in {INSTANCES} zones with {names} ...")
        async with AsyncExitStack() as stack:
            simulator, cluster = await self._make_cluster(stack)
            await stack.enter_async_context(_checking(cluster))
            for _ in range(_STARTS):
                async with self._anyport(simulator) as stage:
                    if await self._until_all_is_routed(stage, cluster):
                        show = await self._perform(stage, cluster)
                        break
                click.echo("Another program took a port just then; starting anyport again ...")
            else:
                raise DemoError(
                    f"a port was taken {_STARTS} times in a row: try again, or name one with --port"
                )
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

    async def _make_cluster(self, stack: AsyncExitStack) -> tuple[Simulator, DemoCluster]:
        output = stack.enter_context(self._log("tasks").open("w", buffering=1))

        def keep(task: str, line: str) -> None:
            output.write(f"{task}: {line}\n")

        simulator = await stack.enter_async_context(Simulator(speed=_SPEED, on_output=keep))
        self._environment = environment(os.environ, simulator.environment)
        cluster = DemoCluster(
            simulator,
            self._wanted,
            table=self._rows,
            on_kill=self._score.kills.append,
            rng=random.Random(),
        )
        await cluster.create()
        return simulator, cluster

    @asynccontextmanager
    async def _anyport(self, simulator: Simulator) -> AsyncIterator[_Stage]:
        """Run anyport on ports that are free now."""
        chosen = choose(self._port)
        for note in chosen.notes:
            click.echo(note)
        config = self._folder / "config.toml"
        config.write_text(
            specs.config_toml(
                endpoint_url=simulator.url,
                region=simulator.environment["AWS_REGION"],
                cluster=NAME,
                listener=f"{ADDRESS}:{chosen.listener}",
                metrics=f"{ADDRESS}:{chosen.metrics}",
                admin=f"{ADDRESS}:{chosen.admin}",
            )
        )
        async with (
            TableWatch(_url(chosen.admin)) as table,
            child(
                *(sys.executable, "-P", "-m", "proxy", "run", "--config", str(config)),
                env=self._environment,
                log=self._log("anyport"),
                stop_within_s=_ANYPORT_STOPS_WITHIN_S,
            ) as anyport,
        ):
            self._table = table
            yield _Stage(chosen, table, anyport)

    async def _until_all_is_routed(self, stage: _Stage, cluster: DemoCluster) -> bool:
        """Return True when users may come, False if anyport found one of its ports taken."""
        anyport = stage.anyport

        def settled() -> bool:
            return anyport.returncode is not None or all(map(cluster.settled, cluster.base))

        async with stage.table.running():
            routed = await until(settled, within_s=_STARTS_WITHIN_S)
        said = f"anyport's last lines:\n{tail(self._log('anyport'))}"
        if anyport.returncode is not None:
            if not are_free(stage.ports):
                return False
            raise DemoError(f"anyport ended with exit code {anyport.returncode}. {said}")
        if not routed:
            rows = [f"  {r.service} {r.task} {r.address}: {r.state} {r.reason}" for r in stage.table.rows]
            printed = f"the tasks' last lines:\n{tail(self._log('tasks'))}"
            troubles = "\n".join(["not every task is ready:", *cluster.troubles(), *rows, printed, said])
            raise DemoError(f"after {_STARTS_WITHIN_S:g} s {troubles}")
        return True

    async def _perform(self, stage: _Stage, cluster: DemoCluster) -> Show:
        view = View(
            url=_url(stage.ports.listener),
            metrics_url=_url(stage.ports.metrics),
            admin_url=_url(stage.ports.admin),
            hosts=tuple(spec.host for spec in self._wanted),
            score=self._score,
            release_of=cluster.release_of,
            for_s=self._for_s,
        )
        click.echo("Every task is routed. Join the users:")
        for line in view.where_to_look():
            click.echo(f"    {line}")
        plan = Plan(url=view.url, targets=tuple(map(_target, self._wanted)))
        async with child(
            *(sys.executable, "-P", "-m", "proxy.demo.load", encode_plan(plan)),
            env=self._environment,
            log=self._log("users"),
            stop_within_s=_LOAD_STOPS_WITHIN_S,
            pipes=True,
        ) as users:
            show = Show(
                *(view, cluster, stage.table),
                instances=INSTANCES,
                anyport=stage.anyport,
                users=users,
                ended=self._ended,
            )
            self._on_air = True
            await show.run(_reporter(view))
        return show

    def _rows(self) -> Sequence[Row]:
        return self._table.rows if self._table is not None else ()

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
    return f"http://{ADDRESS}:{port}"


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
