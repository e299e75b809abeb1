"""Finding out who we are: task metadata first, then the metadata of the machine. Neither has to exist."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Self

import aiohttp

from discovery.answers import body_of
from discovery.identity import NOBODY, Identity, join, of_instance, of_task
from discovery.imds import Imds, ImdsError

log = logging.getLogger("anyport.discovery")

PATIENCE_S: Final = 2.0  # nobody waits longer for the first answers
_TIMEOUT_S: Final = 1.0
_RETRY_S: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)  # then it is taken that there is nothing to learn
_MOST_BYTES: Final = 1 << 20
TASK_METADATA: Final = "ECS_CONTAINER_METADATA_URI_V4"


class Whoami:
    """Who we are, as far as it is known: `identity` grows while `run` does.

    Nothing is asked before somebody wants to know: a proxy of static addresses asks nobody.
    """

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._environ = environ
        self._sleep = sleep
        self._wanted = asyncio.Event()
        self._asked = asyncio.Event()
        self.identity = NOBODY

    @classmethod
    def told(cls, identity: Identity) -> Self:
        """Return one that knows already, and asks nobody."""
        made = cls({})
        made.identity = identity
        made._asked.set()
        return made

    async def known(self) -> Identity:
        """Return who we are after everybody has been asked once; at most `PATIENCE_S` later in any case."""
        self._wanted.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._asked.wait()
        return self.identity

    def learn(self, more: Identity) -> None:
        """Add what somebody else has found out, such as the agent's word on our container instance."""
        self.identity = join(self.identity, more)

    async def run(self) -> None:
        """Ask until there is nothing left to learn. Never raises for trouble of the outside world."""
        await self._wanted.wait()
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S), cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            imds = Imds(session, self._environ)
            said = ""
            for pause_s in (*_RETRY_S, None):
                complete = await self._ask(session, imds)
                self._asked.set()
                if said != (said := in_words(self.identity)):
                    log.info("we are %s", said)
                if complete or pause_s is None:
                    break
                await self._sleep(pause_s)

    async def _ask(self, session: aiohttp.ClientSession, imds: Imds) -> bool:
        """Ask for what is not known yet; return whether nothing more can be learned."""
        task_told = not self._environ.get(TASK_METADATA) or bool(self.identity.task_arn)
        if not task_told:
            self.learn(of_task(await _fetch(session, f"{self._environ[TASK_METADATA]}/task")))
            task_told = bool(self.identity.task_arn)
        machine_told = not imds.enabled or self.identity.launch_type in ("FARGATE", "EXTERNAL")
        if not machine_told and not self.identity.ec2_id:
            with contextlib.suppress(ImdsError, ValueError):
                document = await imds.get("dynamic/instance-identity/document")
                self.learn(of_instance(json.loads(document or b"{}")))
        return task_told and (machine_told or bool(self.identity.ec2_id))


async def find_identity(environ: Mapping[str, str] = os.environ) -> Identity:
    """Return what can be found out about us within `PATIENCE_S`."""
    whoami = Whoami(environ)
    asking = asyncio.create_task(whoami.run(), name="who am I")
    try:
        return await whoami.known()
    finally:
        asking.cancel()


def in_words(identity: Identity) -> str:
    """Return one line for the log."""
    said = {
        "task": identity.task_arn.rpartition("/")[2],
        "of service": identity.service,
        "in cluster": identity.cluster,
        "on": identity.ec2_id or identity.instance_arn.rpartition("/")[2],
        "in zone": identity.zone,
    }
    return ", ".join(f"{name} {value}" for name, value in said.items() if value) or "not on ECS or EC2"


async def _fetch(session: aiohttp.ClientSession, url: str) -> object:
    """Return the JSON at *url*, None if there is none."""
    try:
        async with session.get(url, allow_redirects=False) as response:
            body = await body_of(response, _MOST_BYTES)
            return json.loads(body) if response.status == 200 else None
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        log.debug("no answer at %s (%s)", url, type(exc).__name__)
        return None
