"""Services and addresses in files that somebody else writes, looked at every second.

A file that is broken, half written or gone without a successor removes nothing: what it said last stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from discovery.model import Endpoint, Problem, Service, Snapshot, SourceStatus, Told

CONTAINER: Final = "file"
LOOK_S: Final = 1.0  # between two looks
GONE_S: Final = 10.0  # for how long a file must be gone, with others still there, until that is news
BYTES_MAX: Final = 4 * 1024 * 1024
FILES_MAX: Final = 1000
_SUFFIXES: Final = (".toml", ".json")

log = logging.getLogger("anyport.discovery")

Place = tuple[str, int]  # ip, port
Listed = tuple[Service, Sequence[Place]]
Parse = Callable[[str, bytes], Sequence[Listed]]  # path and content; raises `BadFile`


class BadFile(Exception):
    """A file makes no sense; `problems` says where."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)


class Look(NamedTuple):
    """What tells one state of a file from another."""

    inode: int
    size_bytes: int
    changed_ns: tuple[int, int]  # mtime and ctime: the one can be set, the other cannot


@dataclass(slots=True)
class _File:
    """One file over time."""

    look: Look | None = None  # at its newest sight
    read: Look | None = None  # when it was read last
    listed: tuple[Listed, ...] = ()
    problems: tuple[Problem, ...] = ()
    gone_since_s: float | None = None
    told_at_s: float = 0.0  # Unix time


class FileSource:
    """Follows one file, or those ending in .toml and .json in one folder.

    *parse* reads one; *is_own* says whether an address is one that this very proxy listens on. *services* are
    known without any file, and only their addresses are in one.
    """

    def __init__(
        self,
        path: str,
        parse: Parse,
        *,
        is_own: Callable[[str, int], bool],
        services: Sequence[Service] = (),
        name: str = "file",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        look_s: float = LOOK_S,
    ) -> None:
        self.name = name
        self.status = SourceStatus(stale_after_s=10 * look_s)
        self._path = path
        self._parse = parse
        self._is_own = is_own
        self._services = {service.name: service for service in services}
        self._clock = clock
        self._wall = wall
        self._look_s = look_s
        self._files: dict[str, _File] = {}
        self._fault = ""  # of the path as a whole
        self._answered = False
        self._shown: Mapping[str, tuple[Endpoint, ...]] = MappingProxyType({})
        self._hurried = asyncio.Event()

    async def watch(self) -> AsyncIterator[Snapshot]:
        """Yield what the files say, after every change; incomplete until each of them could be read."""
        newest: Snapshot | None = None
        while True:
            self._hurried.clear()
            asked_s = self._clock()
            await self._follow()
            self._account(asked_s)
            snapshot = self._snapshot()
            if snapshot != newest:
                newest = snapshot
                yield snapshot
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_s):
                    await self._hurried.wait()

    def hurry(self, task_arn: str = "") -> None:
        """Look now."""
        self._hurried.set()

    def told(self, task_arn: str) -> tuple[Told, ...]:
        """Return which files name an address."""
        return tuple(
            Told(self.name, path, file.told_at_s)
            for path, file in sorted(self._files.items())
            if any(_task(place) == task_arn for _, places in file.listed for place in places)
        )

    # From files to what they say

    async def _follow(self) -> None:
        """Look at every file, and read those that have changed and hold still. The disk may be slow."""
        try:
            looks = await asyncio.to_thread(_look_around, self._path)
        except OSError as exc:
            self._fault = f"cannot be looked at: {exc.strerror}"
            return
        for path, look in sorted((looks or {}).items()):
            file = self._files.setdefault(path, _File())
            file.gone_since_s = None
            if _holds_still(file, look):
                await self._read(path, file)
            file.look = look
        self._miss(looks, self._clock())

    async def _read(self, path: str, file: _File) -> None:
        try:
            look, data = await asyncio.to_thread(_content, path)
        except OSError as exc:
            file.problems = (Problem(f"file {path}", f"cannot be read: {exc.strerror}"),)
            return
        if look is None:
            return  # it has changed under our eyes: next time
        file.read = look
        try:
            # In a thread: a large file takes a second, in which health checks have to go on.
            file.listed = tuple(await asyncio.to_thread(self._parse, path, data))
        except BadFile as bad:
            file.problems = bad.problems
        except Exception as exc:
            log.exception("%s: %s cannot be read; what it said last still stands", self.name, path)
            file.problems = (Problem(f"file {path}", f"internal error ({type(exc).__name__}), see the log"),)
        else:
            file.problems = ()
            file.told_at_s = self._wall()

    def _miss(self, looks: Mapping[str, Look] | None, now_s: float) -> None:
        """Forget what is gone; but where nothing at all is left, somebody may have taken the disk away."""
        for path in [path for path in self._files if path not in (looks or ())]:
            file = self._files[path]
            if file.gone_since_s is None:
                file.gone_since_s = now_s
            if looks and now_s - file.gone_since_s >= GONE_S:
                del self._files[path]
        if not looks and any(file.listed for file in self._files.values()):
            self._fault = "is gone; what it said still counts: put it back, or write `service = []` into it"
        else:
            self._fault = "" if looks is not None else "does not exist"

    def _account(self, asked_s: float) -> None:
        status, problems = self.status, self._problems()
        error = f"{problems[0].where}: {problems[0].what}" if problems else ""
        if error and error != status.last_error:
            status.errors["malformed"] += 1
        status.last_error = error
        if not problems:
            self._answered = True
            status.refreshes += 1
            status.asked_s = status.last_success_s = asked_s

    def _problems(self) -> tuple[Problem, ...]:
        """Return what keeps files from being read."""
        fault = (Problem(f"[file] path {self._path}", self._fault),) if self._fault else ()
        return fault + tuple(p for _, file in sorted(self._files.items()) for p in file.problems)

    # From what they say to facts

    def _snapshot(self) -> Snapshot:
        services, places, problems = self._merged()
        found: dict[str, tuple[Endpoint, ...]] = {}
        for name, some in sorted(places.items()):
            before = self._shown.get(name)
            endpoints = tuple(_endpoint(name, place, self.name) for place in sorted(some, key=_task))
            if endpoints:
                found[name] = before if before == endpoints else endpoints
        self._shown = MappingProxyType(found)
        return Snapshot(
            source=self.name,
            services=MappingProxyType(services),
            by_service=self._shown,
            problems=(*self._problems(), *problems),
            complete=self._answered,
        )

    def _merged(self) -> tuple[dict[str, Service], dict[str, set[Place]], list[Problem]]:
        """Put the files together: several may name addresses of one service, and one describes it."""
        services = dict(self._services)
        places: dict[str, set[Place]] = {}
        problems: list[Problem] = []
        first = dict.fromkeys(services, "the configuration")
        for path, file in sorted(self._files.items()):
            for service, listed in file.listed:
                where = f"file {path}, service {service.name}"
                if services.setdefault(service.name, service) != service:
                    what = f"is described otherwise in {first[service.name]}, which counts"
                    problems.append(Problem(where, f"{what}: say the same in both, or give it another name"))
                    continue
                first.setdefault(service.name, path)
                own = {place for place in listed if self._is_own(*place)}
                problems += (
                    Problem(where, f"{_shown(place)} is this very proxy: requests would go round in circles")
                    for place in sorted(own)
                )
                places.setdefault(service.name, set()).update(place for place in listed if place not in own)
        return services, places, problems


def _holds_still(file: _File, look: Look) -> bool:
    """Return whether *file*, which looks like *look* now, is to be read.

    One that was put in the place of another is whole. One that is written where it stands may not be, and has
    to look the same twice.
    """
    if look == file.read:
        return False
    return file.look is None or look.inode != file.look.inode or look == file.look


def _look_around(path: str) -> dict[str, Look] | None:
    """Return the files at *path* and how they look; None if there is no such path."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISDIR(found.st_mode):
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is neither a file nor a folder")
        return {path: _look(found)}
    looks: dict[str, Look] = {}
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.lower().endswith(_SUFFIXES):
                continue
            try:
                found = entry.stat()
            except FileNotFoundError:  # it has just gone, or its link leads nowhere
                continue
            if stat.S_ISREG(found.st_mode):
                looks[entry.path] = _look(found)
            if len(looks) > FILES_MAX:
                raise OSError(errno.E2BIG, f"there are more than {FILES_MAX} files")
    return looks


def _content(path: str) -> tuple[Look | None, bytes]:
    """Return what is in a file, and how it looked all the while; None if it changed meanwhile."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        before = _look(os.fstat(fd))
        if before.size_bytes > BYTES_MAX:
            raise OSError(errno.EFBIG, f"it is larger than {BYTES_MAX // 2**20} MiB")
        data = file.read(BYTES_MAX + 1)
        after = _look(os.fstat(fd))
    return (after if before == after and len(data) == after.size_bytes else None), data


def _look(found: os.stat_result) -> Look:
    return Look(found.st_ino, found.st_size, (found.st_mtime_ns, found.st_ctime_ns))


def _endpoint(service: str, place: Place, source: str) -> Endpoint:
    host, port = place
    return Endpoint(
        service=service,
        task_arn=_task(place),
        container=CONTAINER,
        container_port=port,
        host=host,
        port=port,
        source=source,
    )


def _shown(place: Place) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _task(place: Place) -> str:
    return f"file:{_shown(place)}"
