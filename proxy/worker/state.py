"""What all connections of one worker share."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable
from functools import cache
from random import random as system_random
from typing import Final, Protocol, cast

from proxy import errors
from proxy.backend_tls import Contexts
from proxy.link import scoreboard as sb
from proxy.link.cells import Cells
from proxy.link.reports import Report
from proxy.link.scoreboard import Scoreboard
from proxy.policy.backends import Table
from proxy.settings import WorkerSettings
from proxy.worker.accesslog import AccessLogWriter, now
from proxy.worker.heartbeat import Heartbeat
from proxy.worker.http1.head import HeadLimits
from proxy.worker.sockets import Poller
from proxy.worker.tls import ListenersTls

TICK_S: Final = 0.25  # every deadline is late by at most this much
_TOLD: Final = 16  # for so many connections one more that is told that there is no room for it
_CLIENTS_MIN: Final = 16
_OWN_DESCRIPTORS: Final = 256  # sockets to listen on, links, files; what a reload needs for a moment


def client_share(descriptors: int) -> int:
    """Return how many client connections a process with so many *descriptors* takes at a time.

    Each may need a second one, to a backend, and some must be left over.
    """
    if descriptors < 0:  # RLIM_INFINITY
        descriptors = 2**20
    return max(_CLIENTS_MIN, int(0.45 * (descriptors - _OWN_DESCRIPTORS)))


class Watched(Protocol):
    """Something with a deadline: a connection on either side, or a tunnel."""

    deadline_s: float  # worker clock; 0.0: none

    def on_deadline(self) -> None: ...

    def abort(self) -> None: ...


class HotSettings:
    """What every request asks the settings for, without the detour through their sections."""

    __slots__ = (
        "client_idle_s", "heads", "idle_connections_per_backend", "logs_all", "logs_errors", "request_body_s",
        "requests_per_connection", "requests_per_upstream_connection", "response_head_s", "response_idle_s",
        "tunnel_idle_s", "upstream_idle_s",
    )  # fmt: skip

    def __init__(self, settings: WorkerSettings) -> None:
        timeouts, limits, logged = settings.timeouts, settings.limits, settings.access_log.requests
        self.client_idle_s = timeouts.client_idle_s
        self.request_body_s = timeouts.request_body_s
        self.response_head_s = timeouts.response_head_s
        self.response_idle_s = timeouts.response_idle_s
        self.tunnel_idle_s = timeouts.tunnel_idle_s
        self.upstream_idle_s = timeouts.upstream_idle_s
        self.heads = HeadLimits(limits)
        self.requests_per_connection = limits.requests_per_connection
        self.requests_per_upstream_connection = limits.requests_per_upstream_connection
        self.idle_connections_per_backend = limits.idle_connections_per_backend
        self.logs_all = logged == "all"
        self.logs_errors = logged != "off"


# HOT PATH, compiled: `state.pxd` gives the types.
class WorkerState:
    """One per process; handed to every connection. Nothing here blocks."""

    __slots__ = (
        "_heartbeat", "_id_counter", "_id_prefix", "backend_tls", "client_tls", "clients",
        "clients_share", "draining", "head", "hot", "log", "loop", "no_service", "now_s", "poller", "random",
        "report", "settings", "table", "tasks", "watched",
    )  # fmt: skip

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        tasks: asyncio.TaskGroup,
        board: Scoreboard,
        row: int,
        log: AccessLogWriter,
        report: Callable[[Report], None],
        random: Callable[[], float] = system_random,
    ) -> None:
        self.loop = loop
        self.poller = Poller(loop)
        self.tasks = tasks  # owns the dials, the only tasks of the data plane
        self.head = Cells(board.head(row))
        # Begun once: a service that leaves and comes back finds the requests that are still under way.
        block = cache(lambda slot: Cells(board.begin_block(row, slot)))
        self.no_service = block(sb.NO_SERVICE)
        self.table = Table(block)
        self.use(WorkerSettings())
        self.log = log
        self.client_tls = ListenersTls(loop, self.head)
        self.backend_tls = Contexts(
            lambda why: log.add({"time": now(), "warning": f"TLS to backends: {why}"})
        )
        self.report = report  # to the control process
        self.random = random
        self.now_s = loop.time()  # coarse: moved on by the tick, read by everything with a deadline
        self.draining = False
        self.watched: set[Watched] = set()
        self.clients: set[Watched] = set()
        self.clients_share = client_share(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._heartbeat = Heartbeat(self.head, self.now_s)
        # A request id is unique per worker start and request; it is not a secret.
        self._id_prefix = os.urandom(8).hex().encode()
        self._id_counter = 0

    def use(self, settings: WorkerSettings) -> None:
        """Work by *settings* from now on."""
        self.settings = settings
        self.hot = HotSettings(settings)

    def next_request_id(self) -> bytes:
        self._id_counter += 1
        return b"%b-%x" % (self._id_prefix, self._id_counter)

    @property
    def full(self) -> bool:
        """Whether there are as many client connections as there may be."""
        return len(self.clients) >= (self.settings.limits.client_connections or self.clients_share)

    def shed(self, transport: asyncio.BaseTransport) -> bool:
        """Drop the new connection *transport* if those that are told that there is no room have become too
        many as well, and return whether it was."""
        limit = self.settings.limits.client_connections or self.clients_share
        if len(self.clients) < limit + max(1, limit // _TOLD):
            return False
        self.count_shed()
        cast(asyncio.Transport, transport).abort()
        return True

    def count_shed(self) -> None:
        """Count a connection that was turned away. Not a line in the log for each: they come in floods."""
        self.no_service.add(sb.FAILURES + errors.SHED.slot, 1)

    def tick(self) -> None:
        """Move the coarse clock on and call what is overdue. One scan, no timer object per connection."""
        now_s = self.loop.time()
        self._heartbeat.beat(now_s, now_s - self.now_s - TICK_S, self.settings.timeouts)
        self.now_s = now_s
        for item in [w for w in self.watched if 0.0 < w.deadline_s <= now_s]:
            item.on_deadline()
        self.log.flush()
