"""Facts, verdicts and inheritance become one table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from discovery.model import BackendKey, Endpoint, HealthCheck, Service, Snapshot, by_service
from proxy.control.changes import changes
from proxy.control.compose import (
    Knowledge,
    Slots,
    compose,
    identity_check,
    inherited,
    kept_rows,
    source_of,
    state,
)
from proxy.control.health.check import target
from proxy.link.snapshots import EMPTY, BackendRow, ServiceRow, TableSnapshot
from proxy.policy.verdict import Verdict, carried, unchecked
from proxy.settings import IdentityCheck, WorkerSettings

ARN = "arn:aws:ecs:eu-west-1:123456789012:task/prod/"


def endpoint(task: str, *, service: str = "web", port: int = 32768, draining: bool = False) -> Endpoint:
    return Endpoint(
        service=service,
        task_arn=ARN + task,
        container="app",
        container_port=80,
        host="10.0.0.1",
        port=port,
        draining=draining,
        reason="task is stopping" if draining else "",
    )


def knowledge(
    *endpoints: Endpoint,
    services: Iterable[str] = ("web",),
    answered: Iterable[str] = ("ecs:prod",),
    pending: Iterable[str] = (),
    suspended: dict[BackendKey, str] | None = None,
) -> Knowledge:
    named = {name: Service(name=name, hosts=(f"{name}.test",)) for name in services}
    return Knowledge(
        facts=Snapshot(source="table", services=named, by_service=by_service(endpoints)),
        suspended={name: suspended for name in services} if suspended else {},
        answered=frozenset(answered),
        pending=frozenset(pending),
    )


def healthy(service: str, key: BackendKey) -> Verdict | None:
    return carried(True, "", 0.0)


def nothing(service: str, key: BackendKey) -> Verdict | None:
    return None


def table(known: Knowledge, base: TableSnapshot = EMPTY, verdict: object = healthy) -> TableSnapshot:
    slots = Slots(base, count=4096, unused=lambda slot: True)
    return compose(known, base=base, verdict=verdict, slot=slots, settings=WorkerSettings())  # type: ignore[arg-type]


def test_a_backend_is_ready_draining_or_down() -> None:
    ready, draining = endpoint("a"), endpoint("b", port=2, draining=True)
    lost, sick = endpoint("c", port=3), endpoint("d", port=4)
    sick_key = sick.key

    def verdict(service: str, key: BackendKey) -> Verdict | None:
        return carried(key != sick_key, "health check: HTTP 503", 0.0)

    made = table(knowledge(ready, draining, lost, sick, suspended={lost.key: "a rival"}), verdict=verdict)

    assert [(state(row), row.reason) for row in made.backends] == [
        ("ready", ""),
        ("draining", "task is stopping"),
        ("down", "a rival"),
        ("down", "health check: HTTP 503"),
    ]


def test_a_backend_nobody_has_checked_is_down() -> None:
    (row,) = table(knowledge(endpoint("a")), verdict=nothing).backends

    assert (state(row), row.reason) == ("down", "not checked yet")


def test_the_table_is_loaded_once_every_source_has_answered() -> None:
    assert not table(knowledge(pending=["ecs:prod"], answered=())).loaded
    assert table(knowledge()).loaded
    assert table(knowledge(pending=["ecs:prod"], answered=()), replace(EMPTY, loaded=True)).loaded


def before(*endpoints: Endpoint) -> TableSnapshot:
    services = sorted({one.service for one in endpoints} | {"web"})
    return replace(table(knowledge(*endpoints, services=services)), revision=7)


def test_a_restart_keeps_everything_until_the_sources_have_spoken() -> None:
    base = before(endpoint("a"), endpoint("b", port=2))

    made = table(knowledge(services=(), answered=(), pending=["ecs:prod"]), base, nothing)

    assert (made.services, made.backends, made.loaded) == (base.services, base.backends, True)


def test_a_complete_answer_removes_what_it_lacks() -> None:
    base = before(endpoint("a"), endpoint("b", port=2))

    assert [row.task_arn for row in table(knowledge(endpoint("a")), base).backends] == [ARN + "a"]


def test_a_cluster_that_has_not_answered_keeps_its_tasks_in_a_service_another_source_names() -> None:
    """A service with a static address and ECS tasks: the list is known at once, the API may be down."""
    base = before(endpoint("a"))
    static = replace(endpoint("x", port=9), task_arn="static:10.0.0.1:9")

    made = table(knowledge(static, answered=["static"], pending=["ecs:prod"]), base)

    assert [row.task_arn for row in made.backends] == [static.task_arn, ARN + "a"]


def test_what_an_answered_source_lacks_is_gone_while_others_are_still_silent() -> None:
    base = before(endpoint("a"))

    assert table(knowledge(pending=["ecs:other"]), base).backends == ()
    assert table(knowledge(services=(), pending=["ecs:other"]), base).backends == ()


def test_a_static_address_the_configuration_no_longer_names_is_gone_while_a_cluster_is_silent() -> None:
    old = replace(endpoint("x", service="old"), task_arn="static:10.0.0.1:9")
    base = table(knowledge(old, answered=["static"], pending=["ecs:prod"]))

    assert kept_rows(knowledge(pending=["static", "ecs:prod"]), base) == base.backends
    assert kept_rows(knowledge(pending=["ecs:prod"]), base) == ()


def test_a_cluster_the_configuration_no_longer_names_is_gone_while_another_is_silent() -> None:
    """Its service may be named by nobody else, so no other answer would ever remove it."""
    base = before(endpoint("a", service="old"))
    silent = knowledge(services=(), answered=(), pending=["ecs:other"])

    assert kept_rows(silent, base) == ()


def test_an_address_given_to_another_task_is_not_kept() -> None:
    base = before(endpoint("a", service="old"))
    heir = replace(endpoint("x"), task_arn="static:10.0.0.1:32768")

    made = table(knowledge(heir, answered=["static"], pending=["ecs:prod"]), base)

    assert [row.task_arn for row in made.backends] == [heir.task_arn]


def test_old_arns_do_not_name_their_cluster_so_the_service_decides() -> None:
    old = replace(endpoint("a"), task_arn="arn:aws:ecs:eu-west-1:123456789012:task/0f9d")
    base = before(old)

    assert source_of(old.task_arn) == ""
    assert kept_rows(knowledge(pending=["ecs:other"]), base) == ()
    assert kept_rows(knowledge(services=["api"], pending=["ecs:other"]), base) == base.backends


def test_verdicts_are_inherited_by_identity_and_address() -> None:
    one, two = endpoint("a"), endpoint("b", port=2)
    base = before(one, two)
    service = Service(name="web", health=HealthCheck())
    targets = [
        target(one, service),
        target(replace(two, port=3), service),  # moved
        target(endpoint("c", port=2), service),  # another task at a known address
    ]

    assert list(inherited(base, targets, 0.0)) == [("web", one.key)]


def test_kept_backends_follow_their_checks() -> None:
    base = before(endpoint("a"))
    sick = replace(unchecked(HealthCheck(), 0.0), reason="health check: HTTP 500")

    made = table(knowledge(services=(), answered=(), pending=["ecs:prod"]), base, lambda *_: sick)

    assert [(row.healthy, row.reason) for row in made.backends] == [(False, "health check: HTTP 500")]


def test_slots_stay_with_their_service_and_are_never_handed_on() -> None:
    base = TableSnapshot(
        revision=1, loaded=True, services=(ServiceRow(name="web", slot=2, hosts=(), path="/"),)
    )
    slots = Slots(base, count=5, unused=lambda slot: slot != 1)

    assert slots("web") == 2
    assert slots("api") == 3, "slot 1 holds counts of a service that is gone"
    assert slots("db") == 4
    assert slots("late") == 0, "the last one shares the slot of requests of no service"
    assert (slots("web"), slots("api"), slots("late")) == (2, 3, 0)


def rows(*given: BackendRow) -> TableSnapshot:
    service = ServiceRow(name="web", slot=1, hosts=("web.test",), path="/")
    return TableSnapshot(revision=1, loaded=True, services=(service,), by_service={"web": given})


def test_each_change_is_one_line_and_no_change_is_none() -> None:
    (row,) = table(knowledge(endpoint("0123456789abcdef"))).backends
    name = "web task 01234567 (app:80)"

    def lines(old: BackendRow, new: BackendRow) -> list[str]:
        return list(changes(rows(old), rows(new)))

    assert lines(row, row) == []
    assert list(changes(rows(), rows(row))) == [f"{name} added at 10.0.0.1:32768, ready"]
    assert list(changes(rows(row), rows())) == [f"{name} removed from 10.0.0.1:32768"]
    assert lines(row, replace(row, healthy=False, reason="health check: HTTP 500")) == [
        f"{name} unhealthy: health check: HTTP 500"
    ]
    assert lines(replace(row, healthy=False), row) == [f"{name} healthy"]
    assert lines(row, replace(row, draining=True, reason="task is stopping")) == [
        f"{name} draining: task is stopping"
    ]
    assert lines(row, replace(row, suspended=True, reason="a rival")) == [f"{name} suspended: a rival"]
    assert lines(row, replace(row, port=1)) == [f"{name} moved from 10.0.0.1:32768 to 10.0.0.1:1"]
    assert list(changes(EMPTY, rows())) == [
        "table loaded: 1 services, 0 backends",
        "service web added: web.test",
    ]
    assert list(changes(rows(), EMPTY)) == ["service web removed"]


def test_workers_learn_how_a_backend_proves_whose_it_is() -> None:
    check = HealthCheck(path="/up", timeout_s=1.5, identity_header="x-service")
    known = knowledge(endpoint("1"), endpoint("2", service="shop"), services=("web", "shop"))
    proving = replace(known.facts.services["web"], health=check)
    services = {**known.facts.services, "web": proving}
    made = table(replace(known, facts=replace(known.facts, services=services)))

    rows = {row.name: row.identity for row in made.services}
    assert rows == {
        "web": IdentityCheck(path="/up", host="web.test", header="x-service", timeout_s=1.5),
        "shop": None,
    }


def test_a_check_without_an_answer_proves_nothing() -> None:
    """It may have the key from [health] and be of another kind."""
    web = Service(name="web", health=HealthCheck(kind="tcp", identity_header="x-service"))
    assert identity_check(web) is None
