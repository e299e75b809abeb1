"""The whole table at one moment, as it crosses from the control process to the workers.

A snapshot is written once into a sealed memory file; the link carries only its descriptor and its
number. So a slow worker holds nobody up, nothing can change under a reader, and the supervisor keeps
the newest one for whoever starts next, even while the control process is down.

It is a line of JSON for what there is one of; then for each service a line that also says how many rows
follow, how long they are and what their hash is; then these rows, a line for each backend. So it can be
read a few rows at a time, and a service that is the same as in the snapshot before is passed over unread.
The writer keeps the lines of each service in the same way: a change costs what has changed.
"""

from __future__ import annotations

import fcntl
import io
import mmap
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from itertools import chain
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

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
_FORMAT: Final = 5  # of the encoding; a worker and a control process of different versions must notice
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
    awaited: bool = False  # tasks are on their way: until then those that drain serve, even if all do


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
    source: str = ""  # name of the source that tells of it
    confirm: bool = False  # known from old news: a new connection has to prove `ServiceRow.identity` first


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSnapshot:
    """What workers route by. `revision` only ever rises, across restarts of the control process too.

    Two tables share what did not change between them: a service whose rows are the same object as before
    needs no second look.
    """

    revision: int
    loaded: bool  # False until every source has answered completely once: then a 404 would be a guess
    services: tuple[ServiceRow, ...] = ()
    by_service: Mapping[str, tuple[BackendRow, ...]] = field(default_factory=lambda: MappingProxyType({}))
    settings: WorkerSettings = field(default_factory=WorkerSettings)

    @property
    def backends(self) -> tuple[BackendRow, ...]:
        """All rows, service by service. Made anew each time: not for the way of every change."""
        return tuple(chain.from_iterable(self.by_service.values()))


def by_service(rows: Iterable[BackendRow]) -> Mapping[str, tuple[BackendRow, ...]]:
    """Return *rows* by service, in the order they come in."""
    found: dict[str, list[BackendRow]] = {}
    for row in rows:
        found.setdefault(row.service, []).append(row)
    return MappingProxyType({name: tuple(some) for name, some in found.items()})


EMPTY: Final = TableSnapshot(revision=0, loaded=False)


class SnapshotError(Exception):
    """The bytes are not a snapshot this version can read; keep the one you have."""


class Encoder:
    """Writes one snapshot after the other. What stays the same between two is not written anew."""

    def __init__(self) -> None:
        self._groups: dict[str, _Written] = {}  # of the newest snapshot

    def parts(self, snapshot: TableSnapshot) -> list[bytes]:
        """Return *snapshot* in pieces that, joined, are what `Decoder` reads.

        Rows of a service that `services` lacks are left out: no request can mean them.
        """
        first = {
            "format": _FORMAT,
            "revision": snapshot.revision,
            "loaded": snapshot.loaded,
            "settings": snapshot.settings,
            "services": len(snapshot.services),
        }
        before = self._groups.get
        now: dict[str, _Written] = {}
        parts = [_line(first)]
        rows_of = snapshot.by_service.get
        for service in snapshot.services:
            name = service.name
            rows = rows_of(name, ())
            group = before(name)
            if group is None or group.rows is not rows or group.service is not service:
                group = _Written(service, rows, group)
            now[name] = group
            parts.append(group.text)
        self._groups = now
        return parts


class _Written:
    """A service and its rows, as they are written."""

    __slots__ = ("lines", "rows", "service", "text")

    def __init__(self, service: ServiceRow, rows: tuple[BackendRow, ...], before: _Written | None) -> None:
        # By identity, which the rows held in *before* keep from being given to others.
        known = {} if before is None else dict(zip(map(id, before.rows), before.lines, strict=True))
        self.service: ServiceRow = service
        self.rows: tuple[BackendRow, ...] = rows
        self.lines: list[bytes] = [known.get(id(row)) or _line(_VALUES(row)) for row in rows]
        text = b"".join(self.lines)
        head = {
            "service": service,
            "rows": len(rows),
            "bytes": len(text),
            "hash": blake2b(text, digest_size=16).hexdigest(),
        }
        self.text = _line(head) + text


def _line(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


# A row is written as its values alone, in the order of its fields; its service is in the line above.
_FIELDS: Final = tuple(row.name for row in fields(BackendRow) if row.name != "service")
_VALUES: Final = attrgetter(*_FIELDS)


def encode(snapshot: TableSnapshot) -> bytes:
    """Return *snapshot* as bytes that `decode` reads."""
    return b"".join(Encoder().parts(snapshot))


def decode(data: bytes) -> TableSnapshot:
    """Return the snapshot in *data*; raise `SnapshotError` if it is not one of this format."""
    return finish(Decoder().lines(io.BytesIO(data)))


class _Read:
    """A service and its rows, as they were read."""

    __slots__ = ("by_line", "length", "rows", "service")

    def __init__(
        self,
        service: ServiceRow,
        rows: tuple[BackendRow, ...],
        by_line: dict[bytes, BackendRow],
        length: int,  # of the rows, in bytes
    ) -> None:
        self.service = service
        self.rows = rows
        self.by_line = by_line
        self.length = length


_NO_LINES: Final[Mapping[bytes, BackendRow]] = MappingProxyType({})


class Decoder:
    """Reads one snapshot after the other. What stays the same between two stays the same object."""

    def __init__(self) -> None:
        self._groups: dict[bytes, _Read] = {}  # of the newest snapshot, by the line of the service
        self._by_name: dict[str, _Read] = {}

    def file(self, fd: int) -> Steps[TableSnapshot]:
        """Read what the memory file *fd* holds, as `lines` does."""
        try:
            # Private: not every kernel maps a sealed file shared, not even to read it.
            content = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        except ValueError as exc:
            raise SnapshotError("not a table snapshot: empty") from exc
        with content:
            return (yield from self.lines(content))

    def lines(self, content: io.BytesIO | mmap.mmap) -> Steps[TableSnapshot]:
        """Return a snapshot in steps; raise `SnapshotError` if the lines are not one of this format."""
        try:
            first = orjson.loads(content.readline())
            if first["format"] != _FORMAT:
                raise SnapshotError(f"snapshot format {first['format']!r}, this version reads {_FORMAT}")
            settings = _settings(first["settings"])
            groups: dict[bytes, _Read] = {}
            for index in range(first["services"]):
                line = content.readline()
                group = self._groups.get(line)
                if group is None:
                    yield
                    group = yield from self._group(content, orjson.loads(line))
                else:
                    content.seek(group.length, os.SEEK_CUR)
                    if not index % ROWS_PER_STEP:
                        yield
                groups[line] = group
            if len(groups) != first["services"] or content.readline():
                raise SnapshotError("not a table snapshot: other lines than announced")
            yield
            by_name = {group.service.name: group for group in groups.values()}
            snapshot = TableSnapshot(
                revision=first["revision"],
                loaded=first["loaded"],
                services=tuple(group.service for group in groups.values()),
                by_service=MappingProxyType({name: group.rows for name, group in by_name.items()}),
                settings=settings,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise SnapshotError(f"not a table snapshot: {exc}") from exc
        gone = [group for line, group in self._groups.items() if line not in groups]
        self._groups, self._by_name = groups, by_name
        yield from _forget(gone)
        return snapshot

    def _group(self, content: io.BytesIO | mmap.mmap, head: dict[str, Any]) -> Steps[_Read]:
        """Read the rows of a service that is not as it was. Of those, again, most are."""
        service = _service(head["service"])
        before = self._by_name.get(service.name)
        known = _NO_LINES if before is None else before.by_line
        if before is not None and before.service == service:
            service = before.service
        rows: list[BackendRow] = []
        by_line: dict[bytes, BackendRow] = {}
        for index in range(head["rows"]):
            if index and not index % ROWS_PER_STEP:
                yield
            line = content.readline()
            row = known.get(line) or _backend(service.name, orjson.loads(line))
            rows.append(row)
            by_line[line] = row
        return _Read(service, tuple(rows), by_line, head["bytes"])


def _forget(gone: list[_Read]) -> Steps[None]:
    for group in gone:
        lines = group.by_line
        while lines:
            yield
            for _ in range(min(ROWS_PER_STEP, len(lines))):
                lines.popitem()
    yield from release(gone)


def _service(raw: dict[str, Any]) -> ServiceRow:
    tls = BackendTls(**raw["tls"]) if raw["tls"] is not None else None
    identity = IdentityCheck(**raw["identity"]) if raw["identity"] is not None else None
    return ServiceRow(**{**raw, "hosts": tuple(raw["hosts"]), "tls": tls, "identity": identity})


def _backend(service: str, values: list[Any]) -> BackendRow:
    return BackendRow(service=service, **dict(zip(_FIELDS, values, strict=True)))


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


def seal(*parts: bytes) -> int:
    """Return the descriptor of a new memory file that holds *parts*, joined, and can never change."""
    fd = os.memfd_create("anyport-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(b"".join(parts))
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
        if newest is not None and newest[0] > revision:
            os.close(fds[0])  # one that waited for room in the link, overtaken by one that is tried
            continue
        if newest is not None:
            os.close(newest[1])
        newest = (revision, fds[0])
