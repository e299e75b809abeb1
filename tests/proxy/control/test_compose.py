"""Facts, verdicts and inheritance become one table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from discovery.addresses import Place
from discovery.model import BackendKey, Endpoint, HealthCheck, Service, Snapshot, by_service
from proxy.control.changes import changes
from proxy.control.compose import Composer, Judge, Knowledge, identity_check, inherited, state
from proxy.control.health.check import target
from proxy.control.slots import Slots
from proxy.link.snapshots import EMPTY, BackendRow, ServiceRow, TableSnapshot
from proxy.policy.verdict import Verdict, carried, unchecked
from proxy.settings import BackendTls, IdentityCheck, WorkerSettings
from tests.kit.slow_compose import slow_compose

WEB = Service(name="web")
ARN = "arn:aws:ecs:eu-west-1:123456789012:task/prod/"


def endpoint(
    task: str,
    *,
    service: str = "web",
    port: int = 32768,
    draining: bool = False,
    source: str = "ecs:prod",
    arn: str = "",
) -> Endpoint:
    return Endpoint(
        service=service,
        task_arn=arn or ARN + task,
        container="app",
        container_port=80,
        host="10.0.0.1",
        port=port,
        draining=draining,
        reason="task is stopping" if draining else "",
        source=source,
    )


def knowledge(
    *endpoints: Endpoint,
    services: Iterable[str] = ("web",),
    pending: Iterable[str] = (),
    suspended: dict[BackendKey, str] | None = None,
) -> Knowledge:
    named = {name: Service(name=name, hosts=(f"{name}.test",)) for name in services}
    claims: dict[Place, tuple[Endpoint, ...]] = {}
    for one in endpoints:
        claims[one.host, one.port] = (*claims.get((one.host, one.port), ()), one)
    return Knowledge(
        facts=Snapshot(source="table", services=named, by_service=by_service(endpoints)),
        suspended=dict.fromkeys(services, suspended) if suspended else {},
        claims=claims,
        pending=frozenset(pending),
    )


def healthy(service: str, key: BackendKey) -> Verdict | None:
    return carried(True, "", 0.0)


def nothing(service: str, key: BackendKey) -> Verdict | None:
    return None


def composer(base: TableSnapshot = EMPTY) -> Composer:
    return Composer(Slots(base, count=4096, unused=lambda slot: True))


def table(known: Knowledge, base: TableSnapshot = EMPTY, verdict: Judge = healthy) -> TableSnapshot:
    made = composer(base)
    made.learn(known, base)
    return made.table(verdict=verdict, touched=set(), settings=WorkerSettings())


def kept_rows(known: Knowledge, base: TableSnapshot) -> tuple[BackendRow, ...]:
    made = composer(base)
    made.learn(known, base)
    return tuple(row for name in base.by_service for row in made.kept(name))


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
    assert not table(knowledge(pending=["ecs:prod"])).loaded
    assert table(knowledge()).loaded
    assert table(knowledge(pending=["ecs:prod"]), replace(EMPTY, loaded=True)).loaded


def before(*endpoints: Endpoint) -> TableSnapshot:
    services = sorted({one.service for one in endpoints} | {"web"})
    return replace(table(knowledge(*endpoints, services=services)), revision=7)


def test_a_restart_keeps_everything_until_the_sources_have_spoken() -> None:
    base = before(endpoint("a"), endpoint("b", port=2))

    made = table(knowledge(services=(), pending=["ecs:prod"]), base, nothing)

    assert (made.services, made.backends, made.loaded) == (base.services, base.backends, True)


def test_a_complete_answer_removes_what_it_lacks() -> None:
    base = before(endpoint("a"), endpoint("b", port=2))

    assert [row.task_arn for row in table(knowledge(endpoint("a")), base).backends] == [ARN + "a"]


def test_a_cluster_that_has_not_answered_keeps_its_tasks_in_a_service_another_source_names() -> None:
    """A service with a static address and ECS tasks: the list is known at once, the API may be down."""
    base = before(endpoint("a"))
    static = endpoint("x", port=9, source="static", arn="static:10.0.0.1:9")

    made = table(knowledge(static, pending=["ecs:prod"]), base)

    assert [row.task_arn for row in made.backends] == [static.task_arn, ARN + "a"]


def test_what_an_answered_source_lacks_is_gone_while_others_are_still_silent() -> None:
    base = before(endpoint("a"))

    assert table(knowledge(pending=["ecs:other"]), base).backends == ()
    assert table(knowledge(services=(), pending=["ecs:other"]), base).backends == ()


def test_a_static_address_the_configuration_no_longer_names_is_gone_while_a_cluster_is_silent() -> None:
    old = endpoint("x", service="old", source="static", arn="static:10.0.0.1:9")
    base = table(knowledge(old, services=["old"], pending=["ecs:prod"]))

    assert kept_rows(knowledge(pending=["static", "ecs:prod"]), base) == base.backends
    assert kept_rows(knowledge(pending=["ecs:prod"]), base) == ()


def test_a_cluster_the_configuration_no_longer_names_is_gone_while_another_is_silent() -> None:
    """Its service may be named by nobody else, so no other answer would ever remove it."""
    base = before(endpoint("a", service="old"))
    silent = knowledge(services=(), pending=["ecs:other"])

    assert kept_rows(silent, base) == ()


def test_an_address_given_to_another_task_is_not_kept() -> None:
    base = before(endpoint("a", service="old"))
    heir = endpoint("x", source="static", arn="static:10.0.0.1:32768")

    made = table(knowledge(heir, pending=["ecs:prod"]), base)

    assert [row.task_arn for row in made.backends] == [heir.task_arn]


def test_where_a_row_does_not_name_its_source_the_service_decides() -> None:
    base = before(endpoint("a", source=""))

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

    made = table(knowledge(services=(), pending=["ecs:prod"]), base, lambda *_: sick)

    assert [(row.healthy, row.reason) for row in made.backends] == [(False, "health check: HTTP 500")]


def test_a_task_that_only_starts_is_down_and_says_why() -> None:
    waiting = replace(endpoint("a"), starting=True, reason="container app has not passed its check")

    (row,) = table(knowledge(waiting)).backends
    assert (state(row), row.reason) == ("down", "starting: container app has not passed its check")

    base = replace(table(knowledge(waiting)), revision=7)
    assert [v.reason for v in inherited(base, [target(waiting, WEB)], 0.0).values()] == ["not checked yet"]
    (kept,) = table(knowledge(services=(), pending=["ecs:prod"]), base).backends
    assert state(kept) == "down", "its container may not be healthy, whatever a check of ours says"


def test_what_comes_from_old_knowledge_is_to_be_confirmed_where_it_can_be() -> None:
    proving = replace(WEB, health=HealthCheck(identity_body=True))
    rows = [endpoint("a"), endpoint("b", port=2, source="static"), endpoint("c", service="shop", port=3)]
    known = knowledge(*rows, services=["web", "shop"])
    services = {**known.facts.services, "web": proving}
    known = replace(known, facts=replace(known.facts, services=services))
    made = composer()

    def confirmed(stale: set[str]) -> list[str]:
        made.learn(replace(known, stale=frozenset(stale)), EMPTY)
        found = made.table(verdict=healthy, touched=set(), settings=WorkerSettings())
        return [row.task_arn.removeprefix(ARN) for row in found.backends if row.confirm]

    assert confirmed(set()) == []
    assert confirmed({"ecs:prod"}) == ["a"]
    assert confirmed({"ecs:prod", "static"}) == ["a", "b"]
    assert confirmed(set()) == []


def test_who_loses_its_address_or_gets_it_back_is_looked_at_again() -> None:
    lost = endpoint("a")
    made, known = composer(), knowledge(lost, endpoint("b", service="shop", port=2), services=["web", "shop"])

    def states(suspended: dict[str, dict[BackendKey, str]]) -> list[tuple[str, str]]:
        made.learn(replace(known, suspended=suspended), EMPTY)
        found = made.table(verdict=healthy, touched=set(), settings=WorkerSettings())
        return [(state(row), row.reason) for row in found.backends]

    assert states({}) == [("ready", ""), ("ready", "")]
    assert states({"web": {lost.key: "a rival"}}) == [("down", "a rival"), ("ready", "")]
    assert states({"web": {lost.key: "another"}}) == [("down", "another"), ("ready", "")]
    assert states({}) == [("ready", ""), ("ready", "")]


def test_a_change_costs_what_has_changed() -> None:
    names = [f"s{n}" for n in range(50)]
    known = knowledge(*(endpoint(n, service=n, port=i) for i, n in enumerate(names)), services=names)
    made = composer()
    assert made.learn(known, EMPTY) == set(names)
    first = made.table(verdict=healthy, touched=set(), settings=WorkerSettings())

    moved = (endpoint("s7", service="s7", port=999),)
    facts = replace(known.facts, by_service={**known.facts.by_service, "s7": moved})
    assert made.learn(replace(known, facts=facts), EMPTY) == {"s7"}
    asked = []

    def verdict(service: str, key: BackendKey) -> Verdict | None:
        asked.append(service)
        return healthy(service, key)

    second = made.table(verdict=verdict, touched={"s9"}, settings=WorkerSettings())
    assert sorted(asked) == ["s7", "s9"]
    assert second.services is first.services
    differing = [name for name in names if second.by_service[name] is not first.by_service[name]]
    assert differing == ["s7"], "the verdict on s9 is what it was"

    third = made.table(verdict=healthy, touched=set(), settings=WorkerSettings())
    assert third.by_service is second.by_service


# --- whatever comes ---------------------------------------------------------------------------------

_NAMES = ("web", "shop", "api")
_TASKS = st.builds(
    lambda task, port, source, starting, draining: replace(
        endpoint(task, port=port, source=source, draining=draining), starting=starting
    ),
    st.sampled_from("abcd"),
    st.integers(1, 4),
    st.sampled_from(["ecs:prod", "static", ""]),
    st.booleans(),
    st.booleans(),
)
_SOURCES = st.sets(st.sampled_from(["ecs:prod", "static"]))
_CHANGES = st.sampled_from(["tasks", "service", "suspended", "tls", "pending", "stale", "base", "verdict"])


@dataclass(frozen=True)
class Moment:
    known: Knowledge
    base: TableSnapshot
    verdicts: dict[tuple[str, str], bool]


@st.composite
def moments(draw: st.DrawFn) -> list[Moment]:
    """Return what happens to one control process: one thing after the other, and the rest is shared."""

    def some_tasks(name: str) -> tuple[Endpoint, ...]:
        found = draw(st.lists(_TASKS, max_size=3, unique_by=lambda e: e.task_arn))
        return tuple(replace(e, service=name) for e in found)

    def a_base() -> TableSnapshot:
        made = knowledge(*some_tasks("web"), *some_tasks("shop"), services=["web", "shop"])
        return replace(table(made), loaded=draw(st.booleans()))

    services: dict[str, Service] = {}
    by_name: dict[str, tuple[Endpoint, ...]] = {}
    suspended: dict[str, dict[BackendKey, str]] = {}
    tls: dict[str, BackendTls] = {}
    verdicts: dict[tuple[str, str], bool] = {}
    pending, stale, base = frozenset(draw(_SOURCES)), frozenset[str](), EMPTY
    found: list[Moment] = []
    for change in ["base", "service", "tasks", *draw(st.lists(_CHANGES, max_size=10))]:
        name = draw(st.sampled_from(_NAMES))
        if change == "service":
            check = HealthCheck(identity_body=draw(st.booleans()))
            services = {**services, name: Service(name=name, hosts=(f"{name}.test",), health=check)}
            if draw(st.booleans()):
                services = {one: service for one, service in services.items() if one == name}
        elif change == "tasks":
            by_name = {**by_name, name: some_tasks(name)}
        elif change == "suspended":
            lost = {e.key: "a rival" for e in by_name.get(name, ()) if draw(st.booleans())}
            suspended = {**suspended, name: lost}
        elif change == "tls":
            tls = {**tls, name: BackendTls(name=draw(st.sampled_from("ab")))}
        elif change == "pending":
            pending = frozenset(draw(_SOURCES))
        elif change == "stale":
            stale = frozenset(draw(_SOURCES))
        elif change == "base":
            base = a_base()
        else:
            verdicts = {**verdicts, (name, ARN + draw(st.sampled_from("abcd"))): draw(st.booleans())}
        shown = {one: some for one, some in by_name.items() if one in services and some}
        claims = {(e.host, e.port): (e,) for some in shown.values() for e in some}
        known = Knowledge(
            facts=Snapshot(source="table", services=services, by_service=shown),
            suspended=suspended,
            claims=claims,
            pending=pending,
            stale=stale,
            tls=tls,
        )
        found.append(Moment(known, base, verdicts))
    return found


@given(moments())
def test_the_table_is_what_it_would_be_if_it_were_composed_from_nothing(history: list[Moment]) -> None:
    """It does only what a change asks for; whatever came before, the result is the slow, obvious one."""
    made = composer()
    slots = made._slot
    before: dict[tuple[str, str], bool] = {}
    for moment in history:

        def verdict(service: str, key: BackendKey, of: Moment = moment) -> Verdict | None:
            found = of.verdicts.get((service, key.task_arn))
            return None if found is None else carried(found, "health check: HTTP 500", 0.0)

        made.learn(moment.known, moment.base)
        differing = moment.verdicts.items() ^ before.items()
        before = moment.verdicts
        found = made.table(
            verdict=verdict, touched={name for (name, _), _ in differing}, settings=WorkerSettings()
        )
        wanted = slow_compose(
            moment.known, base=moment.base, verdict=verdict, slot=slots, settings=WorkerSettings()
        )
        assert found == wanted


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


def test_workers_learn_for_which_services_tasks_are_on_their_way() -> None:
    known = knowledge(endpoint("a", draining=True))
    (name,) = known.facts.services
    made = composer()

    def row(awaited: set[str]) -> ServiceRow:
        facts = replace(known.facts, awaited=frozenset(awaited))
        made.learn(replace(known, facts=facts), EMPTY)
        return made.table(verdict=healthy, touched=set(), settings=WorkerSettings()).services[0]

    assert [row(names).awaited for names in ({name}, set(), {"another"})] == [True, False, False]


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
