"""The control process as a real process, with a test in the place of supervisor and workers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from proxy.link import scoreboard, snapshots
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import EMPTY, TableSnapshot

DEADLINE_S = 15.0


@dataclass(slots=True, eq=False)
class RunningControl:
    """A started control process, the far ends of its links, and the addresses of its servers."""

    process: subprocess.Popen[bytes]
    links: list[socket.socket]
    supervisor_link: socket.socket
    board: Scoreboard
    metrics_address: tuple[str, int]
    admin_address: tuple[str, int]
    lifeline: int
    log: Path
    table: TableSnapshot = EMPTY
    _arrived: dict[int, TableSnapshot] = field(default_factory=dict)  # by descriptor of the link

    def receive(self, link: socket.socket) -> TableSnapshot | None:
        """Return the newest table waiting on *link*, if any. All workers take what has come for them."""
        for row, other in enumerate((*self.links, self.supervisor_link)):
            found = snapshots.receive_newest(other)
            if found is None:
                continue
            try:
                self._arrived[other.fileno()] = snapshots.decode(snapshots.read(found[1]))
            finally:
                os.close(found[1])
            if row < len(self.links):
                head = self.board.head(row)
                head[scoreboard.REVISION] = found[0]
                head[scoreboard.HEARTBEAT_MS] = int(time.monotonic() * 1000)
        return self._arrived.pop(link.fileno(), None)

    def wait_for(self, holds: Callable[[TableSnapshot], bool]) -> TableSnapshot:
        """Return the first table on the first link for which *holds* is true."""

        def look() -> bool:
            self.table = self.receive(self.links[0]) or self.table
            return holds(self.table)

        until(look, lambda: f"{self.table}\n{self.said()}")
        return self.table

    def said(self) -> str:
        """Return what the process has logged."""
        return self.log.read_text()


def until(holds: Callable[[], bool], describe: Callable[[], str] = lambda: "") -> None:
    """Return as soon as *holds* is true; fail with *describe* if that takes too long."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s, describe()
        time.sleep(0.005)


def listening() -> socket.socket:
    """Return a socket on a free loopback port."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


@contextmanager
def control(
    directory: Path,
    config: str,
    *,
    workers: int = 2,
    inherited: TableSnapshot | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[RunningControl]:
    """Run `python -m proxy.control` on *config*, the way the supervisor does."""
    file = directory / "config.toml"
    file.write_text(config)
    log = directory / "control.log"
    pairs = [snapshots.make_link() for _ in range(workers + 1)]
    board = Scoreboard.create(workers)
    for row in range(workers):
        board.begin(row, os.getpid())
        board.head(row)[scoreboard.HEARTBEAT_MS] = int(time.monotonic() * 1000)
    metrics, admin = listening(), listening()
    lifeline, held = os.pipe()
    snapshot = snapshots.seal(snapshots.encode(inherited)) if inherited else -1
    near = [pair[0].fileno() for pair in pairs]
    passed = [*near, board.fd, metrics.fileno(), admin.fileno(), lifeline, *([snapshot] if inherited else [])]
    command = [
        *(sys.executable, "-m", "proxy.control", "--config", str(file)),
        *("--links", ",".join(map(str, near[:-1])), "--supervisor-link", str(near[-1])),
        *("--scoreboard", str(board.fd), "--snapshot", str(snapshot)),
        *("--metrics-fd", str(metrics.fileno()), "--admin-fd", str(admin.fileno())),
        *("--lifeline", str(lifeline)),
    ]
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd(), **(environ or {})}
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, pass_fds=passed, stderr=stderr, env=variables)
    try:
        yield RunningControl(
            process=process,
            links=[pair[1] for pair in pairs[:-1]],
            supervisor_link=pairs[-1][1],
            board=board,
            metrics_address=metrics.getsockname(),
            admin_address=admin.getsockname(),
            lifeline=held,
            log=log,
        )
    finally:
        process.kill()
        process.wait()
        for pair in pairs:
            pair[0].close()
            pair[1].close()
        metrics.close()
        admin.close()
        for fd in {lifeline, held, board.fd, snapshot} - {-1}:
            os.close(fd)
