"""A real worker process with a table of the test's choosing, and no control process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from proxy.errors import BY_REASON
from proxy.link import scoreboard as sb
from proxy.link import snapshots
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import BackendRow, ServiceRow, TableSnapshot
from proxy.link.sockets import listen
from proxy.settings import Timeouts, WorkerSettings


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Return as soon as *condition* holds; fail the test if it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)


def service(
    name: str = "web", *, slot: int = 1, hosts: Sequence[str] = ("*",), path: str = "/"
) -> ServiceRow:
    return ServiceRow(name=name, slot=slot, hosts=tuple(hosts), path=path)


def backend(
    port: int,
    *,
    of: str = "web",
    task: str = "",
    host: str = "127.0.0.1",
    healthy: bool = True,
    draining: bool = False,
    instance: str = "",
) -> BackendRow:
    return BackendRow(
        service=of,
        task_arn=task or f"arn:aws:ecs:eu-west-1:111122223333:task/test/{port:032x}",
        container="app",
        container_port=8080,
        host=host,
        port=port,
        healthy=healthy,
        draining=draining,
        instance=instance,
    )


def _limited(descriptors: int) -> list[str]:
    """Return what to put before a command so that it has no more than so many file descriptors."""
    if not descriptors:
        return []
    limit = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors},) * 2)"
    return [sys.executable, "-c", f"{limit}; os.execv(sys.argv[1], sys.argv[1:])"]


class WorkerProcess:
    """One worker on a port of *host*; `publish` is what the control process would send.

    With *descriptors* that is the limit on its file descriptors from the start.
    """

    def __init__(
        self,
        *,
        settings: WorkerSettings | None = None,
        rows: int = 1,
        listeners: int = 1,
        host: str = "127.0.0.1",
        descriptors: int = 0,
    ) -> None:
        self.host = host
        self._descriptors = descriptors
        self.settings = settings or WorkerSettings(timeouts=Timeouts(lb_drain_s=0))
        self.board = Scoreboard.create(rows)
        self.listeners = [listen(host, 0) for _ in range(listeners)]
        self.listener = self.listeners[0]
        self.ports: list[int] = [listener.getsockname()[1] for listener in self.listeners]
        self.port = self.ports[0]
        self.near, self.far = snapshots.make_link()
        self._lifeline, self._lifeline_end = os.pipe()
        self.revision = 0
        self.log = b""
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for listener in self.listeners:
            listener.close()
        self.near.close()
        self.far.close()
        os.close(self._lifeline)
        os.close(self._lifeline_end)
        os.close(self.board.fd)

    def start(self) -> None:
        listening = [listener.fileno() for listener in self.listeners]
        fds = [self.far.fileno(), self.board.fd, self._lifeline]
        self.process = subprocess.Popen(
            [*_limited(self._descriptors), sys.executable, "-m", "proxy.worker", "--row", "0",
             "--snapshot", "-1", "--listeners", ",".join(map(str, listening)), "--link", str(fds[0]),
             "--scoreboard", str(fds[1]), "--lifeline", str(fds[2])],
            pass_fds=[*listening, *fds], stdout=subprocess.PIPE,
        )  # fmt: skip

    def publish(
        self, services: Sequence[ServiceRow], backends: Sequence[BackendRow], *, loaded: bool = True
    ) -> None:
        """Send a table and wait until the worker routes by it."""
        self.revision += 1
        table = TableSnapshot(
            revision=self.revision,
            loaded=loaded,
            services=tuple(services),
            by_service=snapshots.by_service(backends),
            settings=self.settings,
        )
        fd = snapshots.seal(snapshots.encode(table))
        assert snapshots.send(self.near, self.revision, fd)
        os.close(fd)
        wait_for(lambda: self.head(sb.REVISION) == self.revision, "the worker applies the snapshot")

    def head(self, cell: int) -> int:
        return self.board.head(0)[cell]

    def cell(self, slot: int, cell: int) -> int:
        return self.board.block(0, slot)[cell]

    def failures(self, reason: str, slot: int = 1) -> int:
        return self.cell(slot, sb.FAILURES + BY_REASON[reason].slot)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the process and return its exit status; its log lines are in `log` then."""
        process = self.process
        if process is None:
            return 0
        process.send_signal(number)
        self.log, _ = process.communicate(timeout=40)
        self.process = None
        return process.returncode
