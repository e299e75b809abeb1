"""Many sources, one table: merging, conflicts, and two tasks that claim one address."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.model import BackendKey, Endpoint, Problem, Service, Snapshot, by_service
from discovery.table import BackendTable
from tests.kit.slow_table import SlowTable


def service(name: str, *hosts: str, path: str = "/", origin: str = "config") -> Service:
    return Service(name=name, hosts=hosts or (f"{name}.io",), path=path, origin=origin)


def endpoint(
    name: str,
    task: str,
    *,
    host: str = "10.0.0.1",
    port: int = 32768,
    started_at: float = 1.0,
    draining: bool = False,
    version: int = 0,
) -> Endpoint:
    return Endpoint(
        service=name,
        task_arn=f"arn:aws:ecs:eu-west-1:1:task/prod/{task}",
        container="app",
        container_port=8080,
        host=host,
        port=port,
        started_at=started_at,
        draining=draining,
        version=version,
    )


def source(name: str, services: list[Service], *endpoints: Endpoint) -> Snapshot:
    return Snapshot(source=name, services={s.name: s for s in services}, by_service=by_service(endpoints))


def test_loaded_when_every_source_has_answered() -> None:
    table = BackendTable(["ecs", "static"])

    assert not table.loaded
    assert table.missing == ("ecs", "static")
    table.apply(source("static", []))
    assert (table.loaded, table.missing) == (False, ("ecs",))
    assert table.apply(source("ecs", [])), "an empty answer is news: now a 404 is the truth"
    assert table.loaded


def test_half_a_first_answer_is_used_but_is_no_answer() -> None:
    table = BackendTable(["ecs"])
    half = replace(source("ecs", [service("web")], endpoint("web", "a")), complete=False)

    assert table.apply(half)
    assert [e.service for e in table.snapshot.endpoints] == ["web"]
    assert (table.loaded, table.missing) == (False, ("ecs",))
    assert table.apply(replace(half, complete=True))
    assert table.loaded


def test_a_service_is_awaited_if_any_source_says_so() -> None:
    table = BackendTable(("a", "b"))
    table.apply(Snapshot(source="a", awaited=frozenset({"web"})))
    assert table.apply(Snapshot(source="b", awaited=frozenset({"api"})))
    assert table.snapshot.awaited == {"web", "api"}
    assert table.apply(Snapshot(source="a"))
    assert table.snapshot.awaited == {"api"}


def test_same_snapshot_again_changes_nothing() -> None:
    table = BackendTable(["ecs"])
    snapshot = source("ecs", [service("web")], endpoint("web", "a"))

    assert table.apply(snapshot)
    assert not table.apply(replace(snapshot))


def test_unknown_source_is_refused() -> None:
    with pytest.raises(KeyError):
        BackendTable(["ecs"]).apply(source("dns", []))


def test_sources_of_one_service_are_merged_and_the_first_describes_it() -> None:
    table = BackendTable(["static", "ecs"])
    table.apply(source("ecs", [service("web", "b.io", origin="labels")], endpoint("web", "a")))
    table.apply(source("static", [service("web", "a.io")], endpoint("web", "b", port=80)))

    assert table.snapshot.services["web"].hosts == ("a.io",)
    assert {e.port for e in table.snapshot.endpoints} == {80, 32768}
    (problem,) = table.snapshot.problems
    assert problem.where == "service web, source ecs (labels)"
    assert "described otherwise by source static" in problem.what


def test_equal_descriptions_from_two_places_are_no_conflict() -> None:
    table = BackendTable(["ecs:a", "ecs:b"])
    table.apply(source("ecs:a", [service("web", origin="task-definition/web:1 labels")]))
    table.apply(source("ecs:b", [service("web", origin="task-definition/web:2 labels")]))

    assert table.snapshot.problems == ()


def test_problems_of_sources_are_kept() -> None:
    table = BackendTable(["ecs"])
    table.apply(replace(source("ecs", []), problems=(Problem("here", "what"),)))

    assert table.snapshot.problems == (Problem("here", "what"),)


# --- one host and path is one service ---------------------------------------------------------------


def test_host_claimed_twice_stays_with_the_first() -> None:
    table = BackendTable(["ecs"])
    table.apply(source("ecs", [service("web", "a.io"), service("shop", "a.io")], endpoint("shop", "s")))

    assert set(table.snapshot.services) == {"web"}
    assert table.snapshot.endpoints == ()
    (problem,) = table.snapshot.problems
    assert problem.where == "service shop (config)"
    assert "'a.io' with path '/' already means service web" in problem.what


def test_host_stays_with_the_service_that_had_it_whatever_the_newcomer_is_called() -> None:
    table = BackendTable(["ecs"])
    table.apply(source("ecs", [service("web", "a.io")]))
    table.apply(source("ecs", [service("aaa", "a.io", "b.io"), service("web", "a.io")]))

    assert {name: s.hosts for name, s in table.snapshot.services.items()} == {
        "aaa": ("b.io",),
        "web": ("a.io",),
    }

    table.apply(source("ecs", [service("aaa", "a.io", "b.io")]))
    assert table.snapshot.services["aaa"].hosts == ("a.io", "b.io")


def test_one_host_may_have_several_paths() -> None:
    table = BackendTable(["ecs"])
    table.apply(source("ecs", [service("web", "a.io"), service("api", "a.io", path="/api")]))

    assert set(table.snapshot.services) == {"web", "api"}
    assert table.snapshot.problems == ()


# --- one address is one task ------------------------------------------------------------------------


def suspended(table: BackendTable) -> dict[str, str]:
    lost = [pair for some in table.suspended.values() for pair in some.items()]
    return {key.task_arn.rpartition("/")[2]: reason for key, reason in lost}


def test_newer_start_wins_an_address() -> None:
    table = BackendTable(["ecs"])
    old, new = endpoint("web", "old", started_at=1), endpoint("shop", "new", started_at=2)
    table.apply(source("ecs", [service("web"), service("shop")], old, new))

    assert suspended(table) == {"old": "service shop, task new has the same address and started later"}
    assert len(table.snapshot.endpoints) == 2, "the facts stay: suspending is a judgement"


def test_address_once_lost_is_not_won_back_when_the_rival_goes_first() -> None:
    """The older task cannot have the port again: ECS merely has not noticed its end yet."""
    table = BackendTable(["ecs"])
    both = [service("web"), service("shop")]
    old, new = endpoint("web", "old", started_at=1), endpoint("shop", "new", started_at=2)
    table.apply(source("ecs", both, old, new))

    table.apply(source("ecs", both, old))
    assert suspended(table) == {"old": "its address was given to a newer task"}

    table.apply(source("ecs", both, replace(old, port=40000)))
    assert suspended(table) == {}, "a restarted container has another port"


def test_third_claim_beats_both() -> None:
    table = BackendTable(["ecs"])
    claims = [endpoint("web", f"t{n}", started_at=n) for n in (1, 2, 3)]
    table.apply(source("ecs", [service("web")], *claims))

    assert set(suspended(table)) == {"t1", "t2"}


def test_same_start_and_different_services_suspends_both() -> None:
    """Nothing tells who answers there, and a wrong guess shows one service's answers to the other's users."""
    table = BackendTable(["ecs"])
    both = [service("web"), service("shop")]
    a, b = endpoint("web", "a"), endpoint("shop", "b")
    table.apply(source("ecs", both, a, b))
    assert set(suspended(table)) == {"a", "b"}

    table.apply(source("ecs", both, a))
    assert suspended(table) == {}


def test_of_the_same_start_the_one_that_stays_wins() -> None:
    table = BackendTable(["ecs"])
    table.apply(
        source(
            "ecs",
            [service("web"), service("shop")],
            endpoint("web", "a", draining=True),
            endpoint("shop", "b"),
        )
    )

    assert set(suspended(table)) == {"a"}


def test_two_services_on_one_port_of_one_task_are_no_rivals() -> None:
    table = BackendTable(["ecs"])
    table.apply(source("ecs", [service("web"), service("api")], endpoint("web", "a"), endpoint("api", "a")))

    assert suspended(table) == {}
    assert len(table.snapshot.endpoints) == 2


def test_same_port_on_two_machines_is_two_addresses() -> None:
    table = BackendTable(["ecs"])
    table.apply(source("ecs", [service("web")], endpoint("web", "a"), endpoint("web", "b", host="10.0.0.2")))

    assert suspended(table) == {}


def test_claims_from_two_sources_meet() -> None:
    table = BackendTable(["static", "ecs"])
    table.apply(source("static", [service("web")], endpoint("web", "fixed", started_at=0.0)))
    table.apply(source("ecs", [service("shop")], endpoint("shop", "task", started_at=5.0)))
    assert set(suspended(table)) == {"fixed"}

    table.apply(source("ecs", [service("shop")]))
    assert suspended(table) == {}, (
        "an address of the config has no start, so it is lost only for the time being"
    )


def test_an_address_that_two_sources_were_told_of_is_meant_twice() -> None:
    """A load balancer, known by a name and by its address, for two services: nobody has taken anything."""
    table = BackendTable(["static", "dns", "ecs"])
    address = "10.0.0.1:32768"
    table.apply(source("static", [service("web")], endpoint("web", f"static:{address}", started_at=0.0)))
    dns = endpoint("shop", f"dns:{address}", started_at=0.0)
    table.apply(source("dns", [service("shop")], dns))
    assert suspended(table) == {}
    table.apply(source("dns", [service("shop")], replace(dns, draining=True)))
    assert suspended(table) == {}

    table.apply(source("ecs", [service("api")], endpoint("api", "task", started_at=5.0)))
    assert set(suspended(table)) == {f"static:{address}", f"dns:{address}"}, "a task is somebody else"


# --- whatever comes ---------------------------------------------------------------------------------

NAMES = st.sampled_from(["web", "shop", "api"])
SERVICES = st.builds(
    service, NAMES, st.sampled_from(["a.io", "b.io", "*"]), path=st.sampled_from(["/", "/api"])
)
ENDPOINTS = st.builds(
    endpoint,
    NAMES,
    st.sampled_from("abcdef"),
    host=st.sampled_from(["10.0.0.1", "::1"]),
    port=st.integers(32768, 32770),
    started_at=st.sampled_from([0.0, 1.0, 2.0]),
    draining=st.booleans(),
    version=st.integers(0, 2),
)
SNAPSHOTS = st.builds(
    lambda name, services, endpoints, complete: replace(
        source(name, services, *{(e.service, e.key): e for e in endpoints}.values()), complete=complete
    ),
    st.sampled_from(["one", "two"]),
    st.lists(SERVICES, max_size=4),
    st.lists(ENDPOINTS, max_size=6),
    st.sampled_from([True, True, True, False]),
)


@given(st.lists(SNAPSHOTS, min_size=1, max_size=6))
def test_invariants_hold_after_any_history(history: list[Snapshot]) -> None:
    table = BackendTable(["one", "two"])
    for snapshot in history:
        table.apply(snapshot)

        claims = [(h, s.path) for s in table.snapshot.services.values() for h in s.hosts]
        assert len(claims) == len(set(claims)), "one host and path, one service"
        shown = table.snapshot.endpoints
        assert all(e.service in table.snapshot.services for e in shown)
        assert list(shown) == sorted(shown, key=lambda e: (e.service, e.key))
        assert len({(e.service, e.key) for e in shown}) == len(shown)
        answering: dict[str, set[str]] = {}
        for e in shown:
            if e.key not in table.suspended.get(e.service, {}):
                answering.setdefault(e.address, set()).add(e.task_arn)
        assert all(len(tasks) == 1 for tasks in answering.values()), "one address, one task"
        lost = {(name, key) for name, some in table.suspended.items() for key in some}
        assert lost <= {(e.service, e.key) for e in shown}
        assert all(table.suspended.values()), "a service that lost nothing is not there"
        assert not table.apply(snapshot), "the same again is no news"


@given(st.lists(SNAPSHOTS, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_order_within_a_snapshot_does_not_matter(history: list[Snapshot], random: object) -> None:
    """ECS lists tasks in any order; the table must not follow it."""
    one, two = BackendTable(["one", "two"]), BackendTable(["one", "two"])
    for snapshot in history:
        one.apply(snapshot)
        two.apply(replace(snapshot, by_service=by_service(reversed(snapshot.endpoints))))

        assert one.snapshot == two.snapshot
        assert one.suspended == two.suspended


@given(st.lists(SNAPSHOTS, min_size=1, max_size=8))
def test_the_table_is_what_it_would_be_if_it_were_made_from_nothing(history: list[Snapshot]) -> None:
    """It does only what a change asks for; whatever came before, the result is the slow, obvious one."""
    table, slow = BackendTable(["one", "two"]), SlowTable(["one", "two"])
    for snapshot in history:
        before, lost = table.snapshot, table.suspended
        news = table.apply(snapshot)
        slow.apply(snapshot)

        made = table.snapshot
        assert (made.services, made.by_service) == (slow.services, slow.by_service)
        assert (made.problems, table.suspended) == (slow.problems, slow.suspended)
        assert list(made.by_service) == sorted(made.by_service)
        for name, endpoints in made.by_service.items():
            assert endpoints is before.by_service.get(name) or endpoints != before.by_service.get(name)
        for name, some in table.suspended.items():
            assert some is lost.get(name) or some != lost.get(name)
        places: dict[tuple[str, int], set[Endpoint]] = {}
        for e in made.endpoints:
            places.setdefault((e.host, e.port), set()).add(e)
        assert {place: set(claims) for place, claims in table.claims.items()} == places
        assert news or (made, table.suspended) == (before, lost)


def test_a_change_costs_what_has_changed() -> None:
    """One task of a thousand services: the others are the very objects they were."""
    table = BackendTable(["ecs"])
    names = [f"s{n}" for n in range(100)]
    services = {name: service(name) for name in names}
    some = {name: (endpoint(name, f"t{n}", port=n + 1),) for n, name in enumerate(names)}
    first = Snapshot(source="ecs", services=services, by_service=some)
    table.apply(first)
    before = table.snapshot

    moved = (replace(some["s7"][0], port=50_000),)
    assert table.apply(replace(first, by_service={**some, "s7": moved}))
    after = table.snapshot
    assert after.services is before.services
    assert [name for name in names if after.by_service[name] is not before.by_service[name]] == ["s7"]


def test_one_backend_told_by_two_sources_is_one_row_with_the_newest_word() -> None:
    table = BackendTable(["one", "two"])
    old, new = (
        replace(endpoint("web", "a"), version=3),
        replace(endpoint("web", "a", draining=True), version=4),
    )
    table.apply(source("one", [service("web")], old))
    table.apply(source("two", [service("web")], new))
    assert [(e.version, e.source) for e in table.snapshot.endpoints] == [(4, "two")]

    table.apply(source("one", [service("web")], replace(old, version=4)))
    assert [(e.version, e.source) for e in table.snapshot.endpoints] == [(4, "one")], "else the first source"


def test_half_an_answer_may_be_used_and_proves_nothing() -> None:
    table = BackendTable(["ecs"])
    both = [endpoint("web", "a"), endpoint("web", "b", port=2)]
    assert table.apply(replace(source("ecs", [service("web")], both[0]), complete=False))
    assert (table.loaded, len(table.snapshot.endpoints)) == (False, 1)
    assert table.apply(source("ecs", [service("web")], *both))
    assert (table.loaded, len(table.snapshot.endpoints)) == (True, 2)

    assert not table.apply(replace(source("ecs", [service("web")], both[0]), complete=False))
    assert len(table.snapshot.endpoints) == 2, "a source that begins again has not taken back what it said"


def test_keys_name_the_task_not_the_address() -> None:
    assert endpoint("web", "a").key == BackendKey("arn:aws:ecs:eu-west-1:1:task/prod/a", "app", 8080)
