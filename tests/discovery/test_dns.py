"""DNS names against a real server on loopback: TTLs, changes that drain, outages, nonsense and loops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from discovery.dns import DnsSource
from discovery.dns_answers import CONFIRM_S, DRAIN_S
from discovery.dns_lookup import Lookup
from discovery.dns_names import Answer, Name
from discovery.loops import OwnAddresses
from discovery.model import Endpoint, Service, Snapshot
from tests.kit.dns_server import DnsServer, Mood, dns_server
from tests.kit.eventually import eventually

ELB = Name("internal-elb.example.com", 80)
SRV = Name("_http._tcp.backend.local")
WEB = Service(name="web", hosts=("web.test",))


class Clock:
    """Real time that can be moved on."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead_s

    def skip(self, seconds: float) -> None:
        self._ahead_s += seconds


class Play:
    """A source and the newest that it has said."""

    def __init__(self, source: DnsSource, server: DnsServer, clock: Clock) -> None:
        self.source = source
        self.server = server
        self._clock = clock
        self.said: list[Snapshot] = []

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        return {e.address: e for e in self.said[-1].endpoints} if self.said else {}

    @property
    def states(self) -> dict[str, str]:
        return {address: "draining" if e.draining else "ready" for address, e in self.endpoints.items()}

    def skip(self, seconds: float) -> None:
        """Move time on, and have the names asked about anew."""
        self._clock.skip(seconds)
        self.source.hurry()

    async def until(self, holds: Callable[[], bool]) -> None:
        await eventually(holds)

    async def asked_again(self) -> None:
        """Return once the question that is asked next has been answered, or has failed."""
        status = self.source.status
        before = status.refreshes + sum(status.errors.values())
        self.skip(2.0)
        await eventually(lambda: status.refreshes + sum(status.errors.values()) > before)


@asynccontextmanager
async def playing(
    *names: Name,
    own: list[tuple[str, int]] | None = None,
    prepare: Callable[[DnsServer], None] = lambda server: None,
    lifetime_s: float = 5.0,
) -> AsyncIterator[Play]:
    clock = Clock()
    async with dns_server() as server:
        prepare(server)
        source = DnsSource(
            [(WEB, names)],
            ask=Lookup([("127.0.0.1", server.port)], lifetime_s=lifetime_s).ask,
            is_own=OwnAddresses(own or []),
            ttl_max_s=60.0,
            clock=clock,
            wall=lambda: 1_700_000_000.0,
        )
        play = Play(source, server, clock)

        async def listen() -> None:
            async for snapshot in source.watch():
                play.said.append(snapshot)

        listening = asyncio.create_task(listen())
        try:
            yield play
            assert not listening.done(), "the source has ended"
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


def two(server: DnsServer) -> None:
    server.say(ELB.host, "A", "10.0.0.1", "10.0.0.2")


@pytest.mark.asyncio
async def test_addresses_of_both_families_are_backends_as_if_they_were_written_down() -> None:
    def prepare(server: DnsServer) -> None:
        two(server)
        server.say(ELB.host, "AAAA", "2001:DB8::1")

    async with playing(ELB, prepare=prepare) as play:
        await play.until(lambda: bool(play.said))
        snapshot = play.said[-1]
        assert snapshot.complete
        assert snapshot.services == {"web": WEB}
        assert play.states == {"10.0.0.1:80": "ready", "10.0.0.2:80": "ready", "[2001:db8::1]:80": "ready"}
        one = play.endpoints["10.0.0.1:80"]
        assert (one.task_arn, one.container, one.container_port, one.source) == (
            "dns:10.0.0.1:80",
            "dns",
            80,
            "dns",
        )
        assert [told.what for told in play.source.told("dns:10.0.0.1:80")] == [f"{ELB} is here"]
        assert play.source.told("dns:10.0.0.9:80") == ()
        assert play.source.status.asked_s is not None


@pytest.mark.asyncio
async def test_an_answer_is_asked_for_again_when_its_ttl_is_over_and_not_before() -> None:
    async with playing(ELB, prepare=lambda s: s.say(ELB.host, "A", "10.0.0.1", ttl_s=1)) as play:
        await play.until(lambda: bool(play.said))
        play.server.say(ELB.host, "A", "10.0.0.2", ttl_s=3600)
        await play.until(lambda: "10.0.0.2:80" in play.states)
        asked = len(play.server.asked)
        assert play.source._pause_s() > 10.0  # type: ignore[operator] - nothing is due for a long time
        await asyncio.sleep(0)
        assert len(play.server.asked) == asked


@pytest.mark.asyncio
async def test_what_leaves_the_answer_drains_and_says_why() -> None:
    async with playing(ELB, prepare=two) as play:
        await play.until(lambda: len(play.states) == 2)
        play.server.say(ELB.host, "A", "10.0.0.2", "10.0.0.3")
        play.skip(61.0)
        await play.until(lambda: "10.0.0.3:80" in play.states)
        assert play.states == {"10.0.0.1:80": "draining", "10.0.0.2:80": "ready", "10.0.0.3:80": "ready"}
        assert play.endpoints["10.0.0.1:80"].reason == f"{ELB} no longer leads here"
        play.skip(DRAIN_S + 1.0)
        await play.until(lambda: "10.0.0.1:80" not in play.states)
        assert set(play.states.values()) == {"ready"}


@pytest.mark.asyncio
@pytest.mark.parametrize("mood", ["silent", "servfail", "refused", "garbage"])
async def test_no_answer_and_nonsense_change_nothing(mood: Mood) -> None:
    async with playing(ELB, prepare=two, lifetime_s=0.2) as play:
        await play.until(lambda: len(play.states) == 2)
        said = len(play.said)
        play.server.mood = mood
        for _ in range(3):
            play.skip(100.0)
            await play.asked_again()
        assert len(play.said) == said
        assert play.source.status.last_error
        assert sum(play.source.status.errors.values()) >= 3
        play.server.mood = "answer"
        play.server.say(ELB.host, "A", "10.0.0.9")
        play.skip(100.0)
        await play.until(lambda: play.states.get("10.0.0.9:80") == "ready")
        assert play.source.status.last_error == ""


@pytest.mark.asyncio
async def test_a_family_that_cannot_be_asked_for_takes_nothing_away() -> None:
    def prepare(server: DnsServer) -> None:
        two(server)
        server.say(ELB.host, "AAAA", "2001:db8::1")

    async with playing(ELB, prepare=prepare, lifetime_s=0.2) as play:
        await play.until(lambda: len(play.states) == 3)
        play.server.moods["AAAA"] = "servfail"
        play.server.say(ELB.host, "A", "10.0.0.3")
        play.skip(61.0)
        await play.until(lambda: "10.0.0.3:80" in play.states)
        assert set(play.states.values()) == {"ready"}
        assert len(play.states) == 4


@pytest.mark.asyncio
@pytest.mark.parametrize("gone", [True, False], ids=["NXDOMAIN", "no records"])
async def test_emptiness_has_to_be_said_twice(gone: bool) -> None:
    async with playing(ELB, prepare=two) as play:
        await play.until(lambda: len(play.states) == 2)
        play.server.say(ELB.host, "A")
        if not gone:
            play.server.say(ELB.host, "TXT", '"here"')
        play.skip(61.0)
        await play.asked_again()
        assert play.states == {"10.0.0.1:80": "ready", "10.0.0.2:80": "ready"}
        play.skip(max(CONFIRM_S, 60.0))
        await play.until(lambda: set(play.states.values()) == {"draining"})
        (problem,) = play.said[-1].problems
        assert problem.where == f"service web, DNS name {ELB}"
        play.skip(DRAIN_S + 1.0)
        await play.until(lambda: play.states == {})


@pytest.mark.asyncio
async def test_a_name_without_an_answer_leaves_the_snapshot_incomplete_and_the_others_in_use() -> None:
    other = Name("slow.example.com", 81)

    def prepare(server: DnsServer) -> None:
        two(server)
        server.mood = "servfail"

    async with playing(ELB, other, prepare=prepare) as play:
        await play.until(lambda: bool(play.source.status.errors))
        assert play.said == [], "nothing is known, and nothing is said"
        play.server.mood = "answer"
        play.skip(10.0)
        await play.until(lambda: len(play.states) == 2)
        assert not play.said[-1].complete, "the second name is not in DNS, but that has been said only once"
        assert play.source.status.last_success_s is None
        play.skip(CONFIRM_S)
        await play.until(lambda: play.said[-1].complete)
        assert play.source.status.last_success_s is not None


@pytest.mark.asyncio
async def test_aliases_are_followed_and_their_ttl_counts_too() -> None:
    async with dns_server() as server:
        server.say("www.example.com", "CNAME", "Internal-ELB.example.com", ttl_s=7)
        server.say(ELB.host, "A", "10.0.0.1", ttl_s=300)
        found = await Lookup([("127.0.0.1", server.port)]).ask(Name("www.example.com", 8080))
        assert found == Answer(frozenset({("10.0.0.1", 8080)}), 7.0)


@pytest.mark.asyncio
async def test_an_answer_too_long_for_udp_is_fetched_over_tcp() -> None:
    async with dns_server() as server:
        addresses = [f"10.0.{n // 250}.{n % 250 + 1}" for n in range(500)]
        server.say(ELB.host, "A", *addresses)
        found = await Lookup([("127.0.0.1", server.port)]).ask(ELB)
        assert {host for host, _ in found.places} == set(addresses)
        assert ("internal-elb.example.com", "A", "tcp") in server.asked


@pytest.mark.asyncio
async def test_srv_records_bring_ports_and_the_lowest_priority_that_leads_anywhere() -> None:
    async with dns_server() as server:
        lookup = Lookup([("127.0.0.1", server.port)])
        server.say(SRV.host, "SRV", "10 60 8080 A.backend.local.", "10 40 8081 a.backend.local.",
                   "20 0 9090 b.backend.local.", ttl_s=20)  # fmt: skip
        server.say("a.backend.local", "A", "10.0.0.1", ttl_s=300)
        server.say("b.backend.local", "A", "10.0.0.2", ttl_s=300)
        first = frozenset({("10.0.0.1", 8080), ("10.0.0.1", 8081)})
        assert await lookup.ask(SRV) == Answer(first, 20.0)
        server.say("a.backend.local", "A")
        assert await lookup.ask(SRV) == Answer(frozenset({("10.0.0.2", 9090)}), 20.0)
        server.say(SRV.host, "SRV", "0 0 0 .")
        assert (await lookup.ask(SRV)).places == frozenset()


@pytest.mark.asyncio
async def test_a_target_that_cannot_be_resolved_makes_half_an_answer() -> None:
    async with dns_server() as server:
        lookup = Lookup([("127.0.0.1", server.port)], lifetime_s=0.3)
        server.say(SRV.host, "SRV", "0 0 80 a.backend.local.", "0 0 80 b.backend.local.")
        server.say("a.backend.local", "A", "10.0.0.1")
        server.say("b.backend.local", "CNAME", "b.backend.local")  # round in circles
        found = await lookup.ask(SRV)
        assert found.places == {("10.0.0.1", 80)}
        assert not found.whole


@pytest.mark.asyncio
async def test_a_name_that_leads_back_here_is_refused_and_said() -> None:
    def prepare(server: DnsServer) -> None:
        server.say(ELB.host, "A", "127.0.0.1", "10.255.255.1")
        server.say(ELB.host, "AAAA", "::ffff:127.0.0.1")

    async with playing(ELB, own=[("0.0.0.0", 80)], prepare=prepare) as play:
        await play.until(lambda: bool(play.said))
        assert play.states == {"10.255.255.1:80": "ready"}
        (problem,) = play.said[-1].problems
        assert "this very proxy (127.0.0.1:80)" in problem.what


@pytest.mark.asyncio
async def test_where_no_backend_can_be_nothing_is_sent() -> None:
    addresses = ["0.0.0.0", "169.254.169.254", "224.0.0.1"]
    async with playing(ELB, prepare=lambda s: s.say(ELB.host, "A", *addresses)) as play:
        await play.until(lambda: bool(play.said))
        assert play.states == {}
        assert len(play.said[-1].problems) == 3


def test_own_addresses() -> None:
    own = OwnAddresses([("0.0.0.0", 8080), ("10.9.9.9", 80)])
    assert own("127.0.0.1", 8080)
    assert own("127.1.2.3", 8080)
    assert own("10.9.9.9", 80)
    assert not own("127.0.0.1", 80)
    assert not own("192.0.2.1", 8080), "an address of another host"
    assert not own("::1", 8080)


@pytest.mark.asyncio
async def test_a_service_that_did_not_change_is_the_same_object() -> None:
    """So the later stages skip it."""
    other = Name("other.example.com", 80)
    shop = Service(name="shop", hosts=("shop.test",))
    places = {ELB: frozenset({("10.0.0.1", 80)}), other: frozenset({("10.0.0.2", 80)})}

    async def ask(name: Name) -> Answer:
        return Answer(places[name], 1.0)

    clock = Clock()
    source = DnsSource(
        [(WEB, [ELB]), (shop, [other])], ask=ask, is_own=OwnAddresses([]), ttl_max_s=60.0, clock=clock
    )
    watching = source.watch()
    said = [await anext(watching)]
    while not said[-1].complete:
        said.append(await anext(watching))
    places[other] = frozenset({("10.0.0.3", 80)})
    said.append(await anext(watching))
    await watching.aclose()  # type: ignore[attr-defined]

    assert said[-1].by_service["web"] is said[-2].by_service["web"]
    assert len(said[-1].by_service["shop"]) == 2


@pytest.mark.asyncio
async def test_a_bug_is_counted_and_the_name_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    asked = 0

    async def ask(name: Name) -> Answer:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("a bug")
        return Answer(frozenset({("10.0.0.1", 80)}), 60.0)

    source = DnsSource([(WEB, [ELB])], ask=ask, is_own=OwnAddresses([]), ttl_max_s=60.0)
    watching = source.watch()
    snapshot = await anext(watching)
    await watching.aclose()  # type: ignore[attr-defined]
    assert len(snapshot.endpoints) == 1
    assert source.status.errors == {"other": 1}
    assert "its last answer still stands" in caplog.text
