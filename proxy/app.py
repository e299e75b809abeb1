"""The composition root: settings in, a running anyport out."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import resource
import socket
import sys
from collections.abc import Iterable, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from proxy.config import Config, split_address
from proxy.config.certificates import known
from proxy.link.handoff import HandoffError, Predecessor, take
from proxy.link.snapshots import EMPTY, SnapshotError, decode, encode, read, seal
from proxy.link.sockets import Sockets, allow_handshakes, bind, listen, more
from proxy.supervisor import Supervisor

_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_COUNT: Final = re.compile(r"[1-9][0-9]{0,2}")


class StartError(Exception):
    """anyport cannot start. Arguments: what is wrong, and how to mend it."""


def run(config_path: Path | None, config: Config) -> int:
    """Run anyport until SIGTERM, or until a successor has taken over, and return its exit status.

    *config* was read from *config_path*; the control process reads the file again, at its start and
    on SIGHUP. Raises `StartError` where an address cannot be had.
    """
    _raise_descriptor_limit()
    workers = config.workers or len(os.sched_getaffinity(0))
    predecessor = _predecessor(config.handoff)
    given = Given(predecessor.sockets) if predecessor else Given(systemd_sockets(os.environ))
    held = predecessor.held if predecessor else bool(given)
    sockets = open_sockets(config, workers, given, held=held)
    try:
        supervisor = Supervisor(
            sockets,
            workers=workers,
            config_path=str(config_path.resolve()) if config_path else "",
            say=_say,
            handoff_path=config.handoff,
            snapshot=first_table(config, predecessor.snapshot if predecessor else -1),
            predecessor=predecessor,
            surplus=given.rest(),
        )
    except OSError as exc:
        raise _no_handoff(
            config.handoff, exc.strerror or str(exc), "mend it, or leave `handoff` out"
        ) from exc
    for group in sockets.listeners:
        _say(f"listening on {_shown(group[0])} with {workers} worker{'s' if workers > 1 else ''}")
    _say(f"metrics and health on {_shown(sockets.metrics)}, admin on {_shown(sockets.admin)}")
    if predecessor is not None:
        _say("taking over from the anyport that runs here")
    return supervisor.run()


def first_table(config: Config, inherited: int) -> int:
    """Return the descriptor of the table that workers begin with: the *inherited* one, if there is one, with
    our own settings. Before the control process is up they must know which listeners speak TLS.
    """
    table = replace(EMPTY, revision=1)
    if inherited >= 0:
        with contextlib.suppress(SnapshotError):
            table = decode(read(inherited))
        os.close(inherited)
    listeners = tuple(known(listener.settings()) for listener in config.listener)
    settings = replace(config.worker_settings(), listeners=listeners)
    return seal(encode(replace(table, settings=settings)))


def open_sockets(config: Config, workers: int, given: Given, *, held: bool = False) -> Sockets:
    """Take every address of *config* from what was *given*, else bind it.

    Raises `StartError` for the first that cannot be had. *held*: see `Sockets`.
    """
    listeners = []
    for index, listener in enumerate(config.listener):
        host, port = split_address(listener.address)
        try:
            listeners.append(given.listeners(host, port, workers, held=held) or bind(host, port, workers))
        except OSError as exc:
            raise _cannot_bind(
                listener.address, f"[[listener]] number {index + 1}", "[[listener]]", exc
            ) from exc
    return Sockets(
        listeners=listeners,
        metrics=given.one(config.metrics.address) or _open(config.metrics.address, "metrics"),
        admin=given.one(config.admin.address) or _open(config.admin.address, "admin"),
        held=held,
    )


class Given:
    """Listening sockets that somebody else has bound, by address."""

    def __init__(self, sockets: Iterable[socket.socket]) -> None:
        self._by_address: dict[tuple[str, int], list[socket.socket]] = {}
        for sock in sockets:
            host, port = sock.getsockname()[:2]
            self._by_address.setdefault((host, port), []).append(sock)

    def __bool__(self) -> bool:
        return bool(self._by_address)

    def listeners(self, host: str, port: int, workers: int, *, held: bool) -> list[socket.socket]:
        """Return the sockets of an address, one for each worker where that is possible; [] if none."""
        found = self._by_address.pop((str(ipaddress.ip_address(host)), port), [])
        for sock in found:
            allow_handshakes(sock)
        if not found or held or not found[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            return found
        return more(found, host, port, workers)

    def one(self, address: str) -> socket.socket | None:
        """Return the only socket of *address*, None if there is none."""
        host, port = split_address(address)
        found = self._by_address.pop((str(ipaddress.ip_address(host)), port), [None])
        return found[0]

    def rest(self) -> list[socket.socket]:
        """Return what nobody has asked for."""
        return [sock for group in self._by_address.values() for sock in group]


def systemd_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return what systemd has bound for this process (sd_listen_fds(3)); *environ* says so no longer."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not _COUNT.fullmatch(count):
        return []
    sockets = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        sockets.append(socket.socket(fileno=fd))
    return [sock for sock in sockets if sock.family in (socket.AF_INET, socket.AF_INET6)]


def _predecessor(path: str) -> Predecessor | None:
    try:
        return take(path) if path else None
    except HandoffError as exc:
        raise _no_handoff(path, *exc.args) from exc


def _no_handoff(path: str, what: str, hint: str) -> StartError:
    return StartError(f"cannot use {path} (`handoff`): {what}", hint)


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
