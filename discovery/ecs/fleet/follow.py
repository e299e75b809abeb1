"""Following another proxy of the fleet instead of asking the API, and taking over when it is gone."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from discovery.ecs.aws.threads import in_thread
from discovery.ecs.feed import Heard
from discovery.ecs.fleet.election import Look, Peer, choose, overdue_s
from discovery.ecs.fleet.fellows import Fleet
from discovery.ecs.fleet.peer import Answer, PeerError, ask, peer_session, plain
from discovery.ecs.fleet.share import Share
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.record import Facts, decode, hear
from discovery.ecs.shapes import short_name
from discovery.model import DiscoveryError, FleetStatus, SourceStatus

log = logging.getLogger("anyport.discovery.ecs")

PATH: Final = "/fleet/v1/ledger/"

_WAIT_S: Final = 2.0  # a leader that has vanished without a word is missed this and `_SILENCE_S` later
_SILENCE_S: Final = 1.5
_LOOK_S: Final = 1.0  # for a short answer
_TICK_S: Final = 1.0  # between two looks at who there is, while we lead
_FIND_AGAIN_S: Final = 10.0
_PAUSE_S: Final = 0.02  # between two answers: what changes together is told together
_NEWS_S: Final = 0.1  # between two times that we tell our leader something
NEWS: Final = 20  # things told at once
_CHAIN: Final = 16  # proxies in a row; more are taken for a circle
_BATCHES: Final = (3, 8, 32)  # candidates asked at once, the oldest first
_IN_THREAD_BYTES: Final = 16 << 10
# A task the leader does not know may be newer than its last look at the cluster.
_UNKNOWN_S: Final = 3.0


class Follower:
    """What our leader knows of one cluster; a feed.

    `lead()` is called when this proxy begins to ask the API itself; `follow(stale_after_s)` while another one
    does it for us, again and again, with what that one takes for stale: neither before it is decided.
    `doubt(arns)` is told of tasks that we know and our leader does not.
    """

    name: Final = "leader"

    def __init__(
        self,
        ledger: Ledger,
        heard: Heard,
        *,
        cluster: str,
        fleet: Fleet,
        share: Share,
        status: SourceStatus,
        lead: Callable[[], None],
        follow: Callable[[float | None], None],
        doubt: Callable[[Collection[str]], None] = lambda arns: None,
        find: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._heard = heard
        self._target = PATH + quote(cluster, safe="")
        self.cluster = cluster
        self.fleet = fleet
        self.share = share
        self._source = status
        self._lead = lead
        self._follow = follow
        self._doubt = doubt
        self._find = find
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self.status = status.fleet = FleetStatus()
        self._notices: dict[str, str] = {}  # what EC2 announces, as we have told it or are to tell it
        self._forget()

    def _forget(self) -> None:
        self._looks: dict[str, Look] = {}
        self._told: dict[str, str] = {}  # what was logged of each that we cannot follow
        self._etag = ""
        self._role: str | None = None  # whom we follow, "" while we lead, None before that is decided
        self._unknown: set[str] = set()  # tasks that our leader does not know, at `_unknown_s`
        self._unknown_s = 0.0
        self._news: set[tuple[str, str]] = set()  # what our leader is to be told: parameter and value
        self._some_news = asyncio.Event()
        self._owed: set[tuple[str, str]] = set()  # and what it could not be told
        self._find_again_s = self._clock() + _FIND_AGAIN_S

    def hurry(self) -> None:
        """There is nothing to hurry: a leader tells at once."""

    async def run(self) -> None:
        """Follow or lead until cancelled."""
        self._forget()
        async with peer_session() as session, asyncio.TaskGroup() as group:
            group.create_task(self._tell_leader(session), name="fleet: tell the leader")
            await self._find_others()
            while True:
                leader = await self._elect(session)
                if leader is None:
                    self._take("")
                    await self._sleep(_TICK_S)
                    await self._find_late()
                else:
                    await self._listen(session, leader)

    def pass_on(self, task_arn: str) -> bool:
        """Have our leader look at a task that is in doubt; False if there is none that could."""
        return self._pass([("doubt", task_arn)])

    def pass_seen(self, task_arns: Collection[str]) -> bool:
        """Have our leader look at tasks that an agent has seen start or stop; False if we have none."""
        return self._pass([("seen", arn) for arn in task_arns])

    def pass_notice(self, ec2_id: str, notice: str) -> None:
        """Have our leader know what EC2 announces of an instance, and whoever leads us later."""
        self._notices[ec2_id] = notice
        self._pass([("notice", f"{ec2_id} {notice}")])

    def _pass(self, news: Iterable[tuple[str, str]]) -> bool:
        if not self._role:
            return False
        self._news.update(news)
        self._some_news.set()
        return True

    async def _tell_leader(self, session: aiohttp.ClientSession) -> None:
        while True:
            await self._some_news.wait()
            self._some_news.clear()
            news, self._news = sorted(self._news), set()
            for start in range(0, len(news), NEWS):
                await self._tell_some(session, news[start : start + NEWS])
            await self._sleep(_NEWS_S)

    async def _tell_some(self, session: aiohttp.ClientSession, news: Sequence[tuple[str, str]]) -> None:
        leader = next((peer for peer in self.fleet.others() if peer.task_arn == self._role), None)
        try:
            if leader is None:
                raise PeerError("nobody is followed any more")
            said = "&".join(f"{what}={quote(value, safe='')}" for what, value in news)
            await ask(
                session, self.fleet.key, leader, f"{self._target}?{said}",
                method="HEAD", within_s=_LOOK_S, wall_clock=self._wall_clock,
            )  # fmt: skip
        except PeerError:
            self._owed.update(item for item in news if item[0] == "notice")
            if doubts := [arn for what, arn in news if what == "doubt"]:
                self._doubt(doubts)

    async def _find_others(self) -> None:
        if self._find is None:
            await self.fleet.found.wait()
            return
        try:
            await self._find()
        except DiscoveryError as error:
            # Then the poller says what is wrong, in its own words.
            log.info("fleet: cannot find the other proxies: %s", error)

    async def _find_late(self) -> None:
        """Look for the others again if it was not known who we are when that was done first."""
        if not self.fleet.attached and self._clock() >= self._find_again_s:
            self._find_again_s = self._clock() + _FIND_AGAIN_S
            await self._find_others()

    # -- whom to follow --------------------------------------------------------------------------

    async def _elect(self, session: aiohttp.ClientSession) -> Peer | None:
        """Return whom to follow, None to lead, after a look at those of whom nothing new is known."""
        candidates = self.fleet.older()
        self.status.peers = len(self.fleet.others())
        there = {peer.task_arn for peer in candidates}
        self._looks = {arn: look for arn, look in self._looks.items() if arn in there}
        self._told = {arn: text for arn, text in self._told.items() if arn in there}
        reached = 0
        for size in (*_BATCHES, *[_BATCHES[-1]] * (len(candidates) // _BATCHES[-1])):
            batch = candidates[reached : reached + size]
            due = [peer for peer in batch if self._due(peer)]
            await asyncio.gather(*(self._look(session, peer) for peer in due))
            reached += size
            if any(not look.failures and look.overdue_s <= 0 for look in self._looked(batch)):
                break
        return choose(candidates[:reached], self._looks)

    def _looked(self, peers: Collection[Peer]) -> list[Look]:
        return [self._looks[peer.task_arn] for peer in peers if peer.task_arn in self._looks]

    def _due(self, peer: Peer) -> bool:
        look = self._looks.get(peer.task_arn)
        if look is None:
            return True
        # Whom we follow tells us without being asked.
        return (peer.task_arn != self._role or look.failures > 0) and self._clock() >= look.again_s

    async def _look(self, session: aiohttp.ClientSession, peer: Peer) -> None:
        try:
            answer = await ask(
                session, self.fleet.key, peer, self._target,
                method="HEAD", within_s=_LOOK_S, wall_clock=self._wall_clock,
            )  # fmt: skip
            self._judge(peer, answer)
        except PeerError as error:
            self._failed(peer, error)

    def _judge(self, peer: Peer, answer: Answer) -> tuple[float, bool]:
        """Take down how *peer* answered; return (age of what it knows, whether that is complete)."""
        if answer.status not in (200, 304):
            raise PeerError(f"it answers {answer.status}")
        word = answer.word
        if word.get("task") != peer.task_arn:
            raise PeerError("another proxy answers at its address")
        age_s, stale_after_s = _seconds(word.get("age_s")), _seconds(word.get("stale_after_s"))
        if age_s is None:
            raise PeerError("it does not say how old its knowledge is")
        if self.fleet.own_arn in (chain := _chain(word)) or len(chain) >= _CHAIN:
            raise PeerError("it follows us")
        self._looks[peer.task_arn] = Look(at_s=self._clock(), overdue_s=overdue_s(age_s, stale_after_s))
        self._told.pop(peer.task_arn, None)
        return age_s, word.get("complete") is True

    def _failed(self, peer: Peer, error: PeerError) -> None:
        before = self._looks.get(peer.task_arn)
        failures = before.failures + 1 if before is not None else 1
        self._looks[peer.task_arn] = Look(at_s=self._clock(), failures=failures)
        text = self.status.last_error = f"{peer.id} at {peer.address}: {error}"
        if self._told.get(peer.task_arn) != text:
            log.warning("fleet: cannot follow %s", text)
        self._told[peer.task_arn] = text

    # -- following -------------------------------------------------------------------------------

    async def _listen(self, session: aiohttp.ClientSession, leader: Peer) -> None:
        """Take one answer of *leader*: at once if it knows more than we do, else as soon as it does."""
        target = f"{self._target}?wait={_WAIT_S:g}"
        try:
            answer = await ask(
                session, self.fleet.key, leader, target,
                etag=self._etag, within_s=_WAIT_S + _SILENCE_S, wall_clock=self._wall_clock,
            )  # fmt: skip
            now_s = self._clock()
            age_s, complete = self._judge(leader, answer)
            facts, whole = await _read(answer) if answer.status == 200 else (Facts(), False)
        except PeerError as error:
            self._failed(leader, error)
            return
        by = f"leader {leader.id[:8]}"
        for _ in hear(self._ledger, facts, by=by):
            await asyncio.sleep(0)
        self._etag = answer.etag
        self._compare(facts, whole=whole)
        self.status.heard_s, self.status.age_s, self.status.last_error = now_s, age_s, ""
        self.share.chain = (leader.task_arn, *_chain(answer.word))
        self._take(leader.task_arn)
        if whole:  # it knows nothing from us, or not any more
            self._owed = {("notice", f"{ec2_id} {notice}") for ec2_id, notice in self._notices.items()}
        if self._owed:
            self._pass(self._owed)
            self._owed = set()
        stale_after_s = _seconds(answer.word.get("stale_after_s"))
        self._follow(None if stale_after_s is None else stale_after_s + _WAIT_S)
        asked_s = now_s - age_s
        if complete:
            # What we knew when we led ourselves may be fresher: it is still known.
            known_s = -math.inf if self._source.asked_s is None else self._source.asked_s
            self._heard(complete=True, asked_s=max(asked_s, known_s))
            self._settle(asked_s)
        else:
            self._heard()
        await self._sleep(_PAUSE_S)

    def _compare(self, facts: Facts, *, whole: bool) -> None:
        """Note which tasks we know that a leader which has told all it knows did not speak of."""
        told = {task.arn for task in facts.tasks}
        if whole:
            self._unknown = {task.arn for task in self._ledger.tasks()} - told
            self._unknown_s = self._clock()
        else:
            self._unknown -= told

    def _settle(self, asked_s: float) -> None:
        """Have those looked at that our leader does not know although it has looked at the cluster since."""
        if self._unknown and asked_s > self._unknown_s + _UNKNOWN_S:
            still = {arn for arn in self._unknown if self._ledger.task(arn) is not None}
            self._unknown = set()
            if still:
                self._doubt(still)

    def _take(self, role: str) -> None:
        if role == self._role:
            return
        self._role = role
        self.share.leading = self.status.leads = not role
        self.status.leader = role
        self.status.changes += 1
        if role:
            log.info("fleet: %s: following proxy %s", self.cluster, short_name(role))
        else:
            log.info("fleet: %s: leading, of %d proxies", self.cluster, len(self.fleet.others()) + 1)
            self.share.chain = ()
            self._lead()


async def _read(answer: Answer) -> tuple[Facts, bool]:
    """Return the facts of an answer, and whether they are all there are. Raises `PeerError`."""

    def read() -> tuple[Facts, Mapping[str, Any]]:
        return decode(plain(answer.body))

    try:
        if len(answer.body) > _IN_THREAD_BYTES:
            facts, said = await in_thread(read, name="decode a ledger")
        else:
            facts, said = read()
    except ValueError as exc:
        raise PeerError(f"its answer makes no sense: {exc}") from None
    return facts, said.get("whole") is True


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value < math.inf else None


def _chain(word: Mapping[str, Any]) -> tuple[str, ...]:
    chain = word.get("chain")
    if not isinstance(chain, list) or len(chain) > _CHAIN:
        return ()
    return tuple(str(arn) for arn in chain)
