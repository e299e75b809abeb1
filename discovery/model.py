"""What runs where: the immutable facts of discovery, and the vocabulary of the whole project."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol


class BackendKey(NamedTuple):
    """Who a backend *is*. Its ip:port is only where it answers today: ECS reuses ports within seconds."""

    task_arn: str
    container: str
    container_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How the control process finds out whether a backend of a service can serve."""

    kind: Literal["http", "tcp", "none"] = "http"
    path: str = "/"
    interval_s: float = 5.0
    timeout_s: float = 2.0
    healthy_threshold: int = 1  # consecutive successes that make a backend healthy
    unhealthy_threshold: int = 3  # consecutive failures that make it unhealthy
    host: str = ""  # Host header of the check; "" sends the service's first exact host name
    statuses: tuple[int, int] = (200, 399)  # inclusive range of answers that count as a success
    # Proof that the right task answers: this header of the answer, or its body, must name the service or
    # echo the task (its ARN or id).
    identity_header: str = ""  # "": not asked for
    identity_body: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How the backends of a service are spoken to over TLS, and what their certificate must prove."""

    name: str = ""  # the certificate must be for it, and it is asked for (SNI); "": only without `verify`
    verify: bool = True  # False: whoever answers is believed
    ca: str = ""  # PEM file of those who may have signed it; "": the system's
    cert: str = ""  # PEM file: the certificate by which this proxy is known to them; "": none
    key: str = ""  # PEM file: its key


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a client asks for, and which requests mean it."""

    name: str
    hosts: tuple[str, ...] = ()  # lower case: "web.example.com", "*.example.com", or "*" for any host
    path: str = "/"  # prefix on segment boundaries: "/api" means /api and /api/..., never /apifoo
    health: HealthCheck = HealthCheck()
    tls: Tls | None = None  # None: its backends are spoken to in plain
    origin: str = "config"  # where this was said, for the operator: "config", "task-definition/web:42 labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One container port of one task: where it answers, and what ECS says of it."""

    service: str
    task_arn: str
    container: str
    container_port: int
    host: str  # an IP literal: names are resolved inside discovery
    port: int  # the port that answers on `host`
    draining: bool = False  # keep what it has, start nothing new
    starting: bool = False  # not yet: its container's own health check has not passed
    reason: str = ""  # why it drains or only starts; "" while it does neither
    source: str = ""  # name of the source that tells of it
    zone: str = ""
    instance: str = ""  # EC2 instance id; "" on Fargate and for static addresses
    release: str = ""  # ECS deployment id, else task definition revision
    started_at: float = 0.0  # Unix time; the newer start wins a claim on one ip:port
    version: int = 0  # the task's `version` counter: monotonic, not dense
    stopping_at: float = 0.0  # Unix time at which the stop was ordered; 0: it was not, or nobody has said

    @property
    def key(self) -> BackendKey:
        return BackendKey(self.task_arn, self.container, self.container_port)

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the operator's hands that keeps a service or task out of the table."""

    where: str  # "task-definition/web:42, container app, label anyport.port"
    what: str  # what is wrong, and what to write instead


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything known at one moment, never a delta.

    From a `Source` it is what that one source knows; from `BackendTable` it is the merged table. Two
    snapshots share what did not change between them: a service whose endpoints are the same object as
    before needs no second look. So a change costs what has changed, not what there is.

    While `complete` is False, the source's first answer is still being read: its endpoints may be used,
    but what it lacks proves nothing, and the source does not count as having answered.
    """

    source: str
    services: Mapping[str, Service] = field(default_factory=lambda: MappingProxyType({}))
    by_service: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[Problem, ...] = ()
    # Services whose tasks are all being stopped while others are on their way: the last word is not spoken.
    awaited: frozenset[str] = frozenset()
    complete: bool = True

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All endpoints, service by service. Made anew each time: not for the way of every change."""
        return tuple(chain.from_iterable(self.by_service.values()))


def by_service(endpoints: Iterable[Endpoint]) -> Mapping[str, tuple[Endpoint, ...]]:
    """Return *endpoints* by service, both in the order of their names."""
    found: dict[str, list[Endpoint]] = {}
    for endpoint in sorted(endpoints, key=lambda e: (e.service, e.key)):
        found.setdefault(endpoint.service, []).append(endpoint)
    return MappingProxyType({name: tuple(some) for name, some in found.items()})


class Told(NamedTuple):
    """The newest word of one informant on one task."""

    by: str  # "api", "events", "agent", "leader 4d590253", "disk", ...
    what: str  # "RUNNING, version 3"
    at_s: float  # Unix time at which it was heard


# Upper bounds of the ages by which events are counted.
EVENT_AGES_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, math.inf)


@dataclass(slots=True)
class EventStatus:
    """What a queue of events has told of one cluster; written by the feed, read by metrics."""

    kinds: Counter[str] = field(default_factory=Counter)  # events by kind, "unknown" and "foreign" too
    ages: Counter[float] = field(default_factory=Counter)  # by bound of `EVENT_AGES_S`; not summed up
    age_sum_s: float = 0.0  # of them all, from the change in ECS to here
    last_s: float | None = None  # when the last event of the cluster came (monotonic)
    answered_s: float | None = None  # when the queue last answered, if only that there is nothing
    reading: bool = False  # False: another proxy of the fleet reads, and tells us
    fresh: bool = False  # whether events are believed to tell of every change
    gaps: int = 0  # times when events may have been lost: at the start, after an outage
    missed: int = 0  # changes that no event has told of
    errors: Counter[str] = field(default_factory=Counter)  # by kind, as in DiscoveryError
    last_error: str = ""  # "" after a success
    calls: Counter[str] = field(default_factory=Counter)  # of SQS and SNS, for all clusters of the queue


@dataclass(slots=True)
class FleetStatus:
    """Our part in the fleet for one cluster: written by who follows, read by metrics and /readyz."""

    leads: bool = False  # asks the API itself, for all who follow
    leader: str = ""  # the task we follow (ARN); "" while we lead, or look for one
    peers: int = 0  # other proxies of the fleet, as far as we know
    changes: int = 0  # times we began to lead, or to follow another
    heard_s: float | None = None  # when a leader last answered (monotonic)
    age_s: float = 0.0  # how old that was then which it knows
    last_error: str = ""  # why the last one we asked is no leader; "" while we follow one


@dataclass(slots=True)
class SourceStatus:
    """How fresh a source's knowledge is; written by the source, read by metrics and /readyz."""

    last_success_s: float | None = None  # clock of the source (monotonic); None: never
    asked_s: float | None = None  # when the question behind the newest complete answer was asked
    last_error: str = ""  # "" after a success
    errors: Counter[str] = field(default_factory=Counter)  # by kind: throttled, denied, unreachable, ...
    refreshes: int = 0  # complete answers so far
    calls: Counter[str] = field(default_factory=Counter)  # API calls by operation
    fleet: FleetStatus | None = None  # None: this proxy is alone
    stale_after_s: float = math.inf  # what was last confirmed longer ago wants proof before it is used
    events: EventStatus | None = None  # None: no queue of events is read


class Source(Protocol):
    """Somewhere endpoints come from: the ECS API, a static list, a DNS name."""

    @property
    def name(self) -> str: ...

    @property
    def status(self) -> SourceStatus: ...

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield a snapshot as soon as one is known, then one after every change, until cancelled.

        A failed or half-finished query yields nothing: stale endpoints can still answer, missing
        ones cannot. Errors are counted in `status` and never raised.
        """
        ...

    def hurry(self, task_arn: str = "") -> None:
        """Ask again soon, within what the API's budget allows: something has changed.

        With *task_arn*, that task is in doubt and is looked at before all else.
        """
        ...

    def told(self, task_arn: str) -> Sequence[Told]:
        """Return who has said what about a task, newest first; () for one this source does not know."""
        ...


class DiscoveryError(Exception):
    """A source could not give a complete answer; the last one still stands.

    `kind` is a metric label from a closed set: throttled, denied, expired, unreachable, timeout,
    missing_cluster, missing_queue, no_credentials, malformed, partial, other. The text says what to do.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
