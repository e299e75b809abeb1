"""Every check of a soak finds what it is there for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.soak.evidence import GAUGES, Evidence, Series, at_rest, breaches, growth, series, table

MB = 1_000_000
PAGE = """\
# TYPE anyport_client_connections_open gauge
anyport_client_connections_open{worker="0"} 0.0
# TYPE anyport_failures_total counter
anyport_failures_total{service="steady",code="C07",reason="client_gone"} 3.0
"""


def _clean() -> Evidence:
    """Return what a run without fault would have seen."""
    names = ("supervisor", "control", "worker 0", "worker 1")
    metrics: Series = {(name, ("0",)): 0.0 for name in GAUGES}
    metrics["anyport_worker_starts_total", ("0",)] = 2.0
    metrics["anyport_worker_starts_total", ("1",)] = 1.0
    metrics["anyport_failures_total", ("C07", "client_gone", "steady")] = 7.0
    return Evidence(
        baseline=dict.fromkeys(names, 20),
        left=dict.fromkeys(names, 20),
        memory={name: [30 * MB] * 9 for name in names},
        metrics=metrics,
        killed=1,
        requests=100,
        requests_min=100,
    )


def test_a_clean_run_is_clean() -> None:
    assert breaches(_clean()) == []
    assert "nothing has leaked" in table(_clean())


def _descriptor(seen: Evidence) -> None:
    seen.left["worker 1"] = 21


def _dead(seen: Evidence) -> None:
    del seen.left["control"]


def _gauge(seen: Evidence) -> None:
    seen.metrics["anyport_tunnels_open", ("web",)] = 1.0


def _no_gauge(seen: Evidence) -> None:
    del seen.metrics["anyport_requests_in_flight", ("0",)]


def _growth(seen: Evidence) -> None:
    seen.memory["worker 0"] = [30 * MB] * 6 + [34 * MB + 1] * 3


def _seldom(seen: Evidence) -> None:
    seen.memory["worker 0"] = [30 * MB] * 5


def _bug(seen: Evidence) -> None:
    seen.metrics["anyport_failures_total", ("P01", "internal", "")] = 1.0


def _failure(seen: Evidence) -> None:
    seen.metrics["anyport_failures_total", ("X05", "response_truncated", "steady")] = 1.0


def _crash(seen: Evidence) -> None:
    seen.metrics["anyport_worker_starts_total", ("1",)] = 2.0


def _trace(seen: Evidence) -> None:
    seen.log = "Traceback (most recent call last):\n  oh"


def _complaint(seen: Evidence) -> None:
    seen.wrong = ["single: another echo"]


def _idle(seen: Evidence) -> None:
    seen.requests = 99


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (_descriptor, "worker 1 has 21 descriptors"), (_dead, "control is gone"),
        (_gauge, "anyport_tunnels_open['web'] is 1"), (_no_gauge, "not among the metrics"),
        (_growth, "worker 0 has grown by 4.0 MB"), (_seldom, "only 5 times"), (_bug, "P01 internal"),
        (_failure, "X05 response_truncated of service steady"), (_crash, "started 4 times instead of 3"),
        (_trace, "traceback"), (_complaint, "another echo"), (_idle, "only 99 requests"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(spoil: Callable[[Evidence], None], word: str) -> None:
    seen = _clean()
    spoil(seen)
    (found,) = breaches(seen)
    assert word in found
    assert found in table(seen)


def test_five_percent_of_a_large_process_are_not_a_leak() -> None:
    seen = _clean()
    seen.memory["control"] = [100 * MB] * 6 + [105 * MB] * 3
    assert breaches(seen) == []


def test_the_thirds_of_a_run() -> None:
    assert growth([9, 9, 1, 3, 5, 7]) == (2.0, 6.0)


def test_a_page_of_metrics() -> None:
    read = series(PAGE)
    assert read == {
        ("anyport_client_connections_open", ("0",)): 0.0,
        ("anyport_failures_total", ("C07", "client_gone", "steady")): 3.0,
    }
    assert at_rest(read)
    assert not at_rest(series(PAGE.replace('"0"} 0.0', '"0"} 1.0')))
