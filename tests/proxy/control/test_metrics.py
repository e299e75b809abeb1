"""The exposition: what it says, and that it keeps the rules of Prometheus' naming."""

from __future__ import annotations

import math
import re
from collections import Counter

import pytest
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from discovery.model import EventStatus, FleetStatus
from proxy import native
from proxy.control.metrics import registry
from proxy.control.status import Status
from proxy.errors import CONNECT_REFUSED
from proxy.link import scoreboard as at
from tests.kit.status import NOW_S, a_status


@pytest.fixture
def status() -> Status:
    made = a_status()
    for row in range(2):
        block = made.board.begin_block(row, 1)
        get, post = at.METHODS.index("GET"), at.METHODS.index("POST")
        block[at.REQUESTS + get * len(at.CODE_CLASSES) + at.CODE_CLASSES.index("2xx")] = 10
        block[at.REQUESTS + post * len(at.CODE_CLASSES) + at.CODE_CLASSES.index("5xx")] = 1
        block[at.DURATION] = 4  # up to 1 ms
        block[at.DURATION + 2] = 6  # up to 5 ms
        block[at.DURATION + len(at.BUCKETS_US)] = 1  # over a minute
        block[at.DURATION_SUM_US] = 61_000_000
        block[at.IN_FLIGHT] = 3
        block[at.FAILURES + CONNECT_REFUSED.slot] = 2
    made.board.begin_block(0, 2)[at.RETRIES] = 99  # a service that is no longer in the table
    made.checks["web", "success"] = 7
    return made


def families(status: Status) -> dict[str, Metric]:
    series = registry(status, clock=lambda: NOW_S, wall=lambda: 1_700_000_000.0)
    return {family.name: family for family in parse(generate_latest(series).decode())}


def values(family: Metric) -> dict[tuple[str, ...], float]:
    """Return the samples by name and label values, the latter in the alphabetical order of their labels."""
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for sample in family.samples
    }


def test_counts_are_summed_over_the_workers(status: Status) -> None:
    found = families(status)

    assert values(found["anyport_requests"]) == {
        ("anyport_requests_total", "2xx", "GET", "web"): 20.0,
        ("anyport_requests_total", "5xx", "POST", "web"): 2.0,
    }
    assert values(found["anyport_failures"]) == {
        ("anyport_failures_total", "U01", "connect_refused", "web"): 4.0
    }
    assert values(found["anyport_requests_in_flight"])["anyport_requests_in_flight", "web"] == 6.0


def test_the_histogram_is_cumulative(status: Status) -> None:
    found = values(families(status)["anyport_request_duration_seconds"])
    name = "anyport_request_duration_seconds"

    assert found[f"{name}_bucket", "0.001", "web"] == 8.0
    assert found[f"{name}_bucket", "0.0025", "web"] == 8.0
    assert found[f"{name}_bucket", "0.005", "web"] == 20.0
    assert found[f"{name}_bucket", "60", "web"] == 20.0
    assert found[f"{name}_bucket", "+Inf", "web"] == found[f"{name}_count", "web"] == 22.0
    assert found[f"{name}_sum", "web"] == 122.0


def test_only_services_of_the_table_are_shown_and_requests_of_none(status: Status) -> None:
    retries = values(families(status)["anyport_retries"])

    assert retries == {("anyport_retries_total", ""): 0.0, ("anyport_retries_total", "web"): 0.0}


def test_backends_checks_and_revisions(status: Status) -> None:
    found = families(status)

    assert values(found["anyport_backends"]) == {
        ("anyport_backends", "web", "ready"): 1.0,
        ("anyport_backends", "web", "draining"): 1.0,
        ("anyport_backends", "web", "down"): 1.0,
    }
    assert values(found["anyport_health_checks"]) == {
        ("anyport_health_checks_total", "success", "web"): 7.0,
        ("anyport_health_checks_total", "failure", "web"): 0.0,
    }
    assert values(found["anyport_table_revision"]) == {
        ("anyport_table_revision", "0"): 5.0,
        ("anyport_table_revision", "1"): 5.0,
    }
    (build,) = found["anyport_build_info"].samples
    assert (build.labels["version"], build.labels["head"], build.value) == ("1.2.3", native.kind(), 1.0)


def test_the_age_of_knowledge(status: Status) -> None:
    found = families(status)

    assert values(found["anyport_discovery_age_seconds"]) == {
        ("anyport_discovery_age_seconds", "ecs:prod"): 3.0
    }
    (last,) = found["anyport_discovery_last_success_timestamp_seconds"].samples
    assert last.value == 1_700_000_000.0 - 3
    assert values(found["anyport_discovery_errors"]) == {
        ("anyport_discovery_errors_total", "throttled", "ecs:prod"): 1.0
    }
    assert values(found["anyport_aws_api_calls"]) == {
        ("anyport_aws_api_calls_total", "ListTasks", "ecs:prod"): 10.0
    }


def test_names_keep_the_rules(status: Status) -> None:
    """The rules `promtool check metrics` applies, and those of the naming page it does not."""
    for name, family in families(status).items():
        assert re.fullmatch(r"(anyport|process)_[a-z0-9_]+", name), name
        assert family.documentation, name
        assert not re.search(r"_(ms|us|millis|kb|mb|created)(_|$)", name), f"{name}: base units only"
        assert not re.search(r"_(counter|gauge|histogram)$", name), name
        assert family.type != "unknown", name
        for sample in family.samples:
            assert not sample.name.endswith("_created"), sample.name
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert all(re.fullmatch(r"[a-z_]+", label) for label in sample.labels), sample.labels


def test_it_is_valid_openmetrics_too(status: Status) -> None:
    text = generate_openmetrics(registry(status)).decode()

    assert any(family.name == "anyport_requests" for family in parse_openmetrics(text))
    assert "_created" not in text


def test_what_comes_by_a_queue_of_events(status: Status) -> None:
    assert not families(status)["anyport_events_fresh"].samples, "there is no queue"

    status.sources[0].status.events = EventStatus(
        reading=True,
        fresh=True,
        answered_s=NOW_S - 3,
        kinds=Counter(task=4, unknown=1),
        ages=Counter({0.1: 3, 60.0: 1, math.inf: 1}),
        age_sum_s=130.25,
        gaps=1,
        missed=2,
        errors=Counter(denied=5),
        calls=Counter(ReceiveMessage=7),
    )
    found = families(status)
    assert values(found["anyport_events"]) == {
        ("anyport_events_total", "task", "ecs:prod"): 4.0,
        ("anyport_events_total", "unknown", "ecs:prod"): 1.0,
    }
    calls = values(found["anyport_aws_api_calls"])
    assert calls["anyport_aws_api_calls_total", "ReceiveMessage", "events"] == 7.0
    assert values(found["anyport_events_fresh"]) == {("anyport_events_fresh", "ecs:prod"): 1.0}
    assert values(found["anyport_events_queue_age_seconds"]) == {
        ("anyport_events_queue_age_seconds", "ecs:prod"): 3.0
    }
    assert values(found["anyport_events_missed"]) == {("anyport_events_missed_total", "ecs:prod"): 2.0}
    assert values(found["anyport_events_gaps"]) == {("anyport_events_gaps_total", "ecs:prod"): 1.0}
    assert values(found["anyport_events_queue_errors"]) == {
        ("anyport_events_queue_errors_total", "denied", "ecs:prod"): 5.0
    }
    age = values(found["anyport_event_age_seconds"])
    assert age["anyport_event_age_seconds_bucket", "0.05", "ecs:prod"] == 0.0
    assert age["anyport_event_age_seconds_bucket", "15", "ecs:prod"] == 3.0
    assert age["anyport_event_age_seconds_bucket", "+Inf", "ecs:prod"] == 5.0
    assert age["anyport_event_age_seconds_sum", "ecs:prod"] == 130.25

    status.sources[0].status.events.reading = False  # another proxy reads it
    assert not families(status)["anyport_events_fresh"].samples


def test_who_leads_a_fleet_and_how_old_that_is_which_the_others_know(status: Status) -> None:
    assert not families(status)["anyport_fleet_leader"].samples, "this one is alone"

    status.sources[0].status.fleet = FleetStatus(leads=True, peers=3, changes=1)
    found = families(status)
    assert values(found["anyport_fleet_leader"]) == {("anyport_fleet_leader", "ecs:prod"): 1.0}
    assert values(found["anyport_fleet_peers"]) == {("anyport_fleet_peers", "ecs:prod"): 3.0}
    assert not found["anyport_fleet_age_seconds"].samples

    status.sources[0].status.fleet = FleetStatus(leader="arn:aws:ecs:1", heard_s=NOW_S - 2, age_s=1.5)
    found = families(status)
    assert values(found["anyport_fleet_leader"]) == {("anyport_fleet_leader", "ecs:prod"): 0.0}
    assert values(found["anyport_fleet_age_seconds"]) == {("anyport_fleet_age_seconds", "ecs:prod"): 3.5}


def test_durations_from_start_and_stop_and_what_is_stale(status: Status) -> None:
    status.routable.observe(0.3)
    status.routable.observe(600)
    status.quiet.observe(0.02)
    found = families(status)
    start = values(found["anyport_task_start_to_routable_seconds"])
    name = "anyport_task_start_to_routable_seconds"
    assert start[f"{name}_bucket", "0.25"] == 0
    assert start[f"{name}_bucket", "0.5"] == start[f"{name}_bucket", "60"] == 1
    assert start[f"{name}_bucket", "+Inf"] == start[f"{name}_count",] == 2
    assert start[f"{name}_sum",] == 600.3
    assert (
        values(found["anyport_task_stop_to_quiet_seconds"])["anyport_task_stop_to_quiet_seconds_sum",] == 0.02
    )

    assert values(found["anyport_source_stale"]) == {("anyport_source_stale", "ecs:prod"): 0.0}
    status.stale = frozenset({"ecs:prod"})
    assert values(families(status)["anyport_source_stale"]) == {("anyport_source_stale", "ecs:prod"): 1.0}
