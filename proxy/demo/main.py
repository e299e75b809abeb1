"""`anyport demo`: the whole main job in one command, without an AWS account."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from discovery.simulator.simulator import Simulator
from proxy.demo import ports, specs
from proxy.demo.children import child, environment, tail, until
from proxy.demo.cluster import INSTANCES, NAME, DemoCluster
from proxy.demo.plain import PlainReporter
from proxy.demo.screen import ScreenReporter
from proxy.demo.show import Show, TableWatch
from proxy.demo.tally import Score, ended_well, last_line
from proxy.demo.trial import ProgramError, try_out
from proxy.demo.view import Reporter, View
from proxy.demo.wire import Plan, Target, encode_plan

_SPEED: Final = 4.0  # the life cycle of tasks runs this much faster than on AWS
_STARTS_WITHIN_S: Final = 60.0
_ANYPORT_STOPS_WITHIN_S: Final = 8.0
_LOAD_STOPS_WITHIN_S: Final = 5.0
_FAILURES_SHOWN: Final = 10


class DemoError(Exception):
    """The demo cannot go on; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    for_s: float | None  # None: until Ctrl-C
    wanted: tuple[specs.Spec, ...]
    port: int


def main(
    *,
    for_s: float | None = None,
    services: Sequence[str] = (),
    tasks: int = 3,
    port: int = 8080,
) -> int:
    """Run the demo for *for_s* seconds of use, or until Ctrl-C, and return the exit code.

    *services* are `NAME=COMMAND` texts: the operator's own programs, each as *tasks* tasks; without
    them the built-in services run. *port* is the fixed port; a free one is taken where it is busy.
    The code is 0 only if requests were made and none failed that should not have; 2 is a wrong option.
    """
    try:
        wanted = specs.own(services, tasks) if services else specs.BUILT_IN
    except specs.OptionError as exc:
        click.echo(f"anyport demo: {exc}", err=True)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="anyport-demo-"))
    # The screen is ours alone: what libraries have to say goes to a file.
    logging.basicConfig(filename=folder / "demo.log", level=logging.WARNING)
    keep = True
    try:
        code = asyncio.run(_Demo(Options(for_s, wanted, port), folder).run())
        keep = code != 0
    except (DemoError, ProgramError) as exc:
        click.echo(f"anyport demo: {exc}", err=True)
        code = 1
    except asyncio.CancelledError:
        click.echo("anyport demo: interrupted before its users had begun", err=True)
        code, keep = 130, False
    if keep:
        click.echo(f"Logs are kept in {folder}", err=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return code


class _Demo:
    """One run."""

    def __init__(self, options: Options, folder: Path) -> None:
        self._options, self._folder = options, folder
        self._ended = asyncio.Event()
        self._on_air = False
        self._ports = ports.choose(options.port)
        # An answer that has begun cannot be repeated; the built-in users only take such ones by POST.
        self._score = Score(begun_answers=any(spec.command for spec in options.wanted))

    async def run(self) -> int:
        self._catch_signals()
        for note in self._ports.notes:
            click.echo(note)
        wanted = await self._tried()
        click.echo(
            f"Starting an ECS cluster of {INSTANCES} instances in {INSTANCES} zones with "
            f"{', '.join(spec.name for spec in wanted)} ..."
        )
        async with Simulator(speed=_SPEED) as simulator, TableWatch(self._url(self._ports.admin)) as table:
            cluster = DemoCluster(
                simulator,
                wanted,
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
            log = self._folder / "anyport.log"
            async with child(
                *(sys.executable, "-P", "-m", "proxy", "run", "--config", str(config)),
                env=env,
                log=log,
                stop_within_s=_ANYPORT_STOPS_WITHIN_S,
            ) as anyport:
                await self._until_all_is_routed(cluster, table, anyport, log)
                show = await self._show(cluster, table, anyport, env)
        return self._finish(show)

    async def _tried(self) -> tuple[specs.Spec, ...]:
        """Return the services to run, those with a program of the operator's after a trial."""
        wanted = []
        for spec in self._options.wanted:
            if not spec.command:
                wanted.append(spec)
                continue
            click.echo(f"Trying {spec.command!r} once ...")
            tried = await try_out(spec, self._folder, os.environ)
            check = (
                "GET /" if tried.health == "http" else "a TCP connection, as GET / is not answered with 2xx"
            )
            click.echo(f"{spec.name} answers; its health check: {check}")
            wanted.append(tried)
        return tuple(wanted)

    async def _until_all_is_routed(
        self, cluster: DemoCluster, table: TableWatch, anyport: asyncio.subprocess.Process, log: Path
    ) -> None:
        def settled() -> bool:
            return anyport.returncode is not None or all(map(cluster.settled, cluster.base))

        async with table.running():
            routed = await until(settled, within_s=_STARTS_WITHIN_S)
        if anyport.returncode is not None:
            raise DemoError(
                f"anyport ended with exit code {anyport.returncode}; its last lines:\n{tail(log)}"
            )
        if not routed:
            raise DemoError(
                f"not every task is ready after {_STARTS_WITHIN_S:g} s:\n"
                + "\n".join([*cluster.troubles(), *(f"  {row}" for row in table.rows)])
                + f"\nanyport's last lines:\n{tail(log)}"
            )

    async def _show(
        self,
        cluster: DemoCluster,
        table: TableWatch,
        anyport: asyncio.subprocess.Process,
        env: dict[str, str],
    ) -> Show:
        view = View(
            url=self._url(self._ports.listener),
            metrics_url=self._url(self._ports.metrics),
            admin_url=self._url(self._ports.admin),
            hosts=tuple(spec.host for spec in self._options.wanted),
            score=self._score,
            release_of=cluster.release_of,
            for_s=self._options.for_s,
        )
        plan = Plan(url=view.url, targets=tuple(map(_target, self._options.wanted)))
        click.echo("Every task is routed. Join the users:")
        for line in view.where_to_look():
            click.echo(f"    {line}")
        async with child(
            *(sys.executable, "-P", "-m", "proxy.demo.load", encode_plan(plan)),
            env=env,
            log=self._folder / "users.log",
            stop_within_s=_LOAD_STOPS_WITHIN_S,
            pipes=True,
        ) as users:
            show = Show(
                *(view, cluster, table),
                instances=INSTANCES,
                anyport=anyport,
                users=users,
                ended=self._ended,
            )
            self._on_air = True
            await show.run(_reporter(view))
        return show

    def _finish(self, show: Show) -> int:
        view, score = show.view, self._score
        failures = score.failures
        if failures:
            click.echo("\nRequests that failed and should not have:")
            for failure in failures[:_FAILURES_SHOWN]:
                click.echo("  " + show.describe(failure))
            if len(failures) > _FAILURES_SHOWN:
                click.echo(f"  ... and {len(failures) - _FAILURES_SHOWN} more")
        click.echo(
            f"\n{view.elapsed_s:.0f} s of use: {', '.join(show.steps()) or 'no step was finished'}; "
            f"{score.messages} WebSocket messages, {score.reconnects} reconnects; "
            f"p50 {score.latency.percentile_s(50) * 1e3:.1f} ms, "
            f"p99 {score.latency.percentile_s(99) * 1e3:.1f} ms"
        )
        if show.trouble:
            click.echo(f"anyport demo: {show.trouble}", err=True)
        click.echo(last_line(score, deploys=view.deploys, replacements=view.replacements))
        return 0 if ended_well(score) and not show.trouble else 1

    def _catch_signals(self) -> None:
        """The first signal ends the show, if there is one yet; otherwise, and the second time, everything."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def caught() -> None:
            if self._ended.is_set() or not self._on_air:
                task.cancel()
            self._ended.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, caught)

    @staticmethod
    def _url(port: int) -> str:
        return f"http://{ports.ADDRESS}:{port}"


def _reporter(view: View) -> Reporter:
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal:
        return ScreenReporter(view, console)
    return PlainReporter(view, click.echo)


def _target(spec: specs.Spec) -> Target:
    return Target(
        service=spec.name,
        host=spec.host,
        http_users=spec.http_users,
        socket_users=spec.socket_users,
        built_in=not spec.command,
    )
