"""The control process from start to end: its parts in one task group, its signals, its exit status."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import aiohttp

from discovery.ecs.fleet.peer import peer_session
from discovery.whoami import Whoami
from proxy.config import Config, ConfigError
from proxy.control import logs, sources
from proxy.control.admin.api import admin_app
from proxy.control.admin.public import public_app
from proxy.control.admin.server import serving
from proxy.control.drained import Drains
from proxy.control.fleet import FleetPeers, fleet_pages
from proxy.control.health.check import Checker
from proxy.control.metrics import registry
from proxy.control.plane import ControlPlane
from proxy.control.status import workers
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import TableSnapshot

log = logging.getLogger("anyport.control")

_PATIENCE_S: Final = 0.02
_LAST_ANSWERS_S: Final = 0.5  # for the requests of those who have connected before a successor took over


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What the supervisor hands over."""

    links: Sequence[socket.socket]  # to the workers, by number
    supervisor_link: socket.socket
    board: Scoreboard
    table: TableSnapshot  # the newest one known, or `EMPTY`
    metrics_socket: socket.socket  # bound, not yet listening or already so
    admin_socket: socket.socket
    lifeline_fd: int  # reads end-of-file once the supervisor is gone
    patient: bool = False  # a predecessor still answers: not before the workers are up


class _Ending:
    """What this process has been told about its end."""

    def __init__(self) -> None:
        self.leave = asyncio.Event()  # answer nobody new: a successor does, or it is the end
        self.stop = asyncio.Event()

    def now(self) -> None:
        self.leave.set()
        self.stop.set()


class _Stopped(Exception):
    """Ends the task group; nothing went wrong."""


async def run(given: Inherited, config: Config, *, reload: Callable[[], Config]) -> int:
    """Serve until told to stop; return the exit status.

    *reload* reads the configuration again and raises `ConfigError` if it cannot be used.
    """
    exit_status = 0
    try:
        async with Checker() as checker, peer_session() as session, asyncio.TaskGroup() as group:
            whoami = Whoami()
            group.create_task(whoami.run(), name="find out who we are")
            plane: ControlPlane = ControlPlane(
                config,
                group=group,
                check=checker.check,
                links=given.links,
                supervisor=given.supervisor_link,
                board=given.board,
                inherited=given.table,
                build=partial(sources.build, whoami=whoami, blank=lambda: not plane.status.table.loaded),
            )
            plane.status.whoami = whoami
            await _serve(given, plane, reload, session)
            raise _Stopped
    except* _Stopped:
        pass
    except* Exception as failures:
        exit_status = 1
        for exc in _leaves(failures):
            log.error("the control process cannot go on", exc_info=exc)
    return exit_status


async def _serve(
    given: Inherited, plane: ControlPlane, reload: Callable[[], Config], session: aiohttp.ClientSession
) -> None:
    ending = _Ending()
    status = plane.status
    drains = Drains(status, peers=FleetPeers(session, lambda: status.sources), alone=plane.alone)
    fleet = partial(
        fleet_pages,
        sources=lambda: status.sources,
        own_arn=lambda: status.whoami.identity.task_arn,
        drains=drains,
    )
    public = public_app(status, registry(status), drains, more=fleet)
    admin = admin_app(status, plane.admin_token)
    with plane.running(), _reacting(plane, ending, reload, given):
        # A load balancer that asks both during an upgrade must not hear "not ready" from the new one.
        while given.patient and not (ending.leave.is_set() or _workers_up(plane)):  # noqa: ASYNC110
            await asyncio.sleep(_PATIENCE_S)
        async with serving(public, given.metrics_socket) as one, serving(admin, given.admin_socket) as other:
            await ending.leave.wait()
            if not ending.stop.is_set():
                await one.stop()
                await other.stop()
                await asyncio.sleep(_LAST_ANSWERS_S)
        plane.drain()
        await ending.stop.wait()  # the workers may still need tables


def _workers_up(plane: ControlPlane) -> bool:
    return all(worker.up for worker in workers(plane.status, time.monotonic()))


@contextmanager
def _reacting(
    plane: ControlPlane, ending: _Ending, reload: Callable[[], Config], given: Inherited
) -> Iterator[None]:
    """React to signals, to workers and to the supervisor's end for the length of the context."""
    loop = asyncio.get_running_loop()
    lifeline_fd = given.lifeline_fd

    def terminate() -> None:
        if plane.status.draining or ending.leave.is_set():
            ending.now()
        plane.drain()

    def hand_over() -> None:
        # Not draining yet as far as /readyz is concerned: whoever still asks here asks for the successor too.
        ending.leave.set()

    def hang_up() -> None:
        try:
            new = reload()
        except ConfigError as exc:
            plane.status.reloads["failure"] += 1
            log.error("the configuration was not reloaded, the old one stays in force:\n%s", exc)
        else:
            logs.configure(new.log)
            plane.reload(new)
            plane.status.reloads["success"] += 1
            log.info("configuration reloaded")

    def lifeline() -> None:
        if not os.read(lifeline_fd, 1):
            log.warning("the supervisor is gone")
            ending.now()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    loop.add_signal_handler(signal.SIGUSR2, hand_over)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    loop.add_reader(lifeline_fd, lifeline)
    for link in given.links:
        loop.add_reader(link.fileno(), plane.on_reports, link)
    try:
        yield
    finally:
        for link in given.links:
            loop.remove_reader(link.fileno())
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGUSR2)
        loop.remove_signal_handler(signal.SIGHUP)
        loop.remove_reader(lifeline_fd)


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
