"""The ECS agent on our own instance: what runs here, a fifth of a second after it does, without an AWS call.

Whoever holds port 51678 after the agent has crashed could be anybody's container. So an answer counts only
on a connection on which /v1/metadata has named our cluster and our instance.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Collection
from typing import Final

import aiohttp

from discovery.answers import TooLargeError, body_of
from discovery.ecs.feed import Heard
from discovery.ecs.instance.sightings import Reader
from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.ledger.presume import Groups
from discovery.ecs.ledger.words import definition_arn
from discovery.ecs.shapes import ContainerInstance
from discovery.gateway import default_gateway
from discovery.identity import Identity, of_agent, parse_arn
from discovery.model import DiscoveryError
from discovery.whoami import Whoami

log = logging.getLogger("anyport.discovery")

PORT: Final = 51678
INTERVAL_S: Final = 0.2
_BUSY_SHARE: Final = 0.05  # at most so much of the time is spent on reading what it says
_TIMEOUT_S: Final = 1.0
_BACK_OFF_S: Final = 1.0  # while it restarts
_NOBODY_S: Final = 30.0  # where there has never been one
_PATIENCE_S: Final = 10.0  # an upgrade of the agent takes a few seconds: that is no news
_API_PATIENCE_S: Final = 3.0  # then what the API should have told is taken from the machine itself
_MOST_BYTES: Final = 16 << 20  # hours of stopped tasks


class AgentError(Exception):
    """Nobody answers, or not the agent of this instance."""


class AgentFeed:
    """Tells *ledger* what the agent of this instance sees, if the instance is of *cluster* (name or ARN).

    *setting* is "auto", or the URL where the agent is to be asked. `tell(arns)` is told of tasks that have
    just been seen to start or to stop.
    """

    name = "agent"

    def __init__(
        self,
        ledger: Ledger,
        heard: Heard,
        *,
        cluster: str,
        whoami: Whoami,
        region: str = "",
        account: str = "",
        setting: str = "auto",
        tell: Callable[[Collection[str]], None] = lambda arns: None,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._heard = heard
        self._cluster = cluster
        self._whoami = whoami
        self._region = region
        self._account = account
        self._setting = setting
        self._tell = tell
        self._interval_s = interval_s
        self._clock = clock
        self._hurry = asyncio.Event()
        self._groups = Groups()
        self._forget()

    def _forget(self) -> None:
        self._url = ""  # where it has answered
        self._instance = Identity()  # as it has been named there
        self._reader: Reader | None = None
        self._connections = 0  # opened so far
        self._checked = 0  # the one on which it has said who it is
        self._revision = -1
        self._began_s = self._silent_since_s = self._clock()
        self._told = False  # that it is silent
        self._undescribed: dict[str, float] = {}  # since when tasks wait for their description
        self._presumed: tuple[int, set[str]] = (-1, set())  # in which revision, and for which of them

    def hurry(self) -> None:
        self._hurry.set()

    async def run(self) -> None:
        self._forget()
        me = await self._whoami.known()
        if not _may_be_ours(me, self._cluster, self._region, self._account) or me.launch_type == "FARGATE":
            return
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_create_end.append(self._connected)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[tracing],
        ) as session:
            while True:
                pause_s = await self._look(session)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._hurry.wait()
                self._hurry.clear()

    async def _connected(self, *_: object) -> None:
        self._connections += 1

    async def _look(self, session: aiohttp.ClientSession) -> float:
        """Ask once; return the seconds until the next time."""
        began_s = self._clock()
        try:
            body = await self._ask(session)
            began_s = self._clock()
            self._hear(body)
        except (AgentError, DiscoveryError) as exc:
            return self._failed(str(exc))
        self._answered()
        return max(self._interval_s, (self._clock() - began_s) / _BUSY_SHARE)

    async def _ask(self, session: aiohttp.ClientSession) -> bytes:
        """Return what the agent says of its tasks."""
        reasons = []
        for url in self._candidates():
            try:
                body = await self._ask_at(session, url)
            except AgentError as exc:
                reasons.append(f"{url}: {exc}")
            else:
                self._url = url
                return body
        raise AgentError("; ".join(reasons))

    def _candidates(self) -> list[str]:
        me = self._whoami.identity
        urls = candidates(me, default_gateway()) if self._setting == "auto" else [self._setting.rstrip("/")]
        return sorted(urls, key=lambda url: url != self._url)  # where it was before comes first

    async def _ask_at(self, session: aiohttp.ClientSession, url: str) -> bytes:
        body = b""
        for _ in range(2):
            body = await _get(session, f"{url}/v1/tasks")
            connection = self._connections
            if connection == self._checked and url == self._url:
                self._check(self._instance)
                return body
            try:
                found = of_agent(json.loads(await _get(session, f"{url}/v1/metadata")))
            except ValueError:
                raise AgentError("/v1/metadata is no JSON") from None
            self._check(found)
            self._checked = self._connections
            self._introduce(found)
            if connection == self._checked:
                return body
        return body  # it closes every connection; but it has said who it is before and after this answer

    def _check(self, found: Identity) -> None:
        """Raise `AgentError` unless *found* is the instance we run on."""
        me = self._whoami.identity
        if not found.instance_arn:
            raise AgentError("it is no ECS agent, or its instance is not registered yet")
        if not _may_be_ours(found, self._cluster, self._region, self._account):
            raise AgentError(f"it is the agent of {found.cluster_arn}, not of {self._cluster}")
        for known, said in ((me.cluster_arn, found.cluster_arn), (self._expected(me), found.instance_arn)):
            if known and known != said:
                raise AgentError(f"it says it is {said}, but this is {known}")
        if (other := self._elsewhere(found)) is not None:
            raise AgentError(f"it is in {found.region}, account {found.account}, unlike {other}")
        instance = self._ledger.instances.get(found.instance_arn)
        if instance is not None and me.ec2_id and instance.ec2_id != me.ec2_id:
            raise AgentError(f"it says it is on {instance.ec2_id}, but this is {me.ec2_id}")

    def _expected(self, me: Identity) -> str:
        """Return the ARN of our instance: the API knows it if it knows our task."""
        task = self._ledger.task(me.task_arn) if me.task_arn else None
        return (task.instance_arn if task is not None else "") or self._instance.instance_arn

    def _elsewhere(self, found: Identity) -> str | None:
        """Return an instance of our cluster if that is a namesake's, in another Region or account."""
        known = self._ledger.instances
        other = next((arn for arn in known if arn != found.instance_arn), "")  # ours may be our own word
        arn = parse_arn(other)
        if arn is None or (arn.region, arn.account) == (found.region, found.account):
            return None
        return other

    def _introduce(self, found: Identity) -> None:
        if found != self._instance:
            log.info("following the ECS agent of %s", found.instance_arn)
            self._instance = found
            self._reader = Reader(found.instance_arn)
        self._whoami.learn(found)

    def _hear(self, body: bytes) -> None:
        assert self._reader is not None
        ledger, before, urgent = self._ledger, self._ledger.revision, self._ledger.urgent
        states = self._states()
        if self._reader.same(body) and before == self._revision:
            ledger.hear_agent_again(self._instance.instance_arn, by=self.name)
        else:  # also when only others have said something, which the agent may contradict
            sightings = self._reader.read(body)
            ledger.hear_agent(self._instance.instance_arn, sightings, by=self.name)
            self._groups.see(ledger.task(arn) for arn in ledger.on_instance(self._instance.instance_arn))
        self._hear_of_machine()
        undescribed = self._undescribed.keys()
        urgent = ledger.urgent - urgent
        after = self._states()
        self._presume()
        self._revision = ledger.revision
        # A task that is to be described changes nothing yet, but somebody has to ask.
        if self._revision != before or self._undescribed.keys() - undescribed or urgent:
            self._heard()
        started = {key for kind, key in urgent if kind == "task"}
        if turned := started | {arn for arn, state in states.items() if after.get(arn) != state}:
            self._tell(turned)

    def _states(self) -> dict[str, tuple[str, str]]:
        here = self._ledger.on_instance(self._instance.instance_arn)
        tasks = [task for arn in here if (task := self._ledger.task(arn)) is not None]
        return {task.arn: (task.last_status, task.desired_status) for task in tasks}

    def _presume(self) -> None:
        """Give the tasks that nobody describes to the service they must belong to."""
        waiting = self._ledger.undescribed
        now_s = self._clock()
        self._undescribed = {arn: self._undescribed.get(arn, now_s) for arn in waiting}
        overdue = {arn for arn, since_s in self._undescribed.items() if now_s - since_s > _API_PATIENCE_S}
        if not overdue or self._presumed == (self._ledger.revision, overdue):
            return
        self._groups.see(self._ledger.tasks())
        for arn in overdue:
            _, sighting = waiting[arn]
            if group := self._groups.only(definition_arn(sighting)):
                self._ledger.presume(arn, group)
        self._presumed = (self._ledger.revision, overdue)

    def _hear_of_machine(self) -> None:
        """Tell the address of our own instance, and, if the API does not, that the instance exists."""
        me, arn = self._whoami.identity, self._instance.instance_arn
        if not me.ec2_id or not me.address:
            return
        if me.ec2_id not in self._ledger.addresses:
            self._ledger.hear_address(me.ec2_id, me.address)
        if arn not in self._ledger.instances and self._clock() - self._began_s > _API_PATIENCE_S:
            self._ledger.hear_instance(ContainerInstance(arn=arn, ec2_id=me.ec2_id, zone=me.zone))

    def _answered(self) -> None:
        if self._told:
            log.info("the ECS agent at %s answers again", self._url)
        self._told = False
        self._silent_since_s = self._clock()

    def _failed(self, why: str) -> float:
        silent_s = self._clock() - self._silent_since_s
        if silent_s >= _PATIENCE_S and not self._told:
            self._told = True
            self._ledger.hear_agent_lost(self._instance.instance_arn)
            level = logging.WARNING if self._reader or self._setting != "auto" else logging.INFO
            log.log(level, "the tasks of this instance are followed through the ECS API alone: %s", why)
        if self._reader or silent_s < _PATIENCE_S:
            return min(_BACK_OFF_S, max(self._interval_s, silent_s))
        return _NOBODY_S


def candidates(me: Identity, gateway: str) -> list[str]:
    """Return where the agent of our instance may be asked, the likeliest first.

    Its port answers on loopback and, for containers in bridge mode, on Docker's gateway; packets from there
    to the address of the instance itself arrive too. Elsewhere its firewall rules drop them. The gateway of
    a task in another mode is a router, which is not asked.
    """
    hosts = []
    if me.network_mode != "bridge":
        hosts.append("127.0.0.1")
    if me.network_mode == "bridge" and gateway:
        hosts.append(gateway)
    if me.address:
        hosts.append(f"[{me.address}]" if ":" in me.address else me.address)
    return [f"http://{host}:{PORT}" for host in hosts]


def _may_be_ours(identity: Identity, cluster: str, region: str, account: str) -> bool:
    """Return whether *identity* is in *cluster* (name or ARN), as far as it and we know ("": unknown)."""
    for ours, its in ((region, identity.region), (account, identity.account)):
        if ours and its and ours != its:
            return False
    if not identity.cluster:
        return True
    return cluster == identity.cluster_arn if cluster.startswith("arn:") else cluster == identity.cluster


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    try:
        async with session.get(url, allow_redirects=False) as response:
            body = await body_of(response, _MOST_BYTES)
            if response.status != 200:
                raise AgentError(f"status {response.status}")
            return body
    except (aiohttp.ClientError, OSError, TooLargeError) as exc:
        raise AgentError(_in_words(exc)) from None


def _in_words(exc: Exception) -> str:
    if isinstance(exc, TooLargeError):
        return f"its answer is {exc}"
    if isinstance(exc, TimeoutError):
        return f"no answer within {_TIMEOUT_S:.0f} s"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return str(exc.os_error.strerror or "cannot connect").lower()
    return f"the connection failed ({type(exc).__name__})"
