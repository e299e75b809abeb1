"""The command line by which the supervisor starts the control process. Not for people."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvloop

from proxy import config
from proxy.config import Config, ConfigError
from proxy.control import logs, process
from proxy.link import snapshots
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import EMPTY, SnapshotError, TableSnapshot

log = logging.getLogger("anyport.control")


def main(argv: list[str]) -> int:
    """Run the control process on inherited descriptors; return its exit status."""
    args = _arguments(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    logs.configure(config.Log())

    def load(*, files: bool = True) -> Config:
        return config.load(Path(args.config) if args.config else None, os.environ, files=files)

    try:
        # Not judged by its files: a certificate that has been spoilt since must not end what still serves.
        settings = load(files=False)
    except ConfigError as exc:
        log.error("the control process cannot start:\n%s", exc)
        return 1
    logs.configure(settings.log)
    given = process.Inherited(
        links=[socket.socket(fileno=fd) for fd in args.links],
        supervisor_link=socket.socket(fileno=args.supervisor_link),
        board=Scoreboard.attach(args.scoreboard),
        table=_inherited(args.snapshot),
        metrics_socket=socket.socket(fileno=args.metrics_fd),
        admin_socket=socket.socket(fileno=args.admin_fd),
        lifeline_fd=args.lifeline,
        patient=args.patient,
    )
    for link in (*given.links, given.supervisor_link):
        link.setblocking(False)
    return uvloop.run(process.run(given, settings, reload=load))


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proxy.control")
    parser.add_argument("--config", required=True)
    parser.add_argument("--links", required=True, type=lambda text: [int(fd) for fd in text.split(",") if fd])
    for name in ("supervisor-link", "scoreboard", "snapshot", "metrics-fd", "admin-fd", "lifeline"):
        parser.add_argument(f"--{name}", required=True, type=int)
    parser.add_argument("--patient", action="store_true", help="answer only once the workers are up")
    return parser.parse_args(argv)


def _inherited(fd: int) -> TableSnapshot:
    if fd < 0:
        return EMPTY
    try:
        return snapshots.decode(snapshots.read(fd))
    except SnapshotError as exc:
        log.warning("the table of the previous control process is of no use: %s", exc)
        return EMPTY
    finally:
        os.close(fd)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    # A call to AWS may hang in a thread for seconds yet, and the interpreter would wait for it.
    os._exit(status)
