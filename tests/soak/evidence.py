"""What a soak has seen, and what of it must not be: pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

LOOKS_MIN: Final = 6  # at the memory of a process
GROWTH_BYTES_MAX: Final = 4_000_000  # of a process, from the middle third of the run to the last one, ...
GROWTH_SHARE_MAX: Final = 0.05  # ... or so much of it, if that is more

# What has to be 0 again when nobody asks anything any more.
GAUGES: Final = (
    "anyport_client_connections_open",
    "anyport_upstream_connections_open",
    "anyport_requests_in_flight",
    "anyport_tunnels_open",
)
# Failures that the clients and backends of a soak bring about; any other one is the proxy's.
EXPECTED: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset(("bad_request", "host_missing", "head_too_large")),
    "steady": frozenset(("client_gone", "bad_request")),
    "churn": frozenset(
        ("client_gone", "closed_before_response", "connect_refused", "none_ready", "response_malformed",
         "response_truncated", "stale_connection", "task_stopped_midflight")
    ),
    "rude": frozenset(
        ("closed_before_response", "response_malformed", "response_truncated", "stale_connection")
    ),
}  # fmt: skip

Series = dict[tuple[str, tuple[str, ...]], float]  # (name, values of the labels in the order of their names)


@dataclass
class Evidence:
    """What was measured. Processes go by their name, such as "worker 0"."""

    baseline: dict[str, int] = field(default_factory=dict)  # open descriptors before the load
    left: dict[str, int] = field(default_factory=dict)  # after it
    memory: dict[str, list[int]] = field(default_factory=dict)  # bytes, each second
    metrics: Series = field(default_factory=dict)  # after the load
    killed: int = 0  # workers
    wrong: Sequence[str] = ()  # what clients have complained about
    requests: int = 0
    requests_min: int = 0
    log: str = ""


def series(text: str) -> Series:
    """Return the samples of a page of metrics."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def at_rest(metrics: Series) -> bool:
    """Whether no connection and no request is left."""
    return not any(_open(metrics))


def failures(metrics: Series) -> Iterator[tuple[str, str, str, float]]:
    """Yield (service, code, reason, count) of what the proxy has failed; "" is no service."""
    for (name, labels), value in sorted(metrics.items()):
        if name == "anyport_failures_total" and value:
            code, reason, service = labels
            yield service, code, reason, value


def growth(memory: Sequence[int]) -> tuple[float, float]:
    """Return the means of the middle and of the last third of *memory*."""
    third = len(memory) // 3
    return fmean(memory[third : 2 * third]), fmean(memory[2 * third :])


def breaches(seen: Evidence) -> list[str]:
    """Return what must not be, a sentence each."""
    return [*_leaks(seen), *_growths(seen), *_failures(seen), *_complaints(seen)]


def _open(metrics: Series) -> Iterator[str]:
    for (name, labels), value in metrics.items():
        if name in GAUGES and value:
            yield f"{name}{list(labels)} is {value:g} after the load"


def _leaks(seen: Evidence) -> Iterator[str]:
    for name, before in seen.baseline.items():
        after = seen.left.get(name)
        if after is None:
            yield f"{name} is gone"
        elif after > before:
            yield f"{name} has {after} descriptors open, {after - before} more than before the load"
    for gauge in GAUGES:
        if not any(name == gauge for name, _ in seen.metrics):
            yield f"{gauge} is not among the metrics"
    yield from _open(seen.metrics)


def _growths(seen: Evidence) -> Iterator[str]:
    for name, memory in seen.memory.items():
        if len(memory) < LOOKS_MIN:
            yield f"the memory of {name} was measured only {len(memory)} times"
            continue
        middle, last = growth(memory)
        if last - middle > max(GROWTH_BYTES_MAX, GROWTH_SHARE_MAX * middle):
            yield f"{name} has grown by {(last - middle) / 1e6:.1f} MB from one third of the run to the next"


def _failures(seen: Evidence) -> Iterator[str]:
    for service, code, reason, count in failures(seen.metrics):
        if reason not in EXPECTED.get(service, ()):
            yield f"{count:g} failures {code} {reason} of service {service or '(none)'}"
    starts = sum(value for (name, _), value in seen.metrics.items() if name == "anyport_worker_starts_total")
    workers = sum(1 for name in seen.baseline if name.startswith("worker"))
    if starts != workers + seen.killed:
        yield f"workers were started {starts:g} times instead of {workers + seen.killed}"
    if "Traceback" in seen.log:
        yield f"a traceback in the log: {seen.log[seen.log.index('Traceback') :][:2000]}"


def _complaints(seen: Evidence) -> Iterator[str]:
    yield from seen.wrong
    if seen.requests < seen.requests_min:
        yield f"only {seen.requests} requests in all, fewer than {seen.requests_min}"


def table(seen: Evidence) -> str:
    """Return what was seen, for people."""
    lines = [f"{'process':<12}{'descriptors':>12}{'after':>8}{'MB, middle':>12}{'MB, last':>10}{'peak':>8}"]
    for name, before in seen.baseline.items():
        memory = seen.memory.get(name, [0])
        middle, last = growth(memory) if len(memory) >= LOOKS_MIN else (0.0, 0.0)
        lines.append(
            f"{name:<12}{before:>12}{seen.left.get(name, 0):>8}{middle / 1e6:>12.2f}{last / 1e6:>10.2f}"
            f"{max(memory) / 1e6:>8.2f}"
        )
    failed = ", ".join(
        f"{reason} of {service or 'none'} {count:g}" for service, _, reason, count in failures(seen.metrics)
    )
    lines.append(f"{seen.requests} requests; failures: {failed or 'none'}")
    found = [f"NOT RIGHT: {breach}" for breach in breaches(seen)]
    return "\n".join([*lines, *(found or ["nothing has leaked, grown or failed without a reason"])])
