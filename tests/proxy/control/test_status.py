"""Ready or not, and the reasons an operator reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from discovery.model import EventStatus, FleetStatus, SourceStatus
from proxy.control.status import readiness, sources
from proxy.link import scoreboard
from tests.kit.status import NOW_S, FakeSource, a_status


def test_a_loaded_table_and_living_workers_are_ready() -> None:
    found = readiness(a_status(), NOW_S)

    assert found["ready"] is True
    assert found["reasons"] == []
    assert found["table"]["backends"] == {"ready": 1, "draining": 1, "down": 1}
    assert found["sources"] == [{"source": "ecs:prod", "answered": True, "age_s": 3.0, "error": ""}]


def test_a_failing_source_is_named_but_the_last_table_still_serves() -> None:
    status = a_status()
    status.sources[0].status.last_error = "credentials have expired: ..."

    found = readiness(status, NOW_S)

    assert found["ready"] is True
    assert found["sources"][0]["error"] == "credentials have expired: ..."


def test_without_a_table_it_says_which_source_is_missing_and_why() -> None:
    status = a_status()
    status.table = replace(status.table, loaded=False)
    status.sources = (FakeSource("ecs:prod", SourceStatus(last_error="no credentials: set a task role")),)
    status.pending = frozenset({"ecs:prod"})

    found = readiness(status, NOW_S)

    assert found["ready"] is False
    assert found["reasons"] == ["table not loaded: ecs:prod: no credentials: set a task role"]
    assert found["sources"][0]["age_s"] is None


def test_one_source_of_several_that_never_answers_holds_nobody_up_for_ever() -> None:
    status = a_status()
    status.table = replace(status.table, loaded=False)
    status.sources = (FakeSource("ecs:prod", SourceStatus()), FakeSource("ecs:other", SourceStatus()))
    status.pending = frozenset({"ecs:other"})
    status.since_s = NOW_S - 59

    assert readiness(status, NOW_S)["ready"] is False
    assert readiness(status, NOW_S + 2)["ready"] is True
    status.pending = frozenset({"ecs:prod", "ecs:other"})
    assert readiness(status, NOW_S + 2)["ready"] is False, "of nothing nothing can be served"


def test_a_worker_that_is_silent_late_or_missing_makes_it_unready() -> None:
    status = a_status(workers=4)
    status.board.head(1)[scoreboard.HEARTBEAT_MS] = int((NOW_S - 10) * 1000)
    status.board.head(2)[scoreboard.REVISION] = 4
    status.board.head(3)[scoreboard.PID] = 0

    found = readiness(status, NOW_S)

    assert found["reasons"] == [
        "worker 1: no sign of life for 10 s",
        "worker 2: still on revision 4, 5 is published",
        "worker 3: not started",
    ]
    assert [worker["up"] for worker in found["workers"]] == [True, False, True, False]


def test_a_worker_has_a_moment_to_follow_a_new_revision() -> None:
    status = a_status()
    status.board.head(0)[scoreboard.REVISION] = 4
    status.published_at_s = NOW_S - 0.1

    assert readiness(status, NOW_S)["ready"] is True


def test_draining_is_unready() -> None:
    status = a_status()
    status.draining = True

    assert readiness(status, NOW_S)["reasons"] == ["draining: this process has been told to stop"]


def test_what_is_heard_by_events_is_told_by_whoever_reads_them() -> None:
    status = a_status()
    events = EventStatus(reading=True, answered_s=NOW_S - 3, kinds=Counter(task=4, unknown=1), missed=2)
    status.sources[0].status.events = events
    assert sources(status, NOW_S)[0]["events"] == {
        "trusted": False,
        "heard": 5,
        "not_understood": 1,
        "missed": 2,
        "answered_s": 3.0,
        "error": "",
    }
    events.reading = False
    assert "events" not in sources(status, NOW_S)[0]


def test_its_part_in_the_fleet_is_told() -> None:
    status = a_status()
    fleet = status.sources[0].status.fleet = FleetStatus(peers=2)

    def told() -> dict[str, object]:
        return dict(readiness(status, NOW_S)["sources"][0]["fleet"])

    assert told() == {"role": "looks for a leader", "leader": "", "lag_s": None, "peers": 2, "error": ""}
    fleet.leads = True
    assert told()["role"] == "leads"
    fleet.leads, fleet.leader, fleet.heard_s, fleet.age_s = False, "arn:aws:ecs:1", NOW_S - 2, 1.5
    assert told() == {"role": "follows", "leader": "arn:aws:ecs:1", "lag_s": 3.5, "peers": 2, "error": ""}
