"""PID 1: keeps the sockets, the scoreboard, the links and the newest snapshot; starts the others again.

Small, plain and free of anything that can fail: no threads, no event loop, no library. What it keeps
is what must survive a child: a worker that dies loses its own connections, but not its accept queue,
its link or its counters; the control process loses nothing that it cannot learn again.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.link import snapshots
from proxy.link.scoreboard import Scoreboard

_HEALTHY_AFTER_S: Final = 3.0  # a child that lived this long is started again at once
_BACKOFF_S: Final = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)  # before the n-th start of one that did not
_KILL_AFTER_S: Final = 5.0  # beyond the drain time


@dataclass(slots=True)
class Sockets:
    """What is bound once, before any child starts, and lives as long as the supervisor."""

    listeners: list[list[socket.socket]]  # per worker: its SO_REUSEPORT sockets, one per listener
    metrics: socket.socket
    admin: socket.socket


@dataclass(slots=True)
class _Child:
    name: str
    argv: Callable[[], tuple[list[str], list[int]]]  # -> (arguments, descriptors to pass on)
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    failures: int = 0
    start_at_s: float = 0.0
    stops: int = 0  # SIGTERMs sent to this process: the second one means at once


class Supervisor:
    """Runs one control process and as many workers as there are listener sets, until SIGTERM."""

    def __init__(
        self,
        sockets: Sockets,
        *,
        config_path: str,
        drain_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._sockets = sockets
        self._say = say
        self._drain_s = drain_s
        workers = len(sockets.listeners)
        self._board = Scoreboard.create(workers)
        self._links = [snapshots.make_link() for _ in range(workers)]
        self._own_link, self._own_link_far = snapshots.make_link()
        self._newest = -1  # descriptor of the newest snapshot
        self._lifeline, self._lifeline_end = os.pipe2(os.O_CLOEXEC)
        self._config_path = config_path
        self._children = [_Child("control", self._control_argv)]
        self._children += [_Child(f"worker {row}", self._worker_argv(row)) for row in range(workers)]
        self._stopping_since_s = 0.0
        self._woken, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> int:
        """Return the exit status once everything has ended."""
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wake-up pipe carries it
        while True:
            now_s = time.monotonic()
            self._reap(now_s)
            if self._stopping_since_s:
                if self._stopped(now_s):
                    return 0
            else:
                self._start_missing(now_s)
            ready, _, _ = select.select([self._woken, self._own_link.fileno()], [], [], self._wait_s(now_s))
            if self._own_link.fileno() in ready:
                self._keep_newest()
            if self._woken in ready:
                for caught in os.read(self._woken, 512):
                    self._on_signal(caught)

    # Children

    def _control_argv(self) -> tuple[list[str], list[int]]:
        ends = [near.fileno() for near, _ in self._links]
        fds = {
            "supervisor-link": self._own_link_far.fileno(),
            "scoreboard": self._board.fd,
            "snapshot": self._newest,
            "metrics-fd": self._sockets.metrics.fileno(),
            "admin-fd": self._sockets.admin.fileno(),
            "lifeline": self._lifeline,
        }
        argv = ["-m", "proxy.control", "--config", self._config_path, "--links", ",".join(map(str, ends))]
        return argv + _options(fds), [*ends, *fds.values()]

    def _worker_argv(self, row: int) -> Callable[[], tuple[list[str], list[int]]]:
        def argv() -> tuple[list[str], list[int]]:
            listeners = [sock.fileno() for sock in self._sockets.listeners[row]]
            fds = {
                "link": self._links[row][1].fileno(),
                "scoreboard": self._board.fd,
                "snapshot": self._newest,
                "lifeline": self._lifeline,
            }
            head = ["-m", "proxy.worker", "--row", str(row), "--listeners", ",".join(map(str, listeners))]
            return head + _options(fds), [*listeners, *fds.values()]

        return argv

    def _start_missing(self, now_s: float) -> None:
        for child in self._children:
            if child.process is None and child.start_at_s <= now_s:
                argv, fds = child.argv()
                # Exec, not fork: a child that crashed may have had broken memory, and a successor
                # must not inherit any of ours either.
                child.process = subprocess.Popen(
                    [sys.executable, "-P", *argv],
                    pass_fds=[fd for fd in fds if fd >= 0],
                    stdin=subprocess.DEVNULL,
                )
                child.started_s, child.stops = now_s, 0

    def _reap(self, now_s: float) -> None:
        for child in self._children:
            if child.process is None or (status := child.process.poll()) is None:
                continue
            child.process = None
            if self._stopping_since_s:
                continue
            child.failures = 0 if now_s - child.started_s >= _HEALTHY_AFTER_S else child.failures + 1
            wait_s = _BACKOFF_S[min(child.failures, len(_BACKOFF_S) - 1)]
            child.start_at_s = now_s + wait_s
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
            self._say(f"{child.name} {how}; starting it again in {wait_s:g} s")

    # The end

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._signal(signal.SIGHUP, "control")
        elif number in (signal.SIGTERM, signal.SIGINT):
            if not self._stopping_since_s:
                self._stopping_since_s = time.monotonic()
                # The workers accept what is queued; nobody new must join the queue.
                for sock in (s for per_worker in self._sockets.listeners for s in per_worker):
                    sock.close()
            self._signal(signal.SIGTERM, "")

    def _stopped(self, now_s: float) -> bool:
        """Return whether all have ended; the control process goes last, so that /readyz says why."""
        alive = [child for child in self._children if child.process is not None]
        if not alive:
            return True
        if [child.name for child in alive] == ["control"] and alive[0].stops < 2:
            self._signal(signal.SIGTERM, "control")
        if now_s - self._stopping_since_s > self._drain_s + _KILL_AFTER_S:
            self._signal(signal.SIGKILL, "")
        return False

    def _signal(self, number: int, only: str) -> None:
        for child in self._children:
            if child.process is not None and child.name.startswith(only):
                child.process.send_signal(number)
                child.stops += number == signal.SIGTERM

    def _wait_s(self, now_s: float) -> float | None:
        if self._stopping_since_s:
            return 0.5
        due = [child.start_at_s - now_s for child in self._children if child.process is None]
        return max(0.0, min(due)) if due else None

    def _keep_newest(self) -> None:
        newest = snapshots.receive_newest(self._own_link)
        if newest is not None:
            if self._newest >= 0:
                os.close(self._newest)
            self._newest = newest[1]


def _options(fds: dict[str, int]) -> list[str]:
    return [part for name, fd in fds.items() for part in (f"--{name}", str(fd))]


def bind(addresses: Sequence[tuple[str, int]], workers: int) -> list[list[socket.socket]]:
    """Return, per worker, one listening socket for each address; `OSError` if one cannot be had.

    Each worker has its own socket (SO_REUSEPORT), so the kernel spreads connections without a lock
    and a dead worker's queue waits for its successor. Port 0 is chosen once and shared.
    """
    sets: list[list[socket.socket]] = [[] for _ in range(workers)]
    for host, port in addresses:
        # SO_REUSEPORT would let us share the port with another anyport without a word: ask first.
        with listen(host, port) as probe:
            chosen = probe.getsockname()[1]
        for own in sets:
            sock = listen(host, chosen, reuse_port=workers > 1)
            chosen = sock.getsockname()[1]
            own.append(sock)
    return sets


def listen(host: str, port: int, *, reuse_port: bool = False, backlog: int = 4096) -> socket.socket:
    """Return a socket that listens on (host, port)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock
