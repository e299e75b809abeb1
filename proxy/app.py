"""The composition root: settings in, a running anyport out."""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
from pathlib import Path

from proxy.config import Config, split_address
from proxy.supervisor import Sockets, Supervisor, bind, listen


class StartError(Exception):
    """anyport cannot start. Arguments: what is wrong, and how to mend it."""


def run(config_path: Path | None, config: Config) -> int:
    """Run anyport until SIGTERM and return its exit status.

    *config* was read from *config_path*; the control process reads the file again, at its start and
    on SIGHUP. Raises `StartError` where an address cannot be bound.
    """
    _raise_descriptor_limit()
    workers = config.workers or len(os.sched_getaffinity(0))
    sockets = open_sockets(config, workers)
    supervisor = Supervisor(
        sockets,
        config_path=str(config_path.resolve()) if config_path else "",
        drain_s=config.timeouts.drain_s,
        say=_say,
    )
    for listener in sockets.listeners[0]:
        _say(f"listening on {_shown(listener)} with {workers} worker{'s' if workers > 1 else ''}")
    _say(f"metrics and health on {_shown(sockets.metrics)}, admin on {_shown(sockets.admin)}")
    return supervisor.run()


def open_sockets(config: Config, workers: int) -> Sockets:
    """Bind every address of *config*, or raise `StartError` for the first that cannot be had."""
    listeners: list[list[socket.socket]] = [[] for _ in range(workers)]
    for index, listener in enumerate(config.listener):
        try:
            bound = bind([split_address(listener.address)], workers)
        except OSError as exc:
            raise _cannot_bind(
                listener.address, f"[[listener]] number {index + 1}", "[[listener]]", exc
            ) from exc
        for own, sockets in zip(listeners, bound, strict=True):
            own.extend(sockets)
    return Sockets(
        listeners=listeners,
        metrics=_open(config.metrics.address, "metrics"),
        admin=_open(config.admin.address, "admin"),
    )


def _open(address: str, section: str) -> socket.socket:
    try:
        return listen(*split_address(address))
    except OSError as exc:
        raise _cannot_bind(address, f"[{section}]", f"[{section}]", exc) from exc


def _cannot_bind(address: str, where: str, section: str, exc: OSError) -> StartError:
    hints = {
        "EADDRINUSE": f"another process has it; stop that one or change `address` of {section}",
        "EACCES": "ports below 1024 need the capability NET_BIND_SERVICE",
        "EADDRNOTAVAIL": "this machine has no such address",
    }
    name = _errno_name(exc)
    return StartError(f"cannot listen on {address} ({where})", hints.get(name, exc.strerror or name))


def _errno_name(exc: OSError) -> str:
    """Return the symbolic name of the error number of *exc*, or its class name."""
    return errno.errorcode.get(exc.errno or 0, type(exc).__name__)


def _raise_descriptor_limit() -> None:
    """Use all descriptors we may have: containers often start with a soft limit of 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _shown(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _say(text: str) -> None:
    """One line on standard error; a closed one must not end the supervisor."""
    try:
        sys.stderr.write(f"anyport: {text}\n")
        sys.stderr.flush()
    except OSError:
        pass
