"""What the control process knows about the whole proxy, and whether that makes it ready."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from discovery.identity import NOBODY
from discovery.model import EventStatus, FleetStatus, Problem, Source, SourceStatus
from discovery.static import StaticSource
from discovery.whoami import Whoami
from proxy.control.certificates import Expiry
from proxy.control.compose import state
from proxy.control.histogram import Histogram
from proxy.link import scoreboard
from proxy.link.scoreboard import Scoreboard
from proxy.link.snapshots import EMPTY, BackendRow, TableSnapshot

HEARTBEAT_S: Final = 3.0  # a worker that is restarted is back well within this
APPLY_S: Final = 2.0  # how long a worker may take to follow a new revision
PATIENCE_S: Final = 60.0  # with a source that does not answer, while others have: then what they serve counts


class Counts:
    """How many rows of each service are ready, draining and down; counted again only where that changed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[BackendRow, ...], Counter[str]]] = {}

    def of(self, table: TableSnapshot) -> Mapping[str, Counter[str]]:
        """Return the counts of *table*, by service."""
        before = self._known
        self._known = {}
        for name, rows in table.by_service.items():
            known = before.get(name)
            if known is None or known[0] is not rows:
                known = rows, Counter(state(row) for row in rows)
            self._known[name] = known
        return {name: counts for name, (_, counts) in self._known.items()}


@dataclass(slots=True)
class Status:
    """Written by the control process, read by metrics, /readyz and the API. All times are its clock's."""

    board: Scoreboard
    version: str
    table: TableSnapshot = EMPTY  # the newest that all workers have been given
    published_at_s: float = 0.0  # when they were
    quarantine: str = ""  # which table is not used, and why; "": none
    tables: Counter[str] = field(default_factory=Counter)  # by what became of them
    counts: Counts = field(default_factory=Counts)
    sources: Sequence[Source] = ()
    pending: frozenset[str] = frozenset()  # sources that have not answered yet
    since_s: float = 0.0  # when they were first asked
    stale: frozenset[str] = frozenset()  # sources whose knowledge is old
    problems: tuple[Problem, ...] = ()
    checks: Counter[tuple[str, str]] = field(default_factory=Counter)  # by (service, result)
    foreign: Counter[str] = field(default_factory=Counter)  # by service: answers of somebody else
    routable: Histogram = field(default_factory=Histogram)  # from a task's start
    quiet: Histogram = field(default_factory=Histogram)  # from the order to stop it
    certificates: Sequence[Expiry] = ()
    draining: bool = False
    reloads: Counter[str] = field(default_factory=Counter)  # by "success" or "failure"
    whoami: Whoami = field(default_factory=lambda: Whoami.told(NOBODY))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """One worker as its row of the scoreboard shows it."""

    worker: int
    up: bool
    reason: str  # why it is not up or not current; "" otherwise
    revision: int
    heartbeat_age_s: float | None  # None: it has never started


def workers(status: Status, now_s: float) -> list[WorkerState]:
    """Return the state of each worker at *now_s*, a monotonic time."""
    return [
        _worker(number, head, status.table.revision, now_s - status.published_at_s, now_s)
        for number, head in enumerate(status.board.heads())
    ]


def _worker(
    number: int, head: memoryview[int], published: int, published_age_s: float, now_s: float
) -> WorkerState:
    revision, beat_ms = head[scoreboard.REVISION], head[scoreboard.HEARTBEAT_MS]
    if not head[scoreboard.PID] or not beat_ms:
        return WorkerState(
            worker=number, up=False, reason="not started", revision=revision, heartbeat_age_s=None
        )
    age_s = max(0.0, now_s - beat_ms / 1000)
    up = age_s < HEARTBEAT_S
    reason = ""
    if not up:
        reason = f"no sign of life for {age_s:.0f} s"
    elif revision < published and published_age_s > APPLY_S:
        reason = f"still on revision {revision}, {published} is published"
    return WorkerState(
        worker=number, up=up, reason=reason, revision=revision, heartbeat_age_s=round(age_s, 3)
    )


def readiness(status: Status, now_s: float) -> dict[str, Any]:
    """Return the answer of /readyz. It is ready if `reasons` is empty.

    A source that fails now does not make it unready: the last table still serves.
    """
    found = workers(status, now_s)
    reasons = ["draining: this process has been told to stop"] if status.draining else []
    if not status.table.loaded and not _serves_in_part(status, now_s):
        reasons += [f"table not loaded: {_waiting(source)}" for source in _pending(status)]
        reasons = reasons or ["table not loaded"]
    reasons += [f"worker {worker.worker}: {worker.reason}" for worker in found if worker.reason]
    return {
        "ready": not reasons,
        "reasons": reasons,
        "draining": status.draining,
        "table": {
            "loaded": status.table.loaded,
            "revision": status.table.revision,
            "services": len(status.table.services),
            "backends": sum(status.counts.of(status.table).values(), Counter()),
            "quarantine": status.quarantine,
        },
        "workers": [
            {
                "worker": worker.worker,
                "up": worker.up,
                "revision": worker.revision,
                "heartbeat_age_s": worker.heartbeat_age_s,
            }
            for worker in found
        ],
        "sources": sources(status, now_s),
        "problems": [{"where": problem.where, "what": problem.what} for problem in status.problems],
    }


def sources(status: Status, now_s: float) -> list[dict[str, Any]]:
    """Return how fresh each source is. `error` says what is wrong and what to do; "" after a success."""
    return [
        {
            "source": source.name,
            "answered": source.name not in status.pending,
            "age_s": age_s(source, now_s),
            "error": source.status.last_error,
            **_events(source.status.events, now_s),
            **_fleet(source.status.fleet, now_s),
        }
        for source in status.sources
    ]


def _events(events: EventStatus | None, now_s: float) -> dict[str, Any]:
    """Return what is heard by events, nothing where there is no queue or another proxy reads it."""
    if events is None or not events.reading:
        return {}
    answered_s = events.answered_s
    return {
        "events": {
            "trusted": events.fresh,
            "heard": sum(events.kinds.values()),
            "not_understood": events.kinds["unknown"],
            "missed": events.missed,
            "answered_s": None if answered_s is None else round(max(0.0, now_s - answered_s), 3),
            "error": events.last_error,
        }
    }


def _fleet(fleet: FleetStatus | None, now_s: float) -> dict[str, Any]:
    """Return our part in the fleet, nothing for a proxy that is alone."""
    if fleet is None:
        return {}
    heard_s = fleet.heard_s if fleet.leader else None
    return {
        "fleet": {
            "role": "leads" if fleet.leads else "follows" if fleet.leader else "looks for a leader",
            "leader": fleet.leader,
            "lag_s": None if heard_s is None else round(max(0.0, now_s - heard_s) + fleet.age_s, 3),
            "peers": fleet.peers,
            "error": fleet.last_error,
        }
    }


def ourselves(status: Status) -> dict[str, str]:
    """Return who this proxy is; "" for what it does not know (yet)."""
    me = status.whoami.identity
    return {
        "cluster": me.cluster,
        "service": me.service,
        "task": me.task_arn,
        "instance": me.ec2_id or me.instance_arn,
        "address": me.address,
        "zone": me.zone,
    }


def confirmed_s(status: SourceStatus, else_s: float) -> float:
    """Return as of when a source's knowledge is, *else_s* if it has never answered."""
    if status.asked_s is not None:
        return status.asked_s
    return status.last_success_s if status.last_success_s is not None else else_s


def age_s(source: Source, now_s: float) -> float | None:
    """Return the seconds since *source* last answered completely, None if it never has."""
    if isinstance(source, StaticSource):
        return 0.0  # a list in the config does not age
    last_s = source.status.last_success_s
    return None if last_s is None else round(max(0.0, now_s - last_s), 3)


def _serves_in_part(status: Status, now_s: float) -> bool:
    """Return whether some sources have answered and the others had long enough: each fails alone."""
    return len(status.pending) < len(status.sources) and now_s - status.since_s > PATIENCE_S


def _pending(status: Status) -> list[Source]:
    return [source for source in status.sources if source.name in status.pending]


def _waiting(source: Source) -> str:
    return f"{source.name}: {source.status.last_error or 'no complete answer yet'}"
