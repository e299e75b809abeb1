"""One proxy asks, the others follow it: real sources and real HTTP, an ECS account on paper."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from discovery.ecs import shapes
from discovery.ecs.fleet.peer import plain
from discovery.ecs.fleet.signed import PROOF_HEADER
from discovery.ecs.ledger.words import Sighting
from discovery.model import DiscoveryError
from tests.kit import ecs_json as j
from tests.kit.eventually import eventually
from tests.kit.fleet import PaperFleet, Proxy, paper_fleet

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
WITHIN_S = 20.0


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests about silence: a long poll is short, and so is the patience with it."""
    monkeypatch.setattr("discovery.ecs.fleet.follow._WAIT_S", 0.3)
    monkeypatch.setattr("discovery.ecs.fleet.follow._SILENCE_S", 0.5)
    monkeypatch.setattr("discovery.ecs.fleet.election._RETRY_S", (0.2, 0.3))


async def settled(fleet: PaperFleet, leader: Proxy, *, tasks: int) -> None:
    """Return when *leader* leads, all others follow, and all know so many tasks."""

    def holds() -> bool:
        others = [proxy for proxy in fleet.proxies if proxy is not leader and not proxy.watching.done()]
        return (
            leader.leads is True
            and all(proxy.follows for proxy in others)
            and all(proxy.ready() == tasks for proxy in (leader, *others))
        )

    await eventually(holds, within_s=WITHIN_S)


@pytest.mark.asyncio
async def test_the_oldest_asks_and_the_others_follow_it() -> None:
    async with paper_fleet() as fleet:
        fleet.run("web", 3)
        first, second, third = await fleet.started(3)
        await settled(fleet, first, tasks=3)

        assert second.follows == third.follows == first.task_arn
        assert second.snapshot is not None
        assert second.snapshot.complete
        (new,) = fleet.run("web")
        await settled(fleet, first, tasks=4)
        assert [told.by for told in third.source.told(new)] == [f"leader {first.task_arn[-32:][:8]}"]
        fleet.stop(new)
        await settled(fleet, first, tasks=3)
        assert first.source.status.fleet is not None
        assert third.source.status.fleet is not None
        assert (first.source.status.fleet.leads, third.source.status.fleet.leads) == (True, False)
        assert third.source.status.fleet.peers == 2


@pytest.mark.asyncio
async def test_a_proxy_without_a_key_asks_for_itself() -> None:
    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        await fleet.started(2, key="")
        await eventually(lambda: [p.ready() for p in fleet.proxies] == [1, 1], within_s=WITHIN_S)

        assert all(proxy.api.calls["ListTasks"] for proxy in fleet.proxies)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.asyncio
async def test_fifty_proxies_call_the_api_no_more_than_one() -> None:
    """Tasks come, each with a definition of its own, and go: only the leader asks what that means."""
    async with paper_fleet(interval_s=1.0) as fleet:
        fleet.run("web", 3)
        for _ in range(50):
            await fleet.started(1)
        leader = fleet.proxies[0]
        await settled(fleet, leader, tasks=3)
        before, of_leader = sum(fleet.calls.values()), sum(leader.api.calls.values())
        began_s, number = time.monotonic(), 0
        while time.monotonic() - began_s < 6.0 or number < 5:
            number += 1
            fleet.cloud.define("web", container={"environment": [{"name": "N", "value": str(number)}]})
            (arn,) = fleet.run("web")
            await settled(fleet, leader, tasks=4)
            fleet.stop(arn)
            await settled(fleet, leader, tasks=3)
        all_calls = sum(fleet.calls.values()) - before
        calls = sum(leader.api.calls.values()) - of_leader

    assert calls > 10
    assert all_calls <= 1.2 * calls, fleet.calls


@pytest.mark.asyncio
async def test_when_the_leader_is_killed_the_others_are_fresh_again_in_seconds() -> None:
    async with paper_fleet() as fleet:
        fleet.run("web", 3)
        first, second, *others = await fleet.started(5)
        await settled(fleet, first, tasks=3)

        await first.kill()
        killed_s = time.monotonic()
        (new,) = fleet.run("web")
        alive = (second, *others)
        await eventually(
            lambda: all((p.source.status.asked_s or 0) > killed_s for p in alive), within_s=WITHIN_S
        )
        took_s = time.monotonic() - killed_s

        await settled(fleet, second, tasks=4)
        assert {proxy.follows for proxy in others} == {second.task_arn}
        assert second.ledger_knows(new)
        assert took_s < 5.0


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_waits")
async def test_a_leader_that_falls_silent_is_missed_and_one_that_is_back_is_followed_again() -> None:
    silent = asyncio.Event()
    over = asyncio.Event()

    @web.middleware
    async def partition(request: web.Request, handler: Handler) -> web.StreamResponse:
        if silent.is_set():
            await over.wait()
        return await handler(request)

    async with paper_fleet() as fleet:
        fleet.run("web", 2)
        first, second, third = await fleet.started(3, tampering=None)
        await first.restart(tampering=partition)
        await settled(fleet, first, tasks=2)

        silent.set()
        await eventually(lambda: second.leads is True and third.follows == second.task_arn, within_s=WITHIN_S)
        fleet.run("web")
        await eventually(lambda: third.ready() == 3, within_s=WITHIN_S)
        assert first.leads, "it can still ask the API, and serves"

        silent.clear()
        over.set()
        await settled(fleet, first, tasks=3)
        assert second.follows == third.follows == first.task_arn


@pytest.mark.asyncio
async def test_the_others_are_fresh_again_soon_though_nothing_says_that_the_leader_is_gone() -> None:
    """Its connections stay open and nothing comes: SIGSTOP, a lost machine. The pauses are the real ones."""
    silent_s = 0.0

    @web.middleware
    async def stopped(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if silent_s:
            await asyncio.Event().wait()
        return response

    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        await fleet.started(1, tampering=stopped)
        await fleet.started(3)
        first, *others = fleet.proxies
        await settled(fleet, first, tasks=1)

        silent_s = time.monotonic()
        await eventually(
            lambda: all((p.source.status.asked_s or 0) > silent_s + 0.5 for p in others), within_s=WITHIN_S
        )
        took_s = time.monotonic() - silent_s

        assert others[0].leads
        assert took_s < 6.0, "3.5 s, and what a busy machine adds"


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_waits")
async def test_who_has_another_key_is_not_followed_and_says_so() -> None:
    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        await fleet.started(1)
        await fleet.started(1, key="quite another key of the same length")
        first, second = fleet.proxies
        await eventually(lambda: second.leads is True and second.ready() == 1, within_s=WITHIN_S)

        assert first.leads
        assert second.source.status.fleet is not None
        assert "has it another [fleet] key" in second.source.status.fleet.last_error


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize(
    ("skew_s", "follows"), [(50.0, True), (-50.0, True), (120.0, False), (-120.0, False)]
)
async def test_clocks_may_be_a_minute_apart(skew_s: float, follows: bool) -> None:
    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        await fleet.started(1)
        (second,) = await fleet.started(1, clock_skew_s=skew_s)
        await eventually(lambda: second.leads is not None and second.ready() == 1, within_s=WITHIN_S)

        assert bool(second.follows) is follows


def changed(change: Callable[[web.Response], web.StreamResponse | None]) -> Any:
    """Return a middleware that changes what a leader says on its way, HEAD excepted."""

    @web.middleware
    async def tamper(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        assert isinstance(response, web.Response)
        if request.method == "HEAD" or response.status != 200:
            return response
        result = change(response)
        return result if result is not None else response

    return tamper


def _forged(response: web.Response) -> None:
    assert isinstance(response.body, bytes)
    said = plain(response.body).replace(b'"10.0', b'"66.6').replace(b"127.0.0.1", b"127.6.6.6")
    assert said != plain(response.body)
    response.body = said


def _truncated(response: web.Response) -> None:
    assert isinstance(response.body, bytes)
    response.body = response.body[:-10]


def _unsigned(response: web.Response) -> None:
    del response.headers[PROOF_HEADER]


def _rejuvenated(response: web.Response) -> None:
    response.headers["Anyport-Fleet-Word"] = response.headers["Anyport-Fleet-Word"].replace(
        '"age_s":', '"age_s":0'
    )


def _oversized(response: web.Response) -> None:
    response.body = bytes(2 << 20)


def _elsewhere(response: web.Response) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})


class _Replay:
    """Answers each question with what was the answer to the first."""

    def __init__(self) -> None:
        self.first: web.Response | None = None

    def __call__(self, response: web.Response) -> web.StreamResponse:
        if self.first is None:
            self.first = response
        return web.Response(body=self.first.body, headers=self.first.headers, status=self.first.status)


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize(
    "change", [_forged, _truncated, _unsigned, _rejuvenated, _oversized, _elsewhere], ids=lambda f: f.__name__
)
async def test_an_answer_that_was_changed_on_its_way_is_not_believed(
    change: Callable[[web.Response], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discovery.ecs.fleet.peer._MOST_BYTES", 1 << 20)
    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        await fleet.started(1, tampering=changed(change))
        (second,) = await fleet.started(1)
        await eventually(lambda: second.leads is True and second.ready() == 1, within_s=WITHIN_S)

        status = second.source.status.fleet
        assert status is not None
        assert status.last_error
        assert status.heard_s is None
        assert all(not told.by.startswith("leader") for t in fleet.web() for told in second.source.told(t))


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_waits")
async def test_an_answer_that_is_replayed_is_not_believed() -> None:
    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        await fleet.started(1, tampering=changed(_Replay()))
        _, third = await fleet.started(2)
        await eventually(lambda: all(p.ready() == 1 for p in fleet.proxies), within_s=WITHIN_S)
        fleet.run("web")
        await eventually(lambda: all(p.ready() == 2 for p in fleet.proxies), within_s=WITHIN_S)

        assert third.ready() == 2


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_waits")
async def test_an_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discovery.ecs.fleet.peer._BODY_S", 0.5)

    @web.middleware
    async def drip(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if request.method == "HEAD":
            return response
        assert isinstance(response, web.Response)
        slow = web.StreamResponse(
            headers={k: v for k, v in response.headers.items() if k != "Content-Length"}
        )
        await slow.prepare(request)
        while True:
            await slow.write(b"x")
            await asyncio.sleep(0.1)

    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        await fleet.started(1, tampering=drip)
        (second,) = await fleet.started(1)
        await eventually(lambda: second.leads is True and second.ready() == 1, within_s=WITHIN_S)


@pytest.mark.asyncio
async def test_who_follows_a_follower_knows_how_old_its_knowledge_is() -> None:
    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        first, second = await fleet.started(2)
        third = fleet.new()
        await third.start()
        third.place.older = lambda: tuple(  # type: ignore[method-assign]
            peer for peer in type(third.place).older(third.place) if peer.task_arn == second.task_arn
        )
        await eventually(lambda: third.follows == second.task_arn, within_s=WITHIN_S)
        await eventually(lambda: third.share.chain == (second.task_arn, first.task_arn), within_s=WITHIN_S)
        fleet.run("web")
        await settled(fleet, first, tasks=2)

        first.api.takes_s = 0.7  # two in a row: a complete answer is that much younger than its question
        until_s = time.monotonic() + 4.0
        while time.monotonic() < until_s:
            asked = [proxy.source.status.asked_s or 0.0 for proxy in (first, second, third)]
            assert max(asked[1:]) <= asked[0] + 0.7, "younger than where it comes from"
            await asyncio.sleep(0.01)


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_waits")
async def test_nobody_follows_one_that_follows_it() -> None:
    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        second_arn = "arn:aws:ecs:eu-west-1:123456789012:task/prod/second"
        (first,) = await fleet.started(1, says={"chain": ("arn:aws:ecs:x", second_arn)})
        second = fleet.new()
        second.task_arn = fleet.renamed(second.task_arn, second_arn)
        await second.start()
        await eventually(lambda: second.leads is True and second.ready() == 1, within_s=WITHIN_S)

        assert first.leads
        assert "it follows us" in second.source.status.fleet.last_error  # type: ignore[union-attr]


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_waits")
async def test_nobody_follows_one_that_is_not_whom_it_was_looking_for() -> None:
    """Its port may be another proxy's by now."""
    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        await fleet.started(1, says={"task": "arn:aws:ecs:eu-west-1:123456789012:task/prod/third"})
        (second,) = await fleet.started(1)
        await eventually(lambda: second.leads is True and second.ready() == 1, within_s=WITHIN_S)

        assert "another proxy answers" in second.source.status.fleet.last_error  # type: ignore[union-attr]


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_waits")
async def test_a_leader_whose_knowledge_grows_old_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has lost its credentials; the second has none either; the third has."""
    monkeypatch.setattr("discovery.ecs.fleet.election.OLD_S", 2.0)
    monkeypatch.setattr("discovery.ecs.fleet.election.TURN_S", 1.0)
    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        first, second, third, fourth = await fleet.started(4)
        await settled(fleet, first, tasks=1)

        first.api.failing = second.api.failing = DiscoveryError("denied", "not any more")
        fleet.run("web")
        await eventually(lambda: third.ready() == fourth.ready() == 2, within_s=WITHIN_S)
        assert third.leads
        assert fourth.follows == third.task_arn

        first.api.failing = None
        await settled(fleet, first, tasks=2)
        assert not fourth.api.calls["ListTasks"] > 1, "it never had to ask"


@pytest.mark.asyncio
async def test_a_leader_that_is_being_stopped_is_left_before_it_ends() -> None:
    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        first, second, third = await fleet.started(3)
        await settled(fleet, first, tasks=1)
        fleet.cloud.crew.patient = True  # the task stays for its stopTimeout

        fleet.stop(first.task_arn)

        await eventually(lambda: second.leads is True and third.follows == second.task_arn, within_s=WITHIN_S)
        assert first.leads
        assert not second.source.status.fleet.last_error  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_what_our_leader_does_not_know_is_asked_for_and_not_believed_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a task that has stopped while nobody looked, our leader has never heard: but we had it on disk."""
    monkeypatch.setattr("discovery.ecs.fleet.follow._UNKNOWN_S", 0.2)
    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        await fleet.started(1)
        old = shapes.task(fleet.described(fleet.web()[0], taskArn=j.task_arn(77)))
        (second,) = await fleet.started(1, knows=[old])
        await settled(fleet, fleet.proxies[0], tasks=1)

        await eventually(lambda: second.source.ledger.buried(old.arn), within_s=WITHIN_S)


@pytest.mark.asyncio
async def test_the_agent_beside_us_is_believed_before_our_leader() -> None:
    async with paper_fleet() as fleet:
        (web_arn,) = fleet.run("web")
        first, second = await fleet.started(2)
        await settled(fleet, first, tasks=1)
        ledger = second.source.ledger
        task = ledger.task(web_arn)
        assert task is not None

        ledger.hear_agent(
            task.instance_arn,
            [Sighting(arn=web_arn, definition="web:1", known_status="RUNNING", desired_status="STOPPED")],
        )
        second.source.heard()

        await eventually(lambda: second.ready() == 0)
        fleet.run("web")
        await eventually(lambda: first.ready() == 2 and second.ready() == 1, within_s=WITHIN_S)


@pytest.mark.asyncio
async def test_what_a_follower_doubts_its_leader_looks_at_for_all() -> None:
    async with paper_fleet(interval_s=20.0) as fleet:
        arns = fleet.run("web", 4)
        first, second, third = await fleet.started(3)
        await settled(fleet, first, tasks=4)
        before = [dict(proxy.api.calls) for proxy in (second, third)]
        stopping = fleet.cloud.account.state.clusters["prod"].tasks[arns[0]]
        fleet.cloud.crew.end(stopping)  # nobody has told: the next poll is a minute away

        second.source.hurry(arns[0])
        third.source.hurry(arns[0])

        await eventually(lambda: [p.ready() for p in fleet.proxies] == [3, 3, 3], within_s=WITHIN_S)
        assert [dict(proxy.api.calls) for proxy in (second, third)] == before


@pytest.mark.asyncio
@pytest.mark.parametrize("chained", [False, True])
async def test_what_the_agent_of_a_follower_sees_all_know_at_once(chained: bool) -> None:
    """The next poll is a minute away, and no event tells; *chained*: by one who follows a follower."""
    async with paper_fleet(interval_s=60.0) as fleet:
        arns = fleet.run("web", 4)
        first, second, third = await fleet.started(3)
        if chained:
            third.place.older = lambda: tuple(  # type: ignore[method-assign]
                peer for peer in type(third.place).older(third.place) if peer.task_arn == second.task_arn
            )
        await settled(fleet, first, tasks=4)
        await eventually(lambda: not chained or third.follows == second.task_arn, within_s=WITHIN_S)
        before = [dict(proxy.api.calls) for proxy in (second, third)]
        polls = first.api.calls["ListTasks"]
        fleet.cloud.crew.patient = True  # the task stays for its stopTimeout
        fleet.stop(arns[0])
        (new,) = fleet.run("web")

        began_s = time.monotonic()
        third.source.tell_seen([arns[0], new])

        await eventually(lambda: new in {t.arn for t in third.source.ledger.tasks()}, within_s=WITHIN_S)
        await eventually(lambda: [p.draining() for p in fleet.proxies] == [1, 1, 1], within_s=WITHIN_S)
        assert time.monotonic() - began_s < 2.0
        assert first.api.calls["ListTasks"] == polls, "of two tasks the whole cluster need not be asked for"
        assert [dict(proxy.api.calls) for proxy in (second, third)] == before


@pytest.mark.asyncio
@pytest.mark.usefixtures("short_waits")
async def test_what_ec2_announces_to_a_follower_whoever_leads_knows() -> None:
    deaf = True

    @web.middleware
    async def hard_of_hearing(request: web.Request, handler: Handler) -> web.StreamResponse:
        if deaf and "notice" in request.query:
            raise web.HTTPInternalServerError
        return await handler(request)

    async with paper_fleet() as fleet:
        fleet.run("web", 1)
        await fleet.started(1, tampering=hard_of_hearing)
        await fleet.started(2)
        first, second, third = fleet.proxies
        await settled(fleet, first, tasks=1)
        third.source.tell_notice("i-1", "Spot interruption: terminate")
        await eventually(lambda: bool(third.follower._owed), within_s=WITHIN_S)

        def known(proxy: Proxy) -> str:
            return proxy.source.ledger.notices.get("i-1", "")

        assert not known(first)
        deaf = False
        await eventually(lambda: known(second) == "Spot interruption: terminate", within_s=WITHIN_S)
        third.source.tell_notice("i-1", "Spot interruption: stop")
        await eventually(lambda: known(second) == "Spot interruption: stop", within_s=WITHIN_S)
        await first.restart(tampering=None)  # it knows nothing any more
        await settled(fleet, first, tasks=1)
        await eventually(lambda: known(first) == "Spot interruption: stop", within_s=WITHIN_S)
        third.source.tell_notice("i-1", "")
        await eventually(lambda: [known(first), known(second)] == ["", ""], within_s=WITHIN_S)


@pytest.mark.asyncio
async def test_what_our_leader_does_not_look_at_we_look_at() -> None:
    @web.middleware
    async def deaf(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "doubt" in request.query:
            raise web.HTTPInternalServerError
        return await handler(request)

    async with paper_fleet(interval_s=60.0) as fleet:
        arns = fleet.run("web", 4)
        await fleet.started(1, tampering=deaf)
        (second,) = await fleet.started(1)
        await settled(fleet, fleet.proxies[0], tasks=4)
        fleet.cloud.crew.end(fleet.cloud.account.state.clusters["prod"].tasks[arns[0]])

        second.source.hurry(arns[0])

        await eventually(lambda: second.ready() == 3, within_s=WITHIN_S)
        assert second.follows


@pytest.mark.asyncio
async def test_nothing_secret_is_said_between_proxies() -> None:
    bodies: list[bytes] = []

    def keep(response: web.Response) -> None:
        assert isinstance(response.body, bytes)
        bodies.append(plain(response.body))

    async with paper_fleet() as fleet:
        fleet.run("web", 2)
        await fleet.started(1, tampering=changed(keep))
        await fleet.started(1)
        await settled(fleet, fleet.proxies[0], tasks=2)

    text = b"".join(bodies)
    assert fleet.web()[0].encode() in text
    assert b"hunter2" not in text
    assert b"PASSWORD" not in text
    assert fleet.proxies[0].key.encode() not in text
