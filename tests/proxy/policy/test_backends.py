"""A worker's table: identities carry their load over, and nothing else passes to a successor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.model import BackendKey
from proxy.link.cells import Cells
from proxy.link.snapshots import BackendRow, ServiceRow, TableSnapshot, by_service
from proxy.policy.backends import Backend, RetryBudget, Service, Table, why_none
from proxy.steps import ROWS_PER_STEP
from tests.kit.workers import backend, service


class World:
    """A table and its revisions."""

    def __init__(self) -> None:
        self.table = Table(lambda slot: Cells(memoryview(bytearray(8 * 128)).cast("q")))
        self.revision = 0

    def apply(
        self, *backends: BackendRow, services: Sequence[ServiceRow] = (service(),), **more: Any
    ) -> list[Backend]:
        self.revision += 1
        return self.table.apply(
            TableSnapshot(
                revision=self.revision,
                loaded=True,
                services=tuple(services),
                by_service=by_service(backends),
                **more,
            )
        )

    def web(self, host: bytes = b"h") -> Service:
        found = self.table.router.find(host, b"/")
        assert found is not None
        return found

    def find(self, row: BackendRow) -> Backend:
        found = self.table.find(row.service, BackendKey(row.task_arn, row.container, row.container_port))
        assert found is not None
        return found


A = backend(1001, task="arn:a")
B = backend(1002, task="arn:b")


def test_what_a_worker_has_learnt_stays_with_the_identity() -> None:
    """A deploy publishes a snapshot a second; load and idle connections must survive each of them."""
    world = World()
    world.apply(A, B)
    kept = world.find(A)
    kept.in_flight, kept.suspect_until_s, kept.idle = 3, 9.0, ["connection"]
    assert world.apply(A, B, backend(1003)) == []
    assert world.find(A) is kept
    assert (kept.in_flight, kept.suspect_until_s, kept.idle) == (3, 9.0, ["connection"])
    assert not kept.removed


def test_a_removed_backend_is_flushed_and_marked() -> None:
    world = World()
    world.apply(A, B)
    old = world.find(A)
    assert world.apply(B) == [old]
    assert old.removed
    assert world.web().eligible == (world.find(B),)


@pytest.mark.parametrize("change", [{"draining": True}, {"healthy": False}, {"suspended": True}])
def test_what_must_not_serve_new_requests_is_flushed_but_kept(change: dict[str, bool]) -> None:
    """Idle connections of a task that stops would be closed under the next request's feet."""
    world = World()
    world.apply(A, B)
    old = world.find(A)
    assert world.apply(replace(A, **change), B) == [old]
    assert world.find(A) is old
    assert not old.removed
    assert world.web().eligible == (world.find(B),)
    assert world.apply(A, B) == []
    assert set(world.web().eligible) == {old, world.find(B)}


def test_a_task_that_has_moved_is_a_new_backend() -> None:
    """Connections to the old address belong to whoever answers there now."""
    world = World()
    world.apply(A)
    old = world.find(A)
    assert world.apply(replace(A, port=2000)) == [old]
    assert old.removed
    assert world.find(A).port == 2000


def test_a_reused_address_gives_nothing_to_the_newcomer() -> None:
    """Rule 1: B answers where A did, and gets neither A's connections nor A's reputation."""
    world = World()
    services = (service("a", slot=1, hosts=["a"]), service("b", slot=2, hosts=["b"]))
    first = replace(A, service="a")
    world.apply(first, services=services)
    old = world.find(first)
    old.idle, old.suspect_until_s = ["connection"], 99.0
    newcomer = replace(B, service="b", port=A.port)
    assert world.apply(newcomer, services=services) == [old]
    new = world.find(newcomer)
    assert (new.address, new.idle, new.suspect_until_s) == (old.address, [], 0.0)
    assert world.web(b"a").eligible == ()
    assert world.web(b"b").eligible == (new,)


def test_a_task_that_changes_its_service_is_a_new_backend() -> None:
    world = World()
    services = (service("a", slot=1, hosts=["a"]), service("b", slot=2, hosts=["b"]))
    here, there = replace(A, service="a"), replace(A, service="b")
    world.apply(here, services=services)
    old = world.find(here)
    assert world.apply(there, services=services) == [old]
    assert old.removed
    assert world.find(there) is not old


def test_a_task_of_two_services_is_two_backends_that_both_stay() -> None:
    """One container may answer for two host names; each keeps its own connections and load."""
    world = World()
    services = (service("a", slot=1, hosts=["a"]), service("b", slot=2, hosts=["b"]))
    both = (replace(A, service="a"), replace(A, service="b"))
    world.apply(*both, services=services)
    held = [world.find(row) for row in both]
    assert held[0] is not held[1]
    assert world.apply(*both, services=services) == []
    assert [world.find(row) for row in both] == held


def test_a_stopping_task_serves_while_its_successor_starts() -> None:
    """The gap of a deploy: a stopping task beats a 503. Where nothing else is to come, stop means stop."""
    world = World()
    leaving, coming = replace(A, draining=True), replace(B, healthy=False)
    world.apply(leaving, coming)
    assert world.web().eligible == (world.find(leaving),)
    world.apply(leaving)
    assert world.web().eligible == ()
    world.apply(leaving, B)
    assert world.web().eligible == (world.find(B),)
    assert set(world.web().answering) == {world.find(leaving), world.find(B)}


def test_where_all_stop_they_serve_only_while_others_are_on_their_way() -> None:
    world = World()
    leaving = replace(A, draining=True)
    world.apply(leaving)
    assert (world.web().eligible, world.web().answering) == ((), ())
    world.apply(leaving, services=(replace(service(), awaited=True),))
    assert world.web().eligible == world.web().answering == (world.find(leaving),)
    world.apply(leaving)
    assert (world.web().eligible, world.web().answering) == ((), ())


def test_a_service_that_is_gone_offers_nothing_to_exchanges_under_way() -> None:
    """A retry holds the service object; its tasks' addresses may be another service's by now (rule 4)."""
    world = World()
    world.apply(A)
    held = world.web()
    world.apply(services=())
    assert held.eligible == ()
    assert held.backends == ()


def test_a_service_is_the_same_object_while_its_name_stays() -> None:
    """Its counters and its retry budget outlive every deploy."""
    world = World()
    world.apply(A)
    held = world.web()
    world.apply(B, services=(service(hosts=["other", "h"]),))
    assert world.web() is held


def test_a_backend_of_no_known_service_is_left_out() -> None:
    world = World()
    world.apply(A, replace(B, service="ghost"))
    assert [b.key.task_arn for b in world.web().backends] == ["arn:a"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], "no_task"),
        ([{"healthy": False}], "none_ready"),
        ([{"suspended": True}], "all_suspended"),
        ([{"suspended": True}, {"healthy": False}], "none_ready"),
    ],
)
def test_the_reason_for_no_backend_is_the_precise_one(changes: list[dict[str, bool]], expected: str) -> None:
    """The operator's next step depends on it: desired count, health checks, or port range."""
    world = World()
    world.apply(*(replace(backend(i), **change) for i, change in enumerate(changes, 1)))
    assert why_none(world.web().backends) == expected


_rows = st.builds(
    lambda task, port, healthy, draining, of: backend(
        port, task=f"arn:{task}", healthy=healthy, draining=draining, of=of
    ),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["a", "b", "gone"]),
)


@given(st.lists(st.lists(_rows, max_size=5, unique_by=lambda row: row.task_arn), max_size=6))
def test_after_any_history_the_table_is_the_last_snapshot(history: list[list[BackendRow]]) -> None:
    """And whoever left it, or may not be used, was handed out to be flushed the moment that happened."""
    world = World()
    services = (service("a", slot=1, hosts=["a"]), service("b", slot=2, hosts=["b"]))
    seen: list[Backend] = []
    for rows in history:
        flushed = world.apply(*rows, services=services)
        assert len(flushed) == len({id(b) for b in flushed})
        for old in seen:
            current = world.table.find(old.service.name, old.key)
            assert old.removed is (current is not old)
            if old.removed:
                assert old in flushed
        seen = []
        for name in ("a", "b"):
            members = world.web(name.encode()).backends
            wanted = [row for row in rows if row.service == name]
            assert [b.row for b in members] == wanted
            ready = tuple(b for b in members if b.ready)
            eligible = world.web(name.encode()).eligible
            assert eligible == ready if ready else all(b.answers for b in eligible)
            for member in members:
                assert (member.host, member.port) == (member.row.host, member.row.port)
                seen.append(member)


@given(st.lists(st.lists(_rows, max_size=5, unique_by=lambda row: row.task_arn), min_size=2, max_size=4))
def test_between_two_steps_a_table_is_the_old_one_or_the_new_one(history: list[list[BackendRow]]) -> None:
    """A request may come between any two steps, and half a deploy is a table nobody has published."""
    services = (service("a", slot=1, hosts=["a"]), service("b", slot=2, hosts=["b"]))
    world = World()
    for rows in history:
        before = _seen(world.table)
        snapshot = TableSnapshot(
            revision=world.revision + 1, loaded=True, services=services, by_service=by_service(rows)
        )
        views = [_seen(world.table) for _ in world.table.steps(snapshot, lambda _: None)]
        world.revision += 1
        after = _seen(world.table)
        swapped = next((i for i, view in enumerate(views) if view != before), len(views))
        assert all(view == before for view in views[:swapped])
        assert all(view == after for view in views[swapped:])


def _seen(table: Table) -> object:
    """Return everything that a request can see of *table*, apart from the objects it is made of."""
    found = [table.router.find(host, b"/") for host in (b"a", b"b")]
    rows = [[b.row for b in group] for s in found if s for group in (s.backends, s.answering, s.eligible)]
    return table.revision, table.loaded, rows


def test_a_table_of_many_backends_is_made_in_many_steps() -> None:
    """Also where one service has them all, and when they all go again."""
    world = World()
    rows = [backend(port) for port in range(1, 20 * ROWS_PER_STEP + 1)]
    for backends in (rows, rows, [replace(row, healthy=False) for row in rows], []):
        world.revision += 1
        snapshot = TableSnapshot(
            revision=world.revision, loaded=True, services=(service(),), by_service=by_service(backends)
        )
        assert sum(1 for _ in world.table.steps(snapshot, lambda _: None)) >= 20


def test_routes_that_did_not_change_are_not_made_anew() -> None:
    """A deploy is many tables with the same services: what is known of host names stays known."""
    world = World()
    world.apply(A)
    router = world.table.router
    world.apply(A, B)
    assert world.table.router is router
    world.apply(A, B, services=(service(hosts=["other", "h"]),))
    assert world.table.router is not router
    assert world.table.router.find(b"other", b"/") is world.web()


def test_backends_to_close_are_handed_over_after_the_swap() -> None:
    """Before it, a request could still put a connection back that nobody closes any more."""
    world = World()
    world.apply(A)
    old = world.find(A)
    flushed: list[tuple[Backend, bool, int]] = []
    world.revision += 1
    snapshot = TableSnapshot(revision=world.revision, loaded=True, services=(service(),))
    for _ in world.table.steps(snapshot, lambda b: flushed.append((b, b.removed, world.table.revision))):
        pass
    assert flushed == [(old, True, world.revision)]


def test_retries_are_a_share_of_the_requests_of_the_last_seconds() -> None:
    """A failing service must not be hit with a multiple of its load."""
    budget = RetryBudget()
    for _ in range(5_000):
        budget.note_request(1003.0)
    assert _taken(budget, 1004.0) == 500
    assert _taken(budget, 1009.0) == 0
    assert _taken(budget, 1011.0) == 250  # half of the window before
    assert _taken(budget, 1041.0) == 10


def test_retries_never_fall_below_the_minimum() -> None:
    """A service with a request a minute may still try a second task."""
    budget = RetryBudget()
    for now_s in (0.0, 10.0, 1000.0):
        assert _taken(budget, now_s) == 10


def test_the_budget_counts_recent_requests_however_long_ago_the_last_retry_was() -> None:
    budget = RetryBudget()
    assert _taken(budget, 0.0) == 10
    for _ in range(1_000):
        budget.note_request(5_000.0)
    assert _taken(budget, 5_001.0) == 100


def _taken(budget: RetryBudget, now_s: float) -> int:
    count = 0
    while budget.take(now_s, percent=10, minimum_per_s=1):
        count += 1
    return count
