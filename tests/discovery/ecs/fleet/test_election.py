"""Who leads and who follows whom, decided alike by all, without circles and without a stampede."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.ecs import shapes
from discovery.ecs.fleet.election import OLD_S, TURN_S, Look, Peer, choose, older, overdue_s, peers
from discovery.ecs.ledger.ledger import Ledger
from tests.kit import ecs_json as j

GROUP = "service:anyport"
PORT = 9180


def arn(number: int) -> str:
    return j.task_arn(number)


def peer(number: int, **more: Any) -> Peer:
    return Peer(
        task_arn=arn(number), **{"started_at": 100.0 + number, "host": "10.0.0.1", "port": number, **more}
    )


# --- who there is -----------------------------------------------------------------------------------


def a_ledger(mode: str, *tasks: dict[str, Any]) -> Ledger:
    ledger = Ledger()
    mapping = {"containerPort": PORT, "hostPort": PORT if mode == "host" else 0, "protocol": "tcp"}
    containers = [j.container_definition("log"), j.container_definition("app", mapping)]
    ledger.hear_definition(shapes.task_definition(j.definition("anyport:1", *containers, networkMode=mode)))
    ledger.hear_instance(shapes.container_instance(j.instance(1)))
    ledger.hear_address(j.ec2_id(1), "10.0.0.1")
    for task in tasks:
        ledger.hear_task(shapes.task(task), by="api")
    return ledger


def a_task(number: int, *, port: int = 0, **more: Any) -> dict[str, Any]:
    bindings = [j.binding(PORT, port)] if port else []
    containers = [j.container("log"), j.container("app", bindings=bindings)]
    return j.task(number, service="anyport", definition="anyport:1", **{"containers": containers, **more})


def test_in_bridge_mode_each_is_where_its_host_port_leads() -> None:
    ledger = a_ledger("bridge", a_task(1, port=40001), a_task(2, port=40002), j.task(3, service="web"))

    assert [(p.task_arn, p.host, p.port) for p in peers(ledger, GROUP, PORT)] == [
        (arn(1), "10.0.0.1", 40001),
        (arn(2), "10.0.0.1", 40002),
    ]


def test_in_host_mode_each_is_at_its_instance() -> None:
    (found,) = peers(a_ledger("host", a_task(1)), GROUP, PORT)
    assert found.address == "10.0.0.1:9180"


def test_with_a_network_of_its_own_each_is_at_its_own_address() -> None:
    containers = [j.awsvpc_container("log", privateIpv4Address="10.0.9.9"),
                  j.awsvpc_container("app", privateIpv4Address="10.0.9.9")]  # fmt: skip
    (found,) = peers(a_ledger("awsvpc", a_task(1, containers=containers)), GROUP, PORT)
    assert found.address == "10.0.9.9:9180"


@pytest.mark.parametrize("missing", ["definition", "address", "binding"])
def test_one_whose_place_is_not_known_yet_is_there_and_cannot_be_asked(missing: str) -> None:
    ledger = a_ledger("bridge", a_task(1, port=0 if missing == "binding" else 40001))
    if missing == "definition":
        ledger._definitions.clear()
    if missing == "address":
        ledger._addresses.clear()

    (found,) = peers(ledger, GROUP, PORT)

    assert (found.task_arn, found.host) == (arn(1), "")


def test_the_oldest_is_first_and_one_that_has_not_started_is_last() -> None:
    ledger = a_ledger(
        "bridge",
        a_task(1, port=1001, startedAt=300.0),
        a_task(2, port=1002, startedAt=100.0),
        a_task(3, port=1003, startedAt=100.0),
        a_task(4, port=1004, startedAt=None, lastStatus="ACTIVATING"),
        a_task(5, port=1005, startedAt=50.0, desiredStatus="STOPPED"),
    )

    found = peers(ledger, GROUP, PORT)

    assert [p.task_arn for p in found] == [arn(5), arn(2), arn(3), arn(1), arn(4)]
    assert [p.stopping for p in found] == [True, False, False, False, False]
    assert found[-1].started_at == math.inf
    assert [p.task_arn for p in older(arn(1), found)] == [arn(2), arn(3)]
    assert older(arn(2), found) == ()
    assert len(older(arn(9), found)) == 4, "one that does not find itself is the youngest"


# --- whom to follow ---------------------------------------------------------------------------------

FRESH = Look(at_s=0.0, overdue_s=-55.0)
GONE = Look(at_s=0.0, failures=1)


def old(by_s: float) -> Look:
    return Look(at_s=0.0, overdue_s=by_s)


def looks(*found: Look) -> Mapping[str, Look]:
    return {arn(number): look for number, look in enumerate(found, 1)}


CANDIDATES = (peer(1), peer(2), peer(3))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((), 0),  # nobody has been looked at: nobody to follow
        ((FRESH, FRESH, FRESH), 1),
        ((GONE, FRESH, FRESH), 2),
        ((GONE, GONE, FRESH), 3),
        ((GONE, GONE, GONE), 0),
        ((old(1), FRESH, FRESH), 2),
        ((GONE, old(1), FRESH), 3),
        ((old(1), old(1), old(1)), 1),  # all know the same old things: in turns
        ((old(TURN_S * 2), old(TURN_S * 2), old(TURN_S * 2)), 1),
        ((old(TURN_S * 2 + 1), old(TURN_S * 2 + 1), old(TURN_S * 2 + 1)), 0),
        ((GONE, GONE, old(0.1)), 0),  # the next in line waits for nobody
        ((GONE, old(0.1), old(5)), 2),
        ((old(99), GONE, GONE), 0),
    ],
)
def test_whom_to_follow(found: tuple[Look, ...], expected: int) -> None:
    chosen = choose(CANDIDATES, looks(*found))

    assert chosen == (peer(expected) if expected else None)


def test_the_oldest_leads() -> None:
    assert choose((), {}) is None


def test_knowledge_may_be_a_minute_old_or_four_intervals() -> None:
    assert overdue_s(OLD_S, None) == 0
    assert overdue_s(61, 10.0) == 1
    assert overdue_s(299, 150.0) < 0 < overdue_s(301, 150.0)


def test_one_that_fails_is_asked_less_and_less_often() -> None:
    waits = [Look(at_s=0.0, failures=failures).again_s for failures in range(1, 7)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1.0, 10.0)


def test_when_all_knowledge_grows_old_one_after_the_other_takes_over() -> None:
    """Nobody can ask any more: not all of the others must try at once."""
    fleet = [peer(number) for number in range(1, 21)]
    leading: dict[int, float] = {}
    for age_s in range(400):
        looks_now = {p.task_arn: old(age_s - OLD_S) for p in fleet}
        for place, one in enumerate(fleet):
            if choose(older(one.task_arn, fleet), looks_now) is None:
                leading.setdefault(place, age_s)
    moments = sorted(leading.values())[1:]  # the oldest leads anyway

    assert moments[0] > OLD_S
    assert all(later - earlier >= TURN_S - 1 for earlier, later in itertools.pairwise(moments))


LOOKS = st.sampled_from([FRESH, GONE, old(1.0), old(15.0), old(1000.0)])


@given(st.lists(st.lists(LOOKS, min_size=8, max_size=8), min_size=8, max_size=8), st.randoms())
def test_whatever_they_see_of_each_other_nobody_follows_in_a_circle(
    seen: list[list[Look]], random: Any
) -> None:
    """Each has its own opinion on who answers; they agree on nothing but who is older."""
    fleet = [peer(number, started_at=float(random.randint(1, 4))) for number in range(1, 9)]
    fleet.sort(key=lambda p: (p.started_at, p.task_arn))
    follows = {
        one.task_arn: choose(
            older(one.task_arn, fleet), {p.task_arn: look for p, look in zip(fleet, seen[place], strict=True)}
        )
        for place, one in enumerate(fleet)
    }

    for one in fleet:
        steps, leader = 0, follows[one.task_arn]
        while leader is not None:
            steps, leader = steps + 1, follows[leader.task_arn]
            assert steps < len(fleet)
    assert follows[fleet[0].task_arn] is None
