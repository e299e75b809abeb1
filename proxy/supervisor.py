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

from proxy.link import scoreboard as sb
from proxy.link import snapshots
from proxy.link.handoff import Giver, Offer, Predecessor
from proxy.link.scoreboard import Scoreboard
from proxy.link.sockets import Sockets, close_all, shares, stop_handshakes
from proxy.settings import Timeouts
from proxy.watchdog import LOOK_S, Watchdog

_HEALTHY_AFTER_S: Final = 3.0  # a child that lived this long is started again at once
_BACKOFF_S: Final = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)  # before the n-th start of one that did not
_KILL_AFTER_S: Final = 3.0  # beyond the drain time
_DUMP_S: Final = 0.5  # for a worker that stands still to write its stack, before it is killed
_TAKE_OVER_S: Final = 60.0  # within which a successor must serve, or leave things to its predecessor
_LAST_HANDSHAKES_S: Final = 0.3
_FIRST_TABLE_S: Final = (
    10.0  # so long whoever waits in a queue that systemd holds is not told "not yet" (R02)
)


@dataclass(slots=True)
class _Child:
    name: str
    argv: Callable[[], tuple[list[str], list[int]]]  # -> (arguments, descriptors to pass on)
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    failures: int = 0
    start_at_s: float = 0.0
    stops: int = 0  # times this process was told to end: the second SIGTERM means at once
    dumped: bool = False  # its stack, since it last stood still


class Supervisor:
    """Runs one control process and *workers* workers until SIGTERM, or until a successor takes over."""

    def __init__(
        self,
        sockets: Sockets,
        *,
        workers: int,
        config_path: str,
        say: Callable[[str], None],
        handoff_path: str = "",
        snapshot: int = -1,
        predecessor: Predecessor | None = None,
        surplus: Sequence[socket.socket] = (),
    ) -> None:
        """*snapshot*: descriptor of the table to begin with. *predecessor*: serves until we do. *surplus*:
        its sockets that nobody listens on after it."""
        self._sockets = sockets
        self._workers = workers
        self._say = say
        self._board = Scoreboard.create(workers)
        self._links = [snapshots.make_link() for _ in range(workers)]
        self._own_link, self._own_link_far = snapshots.make_link()
        self._newest = snapshot  # descriptor of the newest one
        self._published = False  # our own control process has sent one
        self._lifeline, self._lifeline_end = os.pipe2(os.O_CLOEXEC)
        self._config_path = config_path
        self._control = _Child("control", self._control_argv)
        self._rows = [_Child(f"worker {row}", self._worker_argv(row)) for row in range(workers)]
        self._children = [self._control, *self._rows]
        self._watchdog = Watchdog(self._board, time.monotonic())
        self._predecessor = predecessor
        self._surplus = surplus
        self._take_over_by_s = time.monotonic() + _TAKE_OVER_S
        self._handoff_path = handoff_path
        self._giver: Giver | None = None
        if predecessor is None:
            self._offer_sockets()
        self._exit_status = 0
        self._stopping_since_s = 0.0
        self._drain_s = 0.0
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
                    return self._exit_status
            else:
                self._start_missing(now_s)
                self._watch(now_s)
                self._take_over(now_s)
            offering = self._giver.filenos() if self._giver else []
            ready, _, _ = select.select(
                [self._woken, self._own_link.fileno(), *offering], [], [], self._wait_s(now_s)
            )
            if self._own_link.fileno() in ready:
                self._keep_newest()
            if self._woken in ready:
                for caught in os.read(self._woken, 512):
                    self._on_signal(caught)
            if self._giver is not None and self._giver.serve(ready, self._offer):
                self._say("a successor has taken over; finishing what is open")
                self._end(signal.SIGUSR2)

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
        argv += ["--patient"] if self._predecessor else []
        return argv + _options(fds), [*ends, *fds.values()]

    def _worker_argv(self, row: int) -> Callable[[], tuple[list[str], list[int]]]:
        def argv() -> tuple[list[str], list[int]]:
            listeners = [
                [sock.fileno() for sock in shares(group, self._workers)[row]]
                for group in self._sockets.listeners
            ]
            fds = {
                "link": self._links[row][1].fileno(),
                "scoreboard": self._board.fd,
                "snapshot": self._newest,
                "lifeline": self._lifeline,
            }
            groups = ",".join("+".join(map(str, group)) for group in listeners)
            head = ["-m", "proxy.worker", "--row", str(row), "--listeners", groups]
            head += ["--held"] if self._sockets.held else []
            # Nobody is kept waiting by it: a predecessor serves, or the queue of a held socket is young.
            patience_s = _TAKE_OVER_S if self._predecessor else _FIRST_TABLE_S * self._sockets.held
            head += ["--patience", str(patience_s)]
            return head + _options(fds), [*(fd for group in listeners for fd in group), *fds.values()]

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
                child.started_s, child.stops, child.dumped = now_s, 0, False

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
            if self._predecessor is not None:
                self._give_up(f"{child.name} {how}")
                return
            self._say(f"{child.name} {how}; starting it again in {wait_s:g} s")

    def _watch(self, now_s: float) -> None:
        """Start a worker again whose loop stands still, with its stack in the log."""
        running = {
            row: child.process.pid for row, child in enumerate(self._rows) if child.process is not None
        }
        overdue = self._watchdog.look(now_s, running)
        for row, child in enumerate(self._rows):
            if child.process is None or row not in overdue:
                child.dumped = False
            elif not child.dumped:
                child.dumped = True
                self._say(f"{child.name} stands still; this is where, and then it is started again:")
                child.process.send_signal(signal.SIGUSR1)
            elif overdue[row] >= _DUMP_S:
                self._board.head(row)[sb.STALLS] += 1
                child.process.kill()

    # Hand-off

    def _offer_sockets(self) -> None:
        if self._handoff_path:
            self._giver = Giver(self._handoff_path, say=self._say)

    def _offer(self) -> Offer:
        return Offer(
            sockets=[sock.fileno() for sock in self._sockets.all()],
            snapshot=self._newest,
            held=self._sockets.held,
        )

    def _take_over(self, now_s: float) -> None:
        """Tell the predecessor to leave once everything here serves; if that never comes, leave it be."""
        if self._predecessor is None:
            return
        if self._predecessor.gone():
            said = "the running anyport has ended before this one was ready; its sockets are here"
        elif self._serving():
            said = "this anyport has taken over"
        elif now_s > self._take_over_by_s:
            self._give_up(f"it does not serve within {_TAKE_OVER_S:g} s")
            return
        else:
            return
        try:
            self._offer_sockets()  # before the predecessor leaves: there is always one to ask at this path
        except OSError as exc:
            self._say(f"cannot listen on {self._handoff_path} ({exc.strerror}); the next upgrade has a gap")
        if self._surplus:
            for sock in self._surplus:
                stop_handshakes(sock)
            time.sleep(_LAST_HANDSHAKES_S)  # the predecessor still accepts them
            close_all(self._surplus)
        self._predecessor.release()
        self._predecessor = None
        self._say(said)

    def _serving(self) -> bool:
        """Whether there is a control process with a table, and every worker accepts connections."""
        return self._published and all(
            child.process is not None
            and self._board.head(row)[sb.PID] == child.process.pid
            and self._board.head(row)[sb.ACCEPTING]
            for row, child in enumerate(self._rows)
        )

    def _give_up(self, why: str) -> None:
        self._say(f"this anyport could not take over: {why}. The running one goes on as before")
        self._exit_status = 1
        self._end(signal.SIGUSR2)

    # The end

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._signal(signal.SIGHUP, "control")
        elif number in (signal.SIGTERM, signal.SIGINT):
            if self._stopping_since_s:
                self._signal(signal.SIGTERM, "")
            else:
                # Sockets that the predecessor goes on serving must be left as they are.
                self._end(signal.SIGUSR2 if self._predecessor else signal.SIGTERM)

    def _end(self, number: int) -> None:
        """Begin the end: SIGTERM: keep accepting for a while; SIGUSR2: leave that to another process."""
        self._stopping_since_s = time.monotonic()
        known_ms = [head[sb.DRAIN_MS] for head in self._board.heads()]
        self._drain_s = max(known_ms) / 1000 or Timeouts().drain_s
        if self._giver is not None:
            self._giver.close()
            self._giver = None
        if self._predecessor is not None:
            self._predecessor.abandon()
        # The workers accept what is queued; nobody new must join the queue of one that has died.
        close_all(sock for group in self._sockets.listeners for sock in group)
        close_all(self._surplus)
        self._signal(number, "")

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
                child.stops += number in (signal.SIGTERM, signal.SIGUSR2)

    def _wait_s(self, now_s: float) -> float:
        if self._stopping_since_s:
            return 0.5
        if self._predecessor is not None:
            return 0.02
        due = [child.start_at_s - now_s for child in self._children if child.process is None]
        return max(0.0, min([LOOK_S, *due]))

    def _keep_newest(self) -> None:
        newest = snapshots.receive_newest(self._own_link)
        if newest is not None:
            if self._newest >= 0:
                os.close(self._newest)
            self._newest = newest[1]
            self._published = True


def _options(fds: dict[str, int]) -> list[str]:
    return [part for name, fd in fds.items() for part in (f"--{name}", str(fd))]
