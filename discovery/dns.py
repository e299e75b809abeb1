"""DNS names as a source: asked again when their answers run out, and what leaves an answer drains.

So anyport can stand in front of an internal ELB, whose addresses change and whose old ones still answer for
a while. No answer, and a broken one, change nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from discovery.dns_answers import Answers
from discovery.dns_names import Answer, Name, Place
from discovery.model import DiscoveryError, Endpoint, Problem, Service, Snapshot, SourceStatus, Told

CONTAINER: Final = "dns"
_HURRY_S: Final = 1.0  # between two questions about one name, however much we are asked to hurry

log = logging.getLogger("anyport.discovery")

Ask = Callable[[Name], Awaitable[Answer]]


@dataclass(slots=True, eq=False)
class _Watched:
    name: Name
    answers: Answers
    asked_s: float = float("-inf")
    told_at_s: float = 0.0  # Unix time
    trouble: str = ""
    task: asyncio.Task[None] | None = None  # the question that is on its way


class DnsSource:
    """Resolves names and follows what they mean.

    *ask* looks a name up (`dns_lookup.Lookup.ask`); *is_own* says whether an address is one that this very
    proxy listens on. A backend is named by its address alone: two names for one place are one backend.
    """

    def __init__(
        self,
        services: Sequence[tuple[Service, Sequence[Name]]],
        *,
        ask: Ask,
        is_own: Callable[[str, int], bool],
        ttl_max_s: float,
        name: str = "dns",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.status = SourceStatus(stale_after_s=2 * ttl_max_s)
        self._ask = ask
        self._is_own = is_own
        self._clock = clock
        self._wall = wall
        self._services = {service.name: (service, tuple(dict.fromkeys(names))) for service, names in services}
        every = dict.fromkeys(name for _, names in self._services.values() for name in names)
        self._watched = {name: _Watched(name, Answers(ttl_max_s)) for name in every}
        self._named = MappingProxyType({name: service for name, (service, _) in self._services.items()})
        self._shown: Mapping[str, tuple[Endpoint, ...]] = MappingProxyType({})
        self._wake: asyncio.Future[None] | None = None

    async def watch(self) -> AsyncIterator[Snapshot]:
        """Yield what is known after every change; incomplete until each name has had an answer."""
        newest: Snapshot | None = None
        try:
            while True:
                self._begin()
                snapshot = self._snapshot()
                if snapshot != newest and (snapshot.by_service or snapshot.complete):
                    newest = snapshot
                    yield snapshot
                self._wake = asyncio.get_running_loop().create_future()
                asking = [watched.task for watched in self._watched.values() if watched.task is not None]
                await asyncio.wait(
                    {self._wake, *asking}, timeout=self._pause_s(), return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            asking = [watched.task for watched in self._watched.values() if watched.task is not None]
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    def hurry(self, task_arn: str = "") -> None:
        """Ask about every name again: the one in doubt may be the one that has moved."""
        for watched in self._watched.values():
            watched.answers.due_s = min(watched.answers.due_s, watched.asked_s + _HURRY_S)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def told(self, task_arn: str) -> tuple[Told, ...]:
        """Return which names lead to an address, or did until lately."""
        found = []
        for watched in self._watched.values():
            for places, what in ((watched.answers.current, "is here"), (watched.answers.leaving, "was here")):
                if any(_task(place) == task_arn for place in places):
                    found.append(Told(self.name, f"{watched.name} {what}", watched.told_at_s))
        return tuple(sorted(found, key=lambda told: -told.at_s))

    def _begin(self) -> None:
        """Let go of what is over, and ask about every name whose time has come."""
        now_s = self._clock()
        for watched in self._watched.values():
            watched.answers.expire(now_s)
            if watched.task is not None and watched.task.done():
                watched.task = None
            if watched.task is None and watched.answers.due_s <= now_s:
                watched.task = asyncio.create_task(self._look(watched), name=f"resolve {watched.name}")

    async def _look(self, watched: _Watched) -> None:
        """Ask about one name, and take what comes of it."""
        answers, status = watched.answers, self.status
        asked_s = watched.asked_s = self._clock()
        try:
            answer = await self._ask(watched.name)
        except DiscoveryError as error:
            answers.miss(self._clock())
            status.errors[error.kind] += 1
            self._note(watched, str(error))
            return
        except Exception as exc:
            log.exception("%s: %s; its last answer still stands", self.name, watched.name)
            answers.miss(self._clock())
            status.errors["other"] += 1
            self._note(
                watched, f"{watched.name}: internal error ({type(exc).__name__}); the log has the details"
            )
            return
        answers.learn(answer, asked_s, self._clock())
        watched.told_at_s = self._wall()
        self._note(watched, "")
        status.refreshes += 1
        since = [w.answers.answered_s for w in self._watched.values()]
        oldest_s = min((at for at in since if at is not None), default=None) if None not in since else None
        status.asked_s = status.last_success_s = oldest_s

    def _note(self, watched: _Watched, trouble: str) -> None:
        """Say once what is wrong with a name, and once that it is over."""
        if trouble and not watched.trouble:
            log.warning("%s: %s", self.name, trouble)
        elif watched.trouble and not trouble:
            log.info("%s: %s is answered again", self.name, watched.name)
        watched.trouble = trouble
        self.status.last_error = next((w.trouble for w in self._watched.values() if w.trouble), "")

    def _pause_s(self) -> float | None:
        """Return how long there is nothing to begin and nothing to let go of."""
        everything = self._watched.values()
        times = [watched.answers.due_s for watched in everything if watched.task is None]
        times += (until_s for watched in everything for until_s in watched.answers.leaving.values())
        return max(0.0, min(times) - self._clock()) if times else None

    # From answers to facts

    def _snapshot(self) -> Snapshot:
        problems: list[Problem] = []
        found: dict[str, tuple[Endpoint, ...]] = {}
        for name, (service, names) in sorted(self._services.items()):
            endpoints = tuple(self._endpoints(service, [self._watched[n] for n in names], problems))
            before = self._shown.get(name)
            if endpoints:
                found[name] = before if before == endpoints else endpoints
        self._shown = MappingProxyType(found)
        return Snapshot(
            source=self.name,
            services=self._named,
            by_service=self._shown,
            problems=tuple(problems),
            complete=all(w.answers.answered_s is not None for w in self._watched.values()),
        )

    def _endpoints(
        self, service: Service, names: Sequence[_Watched], problems: list[Problem]
    ) -> Iterator[Endpoint]:
        current: dict[Place, str] = {}
        leaving: dict[Place, str] = {}
        for watched in names:
            where = f"service {service.name}, DNS name {watched.name}"
            if watched.answers.empty:
                problems.append(Problem(where, "has no address in DNS: check how it is written"))
            for place in sorted(watched.answers.current):
                fault = self._fault(place)
                if fault:
                    problems.append(Problem(where, fault))
                else:
                    current[place] = str(watched.name)
            leaving |= {place: str(watched.name) for place in watched.answers.leaving}
        for place in sorted(current.keys() | leaving.keys(), key=_task):
            if place in current:
                yield self._endpoint(service, place, "")
            elif not self._fault(place):
                yield self._endpoint(service, place, f"{leaving[place]} no longer leads here")

    def _fault(self, place: Place) -> str:
        """Return why nothing may be sent to *place*, or ""."""
        ip = ipaddress.ip_address(place[0])
        if self._is_own(*place):
            return f"is this very proxy ({_shown(place)}): requests would go round in circles"
        if ip.is_unspecified or ip.is_multicast or ip.is_link_local:
            return f"leads to {_shown(place)}, where no backend can be"
        return ""

    def _endpoint(self, service: Service, place: Place, reason: str) -> Endpoint:
        host, port = place
        return Endpoint(
            service=service.name,
            task_arn=_task(place),
            container=CONTAINER,
            container_port=port,
            host=host,
            port=port,
            draining=bool(reason),
            reason=reason,
            source=self.name,
        )


def _shown(place: Place) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _task(place: Place) -> str:
    return f"dns:{_shown(place)}"
