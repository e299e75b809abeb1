"""The whole table at one moment, as it crosses from the control process to the workers.

A snapshot is written once into a sealed memory file; the link carries only its descriptor and its
number. So a slow worker holds nobody up, nothing can change under a reader, and the supervisor keeps
the newest one for whoever starts next, even while the control process is down.

It is a line of JSON for what there is one of, then one for each service and each backend. So it can be
read a few rows at a time, and a row that is the same as in the snapshot before need not be parsed at all.
"""

from __future__ import annotations

import fcntl
import io
import mmap
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import orjson

from proxy.settings import (
    AccessLog,
    BackendTls,
    Certificate,
    IdentityCheck,
    Limits,
    ListenerSettings,
    Retries,
    Timeouts,
    WorkerSettings,
)
from proxy.steps import ROWS_PER_STEP, Steps, finish, release

_NUMBER: Final = struct.Struct("!Q")
_FORMAT: Final = 3  # of the encoding; a worker and a control process of different versions must notice
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRow:
    """A service as a worker needs it."""

    name: str
    slot: int  # its block on the scoreboard
    hosts: tuple[str, ...]
    path: str
    tls: BackendTls | None = None  # None: its backends are spoken to in plain
    identity: IdentityCheck | None = None  # None: its backends prove nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRow:
    """An endpoint with its verdict. `ready` is `healthy and not draining`, and never sent."""

    service: str
    task_arn: str
    container: str
    container_port: int
    host: str
    port: int
    healthy: bool
    draining: bool
    suspended: bool = False  # another, newer task claims the same ip:port: send nothing at all
    reason: str = ""  # why it is not ready: the failed check, the stop, the rival claim
    zone: str = ""
    instance: str = ""
    release: str = ""
    started_at: float = 0.0
    confirm: bool = False  # known from old news: a new connection has to prove `ServiceRow.identity` first


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSnapshot:
    """What workers route by. `revision` only ever rises, across restarts of the control process too."""

    revision: int
    loaded: bool  # False until every source has answered completely once: then a 404 would be a guess
    services: tuple[ServiceRow, ...] = ()
    backends: tuple[BackendRow, ...] = ()
    settings: WorkerSettings = field(default_factory=WorkerSettings)


EMPTY: Final = TableSnapshot(revision=0, loaded=False)


class SnapshotError(Exception):
    """The bytes are not a snapshot this version can read; keep the one you have."""


def encode(snapshot: TableSnapshot) -> bytes:
    """Return *snapshot* as bytes that `decode` reads."""
    first = {
        "format": _FORMAT,
        "revision": snapshot.revision,
        "loaded": snapshot.loaded,
        "settings": snapshot.settings,
        "services": len(snapshot.services),
        "backends": len(snapshot.backends),
    }
    lines = (first, *snapshot.services, *snapshot.backends)
    return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)


def decode(data: bytes) -> TableSnapshot:
    """Return the snapshot in *data*; raise `SnapshotError` if it is not one of this format."""
    return finish(Decoder().lines(io.BytesIO(data).readline))


R = TypeVar("R", ServiceRow, BackendRow)


class Decoder:
    """Reads one snapshot after the other. What stays the same between two stays the same object."""

    def __init__(self) -> None:
        self._services: dict[bytes, ServiceRow] = {}  # by their lines in the newest snapshot
        self._backends: dict[bytes, BackendRow] = {}

    def file(self, fd: int) -> Steps[TableSnapshot]:
        """Read what the memory file *fd* holds, as `lines` does."""
        try:
            # Private: not every kernel maps a sealed file shared, not even to read it.
            content = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        except ValueError as exc:
            raise SnapshotError("not a table snapshot: empty") from exc
        with content:
            return (yield from self.lines(content.readline))

    def lines(self, read_line: Callable[[], bytes]) -> Steps[TableSnapshot]:
        """Return a snapshot in steps; raise `SnapshotError` if the lines are not one of this format."""
        try:
            first = orjson.loads(read_line())
            if first["format"] != _FORMAT:
                raise SnapshotError(f"snapshot format {first['format']!r}, this version reads {_FORMAT}")
            settings = _settings(first["settings"])
            services = yield from _rows(read_line, first["services"], self._services, _service)
            backends = yield from _rows(read_line, first["backends"], self._backends, _backend)
            if read_line():
                raise SnapshotError("not a table snapshot: more lines than announced")
            snapshot = TableSnapshot(
                revision=first["revision"],
                loaded=first["loaded"],
                services=tuple(services.rows),
                backends=tuple(backends.rows),
                settings=settings,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise SnapshotError(f"not a table snapshot: {exc}") from exc
        garbage = [*self._services, *self._backends]
        self._services, self._backends = services.by_line, backends.by_line
        yield from release(garbage)
        return snapshot


class _Rows(Generic[R]):
    """Rows in order, and by their lines."""

    __slots__ = ("by_line", "rows")

    def __init__(self) -> None:
        self.rows: list[R] = []
        self.by_line: dict[bytes, R] = {}


def _rows(
    read_line: Callable[[], bytes], count: int, known: dict[bytes, R], make: Callable[[dict[str, Any]], R]
) -> Steps[_Rows[R]]:
    found: _Rows[R] = _Rows()
    for index in range(count):
        if not index % ROWS_PER_STEP:
            yield
        line = read_line()
        row = known.get(line) or make(orjson.loads(line))
        found.rows.append(row)
        found.by_line[line] = row
    return found


def _service(raw: dict[str, Any]) -> ServiceRow:
    tls = BackendTls(**raw["tls"]) if raw["tls"] is not None else None
    identity = IdentityCheck(**raw["identity"]) if raw["identity"] is not None else None
    return ServiceRow(**{**raw, "hosts": tuple(raw["hosts"]), "tls": tls, "identity": identity})


def _backend(raw: dict[str, Any]) -> BackendRow:
    return BackendRow(**raw)


def _settings(raw: dict[str, Any]) -> WorkerSettings:
    return WorkerSettings(
        timeouts=Timeouts(**raw["timeouts"]),
        limits=Limits(**raw["limits"]),
        retries=Retries(**raw["retries"]),
        access_log=AccessLog(**raw["access_log"]),
        listeners=tuple(_listener(listener) for listener in raw["listeners"]),
        trusted_proxies=tuple(raw["trusted_proxies"]),
    )


def _listener(raw: dict[str, Any]) -> ListenerSettings:
    tls = tuple(Certificate(**{**pair, "names": tuple(pair["names"])}) for pair in raw["tls"])
    return ListenerSettings(**{**raw, "tls": tls})


def seal(data: bytes) -> int:
    """Return the descriptor of a new memory file that holds *data* and can never change."""
    fd = os.memfd_create("anyport-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> bytes:
    """Return what the memory file *fd* holds; the descriptor stays open and its offset is not used."""
    size = os.fstat(fd).st_size
    parts, offset = [], 0
    while offset < size:
        part = os.pread(fd, size - offset, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def make_link() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a link: one message is one snapshot, order is kept, both ends never block."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    far.setblocking(False)
    return near, far


def send(link: socket.socket, revision: int, fd: int) -> bool:
    """Pass the memory file *fd* on; return False if the link is full (send the newest again later)."""
    try:
        socket.send_fds(link, [_NUMBER.pack(revision)], [fd])
    except BlockingIOError:
        return False
    return True


def receive_newest(link: socket.socket) -> tuple[int, int] | None:
    """Empty the link and return (revision, descriptor) of the newest snapshot in it, or None.

    The caller owns the descriptor and closes it. The older ones are closed here.
    """
    newest: tuple[int, int] | None = None
    while True:
        try:
            message, fds, _, _ = socket.recv_fds(link, _NUMBER.size, 1)
        except (BlockingIOError, ConnectionResetError):
            return newest
        if len(message) != _NUMBER.size or len(fds) != 1:
            for fd in fds:
                os.close(fd)
            if not message:
                return newest  # the other side is closed for good
            continue
        revision = _NUMBER.unpack(message)[0]
        if newest is not None:
            os.close(newest[1])
        newest = (revision, fds[0])
