"""The scoreboard, the table and the sources as Prometheus series.

Series come and go with the table: a service that is gone is no longer shown. Label values are closed
sets or names from the operator's own configuration, never text from a client.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from discovery.model import EVENT_AGES_S
from proxy import native
from proxy.control import status as control_status
from proxy.control.histogram import Histogram
from proxy.control.status import Status
from proxy.errors import ERRORS
from proxy.link import scoreboard as at

_NO_ROWS: Counter[str] = Counter()
_BOUNDS = [f"{bound / 1_000_000:g}" for bound in at.BUCKETS_US]


def registry(
    status: Status, *, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
) -> CollectorRegistry:
    """Return a registry that reads *status* anew for every scrape."""
    made = CollectorRegistry(auto_describe=False)
    made.register(_Collector(status, clock, wall))
    ProcessCollector(registry=made)
    return made


class _Collector(Collector):
    def __init__(self, status: Status, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._status = status
        self._clock = clock
        self._wall = wall

    def collect(self) -> Iterator[Metric]:
        yield from _services(self._status)
        yield from _backends(self._status)
        yield from _workers(self._status, self._clock())
        yield from _proxy_headers(self._status)
        yield from _tls(self._status, self._wall())
        yield from _discovery(self._status, self._clock(), self._wall())
        yield from _events(self._status, self._clock())
        yield from _fleet(self._status, self._clock())
        yield from _latency(self._status)
        yield from _own(self._status)


def _services(status: Status) -> Iterator[Metric]:
    requests = _counter("requests", "Requests answered or cut, by code class.", "service", "method", "code")
    duration = HistogramMetricFamily(
        "anyport_request_duration_seconds",
        "First byte of the request to last byte of the response.",
        labels=["service"],
    )
    in_flight = _gauge("requests_in_flight", "Requests being served now.", "service")
    tunnels = _gauge("tunnels_open", "WebSocket and other upgraded connections open now.", "service")
    failures = _counter("failures", "Requests the proxy failed, by error code.", "service", "code", "reason")
    retries = _counter("retries", "Attempts after the first.", "service")
    sent = _counter("request_bytes", "Body bytes received from clients.", "service")
    received = _counter("response_bytes", "Body bytes sent to clients.", "service")

    for name, slot in _shown(status):
        cells = status.board.totals(slot)
        for row, method in enumerate(at.METHODS):
            for column, code in enumerate(at.CODE_CLASSES):
                count = cells[at.REQUESTS + row * len(at.CODE_CLASSES) + column]
                if count:
                    requests.add_metric([name, method, code], count)
        duration.add_metric([name], _buckets(cells), cells[at.DURATION_SUM_US] / 1_000_000)
        in_flight.add_metric([name], cells[at.IN_FLIGHT])
        tunnels.add_metric([name], cells[at.TUNNELS])
        for error in ERRORS:
            if cells[at.FAILURES + error.slot]:
                failures.add_metric([name, error.code, error.reason], cells[at.FAILURES + error.slot])
        retries.add_metric([name], cells[at.RETRIES])
        sent.add_metric([name], cells[at.REQUEST_BYTES])
        received.add_metric([name], cells[at.RESPONSE_BYTES])
    yield from (requests, duration, in_flight, tunnels, failures, retries, sent, received)


def _shown(status: Status) -> list[tuple[str, int]]:
    """Return (label, slot) of what is shown. Services beyond the last slot are counted under ""."""
    return [("", at.NO_SERVICE)] + [(row.name, row.slot) for row in status.table.services if row.slot]


def _buckets(cells: list[int]) -> list[tuple[str, float]]:
    buckets, sum_so_far = [], 0
    for number, bound in enumerate([*_BOUNDS, "+Inf"]):
        sum_so_far += cells[at.DURATION + number]
        buckets.append((bound, float(sum_so_far)))
    return buckets


def _backends(status: Status) -> Iterator[Metric]:
    backends = _gauge("backends", "Backends by what they may take.", "service", "state")
    counts = status.counts.of(status.table)
    for row in status.table.services:
        for word in ("ready", "draining", "down"):
            backends.add_metric([row.name, word], counts.get(row.name, _NO_ROWS)[word])
    yield backends
    checks = _counter("health_checks", "Active health checks done.", "service", "result")
    for row in status.table.services:
        for result in ("success", "failure"):
            checks.add_metric([row.name, result], status.checks[row.name, result])
    yield checks
    foreign = _counter("identity_failures", "Answers that did not prove whose they are.", "service")
    for row in status.table.services:
        foreign.add_metric([row.name], status.foreign[row.name])
    yield foreign


def _workers(status: Status, now_s: float) -> Iterator[Metric]:
    up = _gauge("worker_up", "1 while the worker shows signs of life.", "worker")
    revision = _gauge("table_revision", "Revision of the table this worker routes by.", "worker")
    for worker in control_status.workers(status, now_s):
        up.add_metric([str(worker.worker)], float(worker.up))
        revision.add_metric([str(worker.worker)], worker.revision)
    yield from (up, revision)
    gauges = (
        (at.CLIENTS, _gauge("client_connections_open", "Client connections open now.", "worker"), 1),
        (at.UPSTREAMS, _gauge("upstream_connections_open", "Backend connections open now.", "worker"), 1),
        (at.DRAINING, _gauge("worker_draining", "1 while the worker drains.", "worker"), 1),
        (
            at.LOOP_LAG_MAX_US,
            _gauge("worker_loop_lag_seconds", "The longest recent stall of the worker's loop.", "worker"),
            1_000_000,
        ),
    )
    counters = (
        (at.STARTS, _counter("worker_starts", "Times a worker was started in this place.", "worker"), 1),
        (at.STALLS, _counter("worker_stalls", "Times a worker stood still for over 0.1 s.", "worker"), 1),
        (at.CLIENTS_TOTAL, _counter("client_connections", "Client connections accepted.", "worker"), 1),
        (at.UPSTREAM_CONNECTS, _counter("upstream_connects", "Backend connections opened.", "worker"), 1),
        (
            at.UPSTREAM_REUSES,
            _counter("upstream_reuses", "Requests sent on a kept backend connection.", "worker"),
            1,
        ),
        (
            at.UPSTREAM_EXTRA_BYTES,
            _counter("upstream_extra_bytes", "Responses with bytes behind their end.", "worker"),
            1,
        ),
        (
            at.UPSTREAM_UNSOLICITED,
            _counter("upstream_unsolicited", "Kept backend connections that spoke unasked.", "worker"),
            1,
        ),
        (
            at.UPSTREAM_CLOSED,
            _counter("upstream_closed", "Kept backend connections that the backend closed.", "worker"),
            1,
        ),
        (
            at.SNAPSHOTS_REJECTED,
            _counter("snapshots_rejected", "Tables a worker could not read.", "worker"),
            1,
        ),
        (
            at.LOG_LINES_DROPPED,
            _counter("log_lines_dropped", "Access log lines nobody took.", "worker"),
            1,
        ),
    )
    for number, head in enumerate(status.board.heads()):
        for offset, family, divisor in (*gauges, *counters):
            family.add_metric([str(number)], head[offset] / divisor)
    for _, family, _ in (*gauges, *counters):
        yield family


def _proxy_headers(status: Status) -> Iterator[Metric]:
    refused = _counter(
        "proxy_protocol_refused", "Connections without a usable PROXY header.", "worker", "reason"
    )
    for number, head in enumerate(status.board.heads()):
        for offset, reason in enumerate(at.PROXY_REFUSALS, at.PROXY_REFUSED):
            refused.add_metric([str(number), reason], head[offset])
    yield refused


def _tls(status: Status, wall_s: float) -> Iterator[Metric]:
    done = _counter("tls_handshakes", "TLS handshakes completed with clients.", "worker")
    failed = _counter("tls_handshake_failures", "TLS handshakes that were not completed.", "worker", "reason")
    rejected = _counter("certificates_rejected", "Pairs of files a worker could not load.", "worker")
    for number, head in enumerate(status.board.heads()):
        done.add_metric([str(number)], head[at.TLS_HANDSHAKES])
        rejected.add_metric([str(number)], head[at.CERTIFICATES_REJECTED])
        for offset, reason in enumerate(at.TLS_FAILURES, at.TLS_FAILED):
            failed.add_metric([str(number), reason], head[offset])
    expiry = _gauge(
        "certificate_expiry_seconds", "Seconds until the certificate expires.", "listener", "certificate"
    )
    for certificate in status.certificates:
        expiry.add_metric([certificate.listener, certificate.cert], certificate.not_after_s - wall_s)
    yield from (done, failed, rejected, expiry)


def _discovery(status: Status, now_s: float, wall_s: float) -> Iterator[Metric]:
    age = _gauge("discovery_age_seconds", "Seconds since the source last answered completely.", "source")
    last = _gauge(
        "discovery_last_success_timestamp_seconds", "Unix time of the last complete answer.", "source"
    )
    refreshes = _counter("discovery_refreshes", "Complete answers of the source.", "source")
    errors = _counter(
        "discovery_errors", "Calls that failed, and answers that were not complete.", "source", "kind"
    )
    calls = _counter("aws_api_calls", "Calls of the AWS API.", "source", "operation")
    for source in status.sources:
        age_s = control_status.age_s(source, now_s)
        if age_s is not None:
            age.add_metric([source.name], age_s)
            last.add_metric([source.name], wall_s - age_s)
        refreshes.add_metric([source.name], source.status.refreshes)
        for kind, count in sorted(source.status.errors.items()):
            errors.add_metric([source.name, kind], count)
        for operation, count in sorted(source.status.calls.items()):
            calls.add_metric([source.name, operation], count)
    # Several clusters may share one queue: its calls are counted once.
    queues = {
        id(events.calls): events.calls for s in status.sources if (events := s.status.events) is not None
    }
    for operation, count in sorted(sum(queues.values(), Counter[str]()).items()):
        calls.add_metric(["events", operation], count)
    yield from (age, last, refreshes, errors, calls)
    yield _alone("discovery_problems", "Mistakes in labels or config that keep something out of the table.",
                 len(status.problems))  # fmt: skip


def _events(status: Status, now_s: float) -> Iterator[Metric]:
    told = _counter("events", "Messages from the queue of events, by what they mean.", "source", "kind")
    fresh = _gauge("events_fresh", "1 while events are trusted to tell of every change.", "source")
    silent = _gauge("events_queue_age_seconds", "Since the queue last answered.", "source")
    age = HistogramMetricFamily(
        "anyport_event_age_seconds", "From the change in ECS to here.", labels=["source"]
    )
    missed = _counter("events_missed", "Changes that no event has told of.", "source")
    gaps = _counter("events_gaps", "Times when events may have been lost; the first is the start.", "source")
    errors = _counter("events_queue_errors", "Calls for events that failed.", "source", "kind")
    for source in status.sources:
        events = source.status.events
        if events is None:
            continue
        for kind, count in sorted(events.kinds.items()):
            told.add_metric([source.name, kind], count)
        for kind, count in sorted(events.errors.items()):
            errors.add_metric([source.name, kind], count)
        missed.add_metric([source.name], events.missed)
        gaps.add_metric([source.name], events.gaps)
        counts = list(accumulate(events.ages[bound] for bound in EVENT_AGES_S))
        bounds = [*(f"{bound:g}" for bound in EVENT_AGES_S[:-1]), "+Inf"]
        age.add_metric([source.name], list(zip(bounds, counts, strict=True)), events.age_sum_s)
        if events.reading:
            fresh.add_metric([source.name], float(events.fresh))
            if events.answered_s is not None:
                silent.add_metric([source.name], round(now_s - events.answered_s, 3))
    yield from (told, fresh, silent, age, missed, gaps, errors)


def _fleet(status: Status, now_s: float) -> Iterator[Metric]:
    leader = _gauge("fleet_leader", "1: asks the AWS API itself; 0: follows another proxy.", "source")
    age = _gauge("fleet_age_seconds", "How old what the leader knows is.", "source")
    peers = _gauge("fleet_peers", "Other proxies of the fleet.", "source")
    changes = _counter("fleet_changes", "Times it began to lead, or to follow another.", "source")
    for source in status.sources:
        fleet = source.status.fleet
        if fleet is None:
            continue
        leader.add_metric([source.name], float(fleet.leads))
        if fleet.leader and fleet.heard_s is not None:
            age.add_metric([source.name], round(now_s - fleet.heard_s + fleet.age_s, 3))
        peers.add_metric([source.name], fleet.peers)
        changes.add_metric([source.name], fleet.changes)
    yield from (leader, age, peers, changes)


def _latency(status: Status) -> Iterator[Metric]:
    yield _durations("task_start_to_routable", "From a task's start to its first table.", status.routable)
    yield _durations("task_stop_to_quiet", "From a stop to the table with nothing new for it.", status.quiet)
    stale = _gauge("source_stale", "1 while what a source knows is old.", "source")
    for source in status.sources:
        stale.add_metric([source.name], float(source.name in status.stale))
    yield stale


def _durations(name: str, text: str, found: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(
        f"anyport_{name}_seconds", text, buckets=found.buckets(), sum_value=found.sum_s
    )


def _own(status: Status) -> Iterator[Metric]:
    yield _alone("table_published_revision", "Revision of the newest table.", status.table.revision)
    yield _alone("table_loaded", "1 once every source has answered.", float(status.table.loaded))
    yield _alone(
        "table_quarantined", "1 while there is a table that is not used.", float(bool(status.quarantine))
    )
    tables = _counter("snapshots", "Tables by what became of them.", "result")
    for result in ("sent", "superseded", "released", "acknowledged"):
        tables.add_metric([result], status.tables[result])
    yield tables
    yield CounterMetricFamily(
        "anyport_snapshots_quarantined",
        "Tables that killed or stopped a worker, or that it could not take.",
        value=status.tables["quarantined"],
    )
    reloads = _counter("config_reloads", "Reloads of the configuration.", "result")
    for result in ("success", "failure"):
        reloads.add_metric([result], status.reloads[result])
    yield reloads
    build = _gauge("build_info", "What is running.", "version", "python", "head")
    build.add_metric([status.version, platform.python_version(), native.kind()], 1)
    yield build


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"anyport_{name}", text, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"anyport_{name}", text, labels=labels)


def _alone(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"anyport_{name}", text, value=value)
